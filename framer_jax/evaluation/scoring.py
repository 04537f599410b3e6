"""Scores of pairs of images, in batches of equal size; what has no score is listed with the reason."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from framer_jax.data.image_names import examples
from framer_jax.evaluation.files import Pixels, compared_pixels
from framer_jax.evaluation.metrics import METRICS, Network, score
from framer_jax.evaluation.niqe import NiqeModel
from framer_jax.evaluation.pairs import Pair, PairSize
from framer_jax.evaluation.seams import TileLines
from framer_jax.images.decode import read_image
from framer_jax.images.image_data import ImageData

_BATCH_IMAGES = 8
_BATCH_PIXELS = 4_000_000


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


class Note(NamedTuple):
    """What is to be said of an image that has its scores: `text` in a few words, without the image's name."""

    image: str
    text: str


class Scored(NamedTuple):
    """The scores of pairs.

    Attributes:
      values: metric id → scores [N] float32, NaN where a pair has none.
      failures: why, in the order of the pairs.
      notes: what was ignored or converted.
    """

    values: dict[str, Pixels]
    failures: tuple[Failure, ...]
    notes: tuple[Note, ...]


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
    """Raise a ValueError if no image is large enough for a metric, before any image is scored.

    The message names the metrics that are not too demanding for them all.
    """
    border = settings.crop_border
    known = [
        (pair.name, (size.image[0] - 2 * border, size.image[1] - 2 * border))
        for pair, size in zip(pairs, sizes, strict=True)
        if isinstance(size.image, tuple)
    ]
    fitting = [name for name in settings.ids if any(METRICS[name].fits(*size) for _, size in known)]
    remedy = f"score the others with --metrics {','.join(fitting)}" if fitting else "score larger images"
    remedy += f", or set a smaller --crop-border than {border}" * bool(border)
    for name in settings.ids:
        if known and name not in fitting:
            raise ValueError(
                f"{len(known)} image(s) too small for {name} (it needs {METRICS[name].smallest}"
                f"{f' inside a border of {border} pixels' * bool(border)}): "
                f"{examples([image for image, _ in known])}: {remedy}"
            )


def score_pairs(
    pairs: Sequence[Pair],
    sizes: Sequence[PairSize],
    settings: ScoreSettings,
    advance: Callable[[int], object],
    save: Callable[[Scored], object] = lambda scored: None,
    allow_none: bool = False,
) -> Scored:
    """Score all pairs.

    Args:
      pairs: images and references.
      sizes: from framer_jax.evaluation.pairs.pair_sizes.
      settings: what is computed.
      advance: called with the number of pairs that are done.
      save: called with the scores so far, after each batch.
      allow_none: whether it may be that no image has any score, because others have.

    Raises:
      ValueError: no image has any score, unless that is allowed; the message has the first reason.
    """
    values = {name: np.full(len(pairs), np.nan, np.float32) for name in settings.ids}
    order = {pair.name: index for index, pair in enumerate(pairs)}
    failures = _failures_by_size(pairs, sizes, settings)
    notes: list[Note] = []

    def scored() -> Scored:
        in_order = sorted(failures, key=lambda failure: order[failure.image])
        return Scored(
            values, tuple(in_order), tuple(sorted(set(notes), key=lambda note: (order[note.image], note.text)))
        )

    for members, batch in _batches(sizes):
        comparable = [not isinstance(sizes[index].reference, str) for index in members]
        part = _score_files([pairs[index] for index in members], comparable, settings, batch)
        failures += part.failures
        notes += part.notes
        for name in settings.ids:
            values[name][members] = part.values[name]
        save(scored())
        advance(len(members))
    result = scored()
    if not allow_none and all(np.isnan(scores).all() for scores in values.values()):
        reason = result.failures[0].reason
        raise ValueError(reason + (f" ({len(pairs)} images, none has a score)" if len(pairs) > 1 else ""))
    return result


def _failures_by_size(pairs: Sequence[Pair], sizes: Sequence[PairSize], settings: ScoreSettings) -> list[Failure]:
    """The images, and references, that cannot be scored by their headers."""
    failures = []
    compares = tuple(name for name in settings.ids if METRICS[name].needs_reference)
    for pair, size in zip(pairs, sizes, strict=True):
        if isinstance(size.image, str):
            failures.append(Failure(pair.name, settings.ids, size.image))
        elif isinstance(size.reference, str) and compares:
            failures.append(Failure(pair.name, compares, size.reference))
    return failures


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


def _score_files(pairs: Sequence[Pair], comparable: Sequence[bool], settings: ScoreSettings, batch: int) -> Scored:
    """Score at most `batch` pairs of equal size, those that are not comparable without their references."""
    values = {name: np.full(len(pairs), np.nan, np.float32) for name in settings.ids}
    failures: list[Failure] = []
    notes: list[Note] = []
    compares = tuple(name for name in settings.ids if METRICS[name].needs_reference)
    others = tuple(name for name in settings.ids if name not in compares)
    images: dict[int, ImageData] = {}
    references: dict[int, ImageData] = {}

    def read(path: Path, into: dict[int, ImageData], index: int, ids: tuple[str, ...]) -> None:
        try:
            into[index] = read_cropped(path, settings.mod_crop)
        except (ValueError, OSError) as error:
            failures.append(Failure(pairs[index].name, ids, str(error)))

    compared = {}
    for index, pair in enumerate(pairs):
        read(pair.image, images, index, settings.ids)
        if index not in images:
            continue
        notes += [Note(pair.name, text) for text in image_notes(images[index])]
        if compares and comparable[index] and pair.reference is not None:
            read(pair.reference, references, index, compares)
        if index in references:
            try:
                compared[index] = compared_pixels(images[index], references[index])
                notes += [Note(pair.name, text) for text in compared[index].notes]
            except ValueError as error:
                failures.append(Failure(pair.name, compares, f"{pair.image}: {error}"))
    alone = {index: image.pixels for index, image in images.items()}
    first = {index: pixels.image for index, pixels in compared.items()}
    second = {index: pixels.reference for index, pixels in compared.items()}
    for ids, taken, other in ((compares, first, second), (others, alone, None)):
        needed = sorted(taken)
        if ids and needed:
            matched = None if other is None else [other[index] for index in needed]
            scores, reasons = _score_images([taken[index] for index in needed], matched, ids, settings, batch)
            failures += [
                Failure(pairs[needed[position]].name, (name,), f"{pairs[needed[position]].image}: {reason}")
                for (name, position), reason in reasons.items()
            ]
            for name in ids:
                values[name][needed] = scores[name]
    return Scored(values, tuple(failures), tuple(notes))


def read_cropped(path: Path, mod_crop: int = 1) -> ImageData:
    """An image with sides cropped, at the right and the bottom, to multiples of `mod_crop`.

    Raises:
      ValueError: not an image, or damaged.
    """
    image = read_image(path)
    height, width = (side - side % mod_crop for side in image.shape[:2])
    alpha = None if image.alpha is None else image.alpha[:height, :width]
    return image._replace(pixels=image.pixels[:height, :width], alpha=alpha)


def image_notes(image: ImageData) -> tuple[str, ...]:
    """What scoring an image ignores."""
    return (*(("its transparency is ignored",) if image.alpha is not None else ()), *image.notes)


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
