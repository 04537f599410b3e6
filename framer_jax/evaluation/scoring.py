"""Scores of pairs of images, in batches of equal size; what has no score is listed with the reason."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from framer_jax.evaluation.metrics import METRICS, Network, score
from framer_jax.evaluation.niqe import NiqeModel
from framer_jax.evaluation.pairs import Pair, PairSize, examples, read_cropped
from framer_jax.evaluation.seams import TileLines

_BATCH_IMAGES = 8
_BATCH_PIXELS = 4_000_000

Pixels = npt.NDArray[np.float32]


class Failure(NamedTuple):
    """An image that has no score by some metrics.

    Attributes:
      image: name of the pair.
      metrics: the metrics' ids.
      reason: why, in one line.
    """

    image: str
    metrics: tuple[str, ...]
    reason: str


class ScoreSettings(NamedTuple):
    """What is computed.

    Attributes:
      ids: keys of `METRICS`.
      niqe_model: pristine model of `niqe` and `niqe-pyiqa`.
      crop_border: pixels ignored on every side.
      mod_crop: sides are first cropped to multiples of this.
      networks: networks of perceptual and learned metrics by id.
      tile_lines: where tiles meet, for `seam`.
    """

    ids: tuple[str, ...]
    niqe_model: NiqeModel | None = None
    crop_border: int = 0
    mod_crop: int = 1
    networks: Mapping[str, Network] = {}
    tile_lines: TileLines | None = None


def check_sizes(pairs: Sequence[Pair], sizes: Sequence[PairSize], settings: ScoreSettings) -> None:
    """Raise a ValueError if no image is large enough for a metric, before any image is scored."""
    border = settings.crop_border
    known = [
        (pair.name, (size.image[0] - 2 * border, size.image[1] - 2 * border))
        for pair, size in zip(pairs, sizes, strict=True)
        if isinstance(size.image, tuple)
    ]
    for name in settings.ids:
        if known and not any(METRICS[name].fits(*size) for _, size in known):
            raise ValueError(
                f"{len(known)} image(s) too small for {name} (it needs {METRICS[name].smallest}): "
                f"{examples([image for image, _ in known])}"
            )


def score_pairs(
    pairs: Sequence[Pair], sizes: Sequence[PairSize], settings: ScoreSettings, advance: Callable[[int], object]
) -> tuple[dict[str, Pixels], tuple[Failure, ...]]:
    """Score all pairs.

    Args:
      pairs: images and references of equal sizes.
      sizes: from framer_jax.evaluation.pairs.pair_sizes.
      settings: what is computed.
      advance: called with the number of pairs that are done.

    Returns:
      metric id → scores [N] float32, NaN where a pair has none; and why, in the order of the pairs.

    Raises:
      ValueError: no image has any score; the message has the first reason.
    """
    values = {name: np.full(len(pairs), np.nan, np.float32) for name in settings.ids}
    failures = [
        Failure(pair.name, settings.ids, size.image)
        for pair, size in zip(pairs, sizes, strict=True)
        if isinstance(size.image, str)
    ]
    for members, batch in _batches(sizes):
        scores, failed = _score_files([pairs[index] for index in members], settings, batch)
        failures += failed
        for name in settings.ids:
            values[name][members] = scores[name]
        advance(len(members))
    if all(np.isnan(scores).all() for scores in values.values()):
        raise ValueError(failures[0].reason + (f" ({len(pairs)} images, none has a score)" if len(pairs) > 1 else ""))
    order = {pair.name: index for index, pair in enumerate(pairs)}
    return values, tuple(sorted(failures, key=lambda failure: order[failure.image]))


def _batches(sizes: Sequence[PairSize]) -> Iterator[tuple[list[int], int]]:
    """Batches of indices of images with equal size, each with the batch size of the compiled program for that size.

    Images that cannot be read are in no batch.
    """
    groups: dict[tuple[int, int], list[int]] = {}
    for index, size in enumerate(sizes):
        if isinstance(size.image, tuple):
            groups.setdefault(size.image, []).append(index)
    for (height, width), members in groups.items():
        batch = max(1, min(_BATCH_IMAGES, len(members), _BATCH_PIXELS // (height * width)))
        for start in range(0, len(members), batch):
            yield members[start : start + batch], batch


def _score_files(pairs: Sequence[Pair], settings: ScoreSettings, batch: int) -> tuple[dict[str, Pixels], list[Failure]]:
    """Score at most `batch` pairs of equal size: metric id → [number of pairs], and what has no score."""
    values = {name: np.full(len(pairs), np.nan, np.float32) for name in settings.ids}
    failures: list[Failure] = []
    with_reference = tuple(name for name in settings.ids if METRICS[name].needs_reference)
    images: dict[int, Pixels] = {}
    references: dict[int, Pixels] = {}

    def read(path: Path, into: dict[int, Pixels], index: int, ids: tuple[str, ...]) -> None:
        try:
            into[index] = read_cropped(path, settings.mod_crop)
        except (ValueError, OSError) as error:
            failures.append(Failure(pairs[index].name, ids, str(error)))

    for index, pair in enumerate(pairs):
        read(pair.image, images, index, settings.ids)
        if index in images and pair.reference is not None:
            read(pair.reference, references, index, with_reference)
    for ids in (with_reference, tuple(name for name in settings.ids if name not in with_reference)):
        needed = sorted(references if ids == with_reference else images)
        if ids and needed:
            pixels = [images[index] for index in needed]
            compared = [references[index] for index in needed] if ids == with_reference else None
            scores, reasons = _score_images(pixels, compared, ids, settings, batch)
            failures += [
                Failure(pairs[needed[position]].name, (name,), f"{pairs[needed[position]].image}: {reason}")
                for (name, position), reason in reasons.items()
            ]
            for name in ids:
                values[name][needed] = scores[name]
    return values, failures


def _score_images(
    images: list[Pixels], references: list[Pixels] | None, ids: Sequence[str], settings: ScoreSettings, batch: int
) -> tuple[dict[str, Pixels], dict[tuple[str, int], str]]:
    """Score images [H, W, 3] in a batch padded to `batch` by repeating the last one.

    Returns:
      metric id → [number of images], NaN where the metric is undefined; and (metric id, index) → why.
    """

    def stack(arrays: list[Pixels]) -> Pixels:
        return np.stack(arrays + arrays[-1:] * (batch - len(arrays)))

    options = (settings.niqe_model, settings.crop_border, settings.networks, settings.tile_lines)
    height, width = (side - 2 * settings.crop_border for side in images[0].shape[:2])
    if len(ids) == 1 and not METRICS[ids[0]].fits(height, width):
        reason = f"too small for {ids[0]} (it needs {METRICS[ids[0]].smallest})"
        reasons = {(ids[0], index): reason for index in range(len(images))}
        return {ids[0]: np.full(len(images), np.nan, np.float32)}, reasons
    try:
        padded = score(stack(images), None if references is None else stack(references), ids, *options)
        scores = {name: values[: len(images)] for name, values in padded.items()}
        return scores, {
            (name, int(index)): METRICS[name].undefined
            for name, values in scores.items()
            for index in np.flatnonzero(np.isnan(values))
        }
    except ValueError as error:
        if len(ids) == 1 and len(images) == 1:
            return {ids[0]: np.full(1, np.nan, np.float32)}, {(ids[0], 0): str(error)}
    # Metric by metric, then image by image, so that what is undefined for one image is missing there only.
    scores, reasons = {}, {}
    for name in ids:
        parts = [list(range(len(images)))] if len(ids) > 1 else [[index] for index in range(len(images))]
        columns = []
        for part in parts:
            compared = None if references is None else [references[index] for index in part]
            column, missing = _score_images([images[index] for index in part], compared, (name,), settings, batch)
            columns.append(column[name])
            reasons |= {(name, part[position]): reason for (_, position), reason in missing.items()}
        scores[name] = np.concatenate(columns)
    return scores, reasons
