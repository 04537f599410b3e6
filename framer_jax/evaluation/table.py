"""Scores of a folder of images: pairing with references, scoring by size, and tables as text, CSV and JSON."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from framer_jax.evaluation.files import image_files, image_size, read_pixels
from framer_jax.evaluation.metrics import METRICS, check_metric_inputs, score
from framer_jax.evaluation.niqe import NiqeModel, load_niqe_model, shipped_niqe_model
from framer_jax.evaluation.statistics import bootstrap_interval
from framer_jax.inference.result_files import sidecar_path
from framer_jax.porting.files import atomic_write
from framer_jax.version import __version__

_BATCH_IMAGES = 8
_BATCH_PIXELS = 4_000_000


class Pair(NamedTuple):
    """An image to score and its optional reference; `name` is unique among the pairs."""

    name: str
    image: Path
    reference: Path | None


class Summary(NamedTuple):
    """Mean of a metric over images, and the bounds of its bootstrap interval."""

    mean: float
    low: float
    high: float


class Evaluation(NamedTuple):
    """The scores of a folder.

    Attributes:
      pairs: the scored images, sorted by name.
      values: metric id to the scores of the pairs, [N] float32.
      summary: metric id to its mean and interval.
      metadata: what is needed to compare the numbers: version, metric variants, border, model hashes, settings.
    """

    pairs: tuple[Pair, ...]
    values: dict[str, npt.NDArray[np.float32]]
    summary: dict[str, Summary]
    metadata: dict[str, Any]


def _examples(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")


def _by_name(folder: Path, files: Sequence[Path], whole_path: bool) -> dict[str, Path]:
    """Name to file; the name is the stem, or the path within the folder without its suffix."""
    named: dict[str, Path] = {}
    for path in files:
        name = path.relative_to(folder).with_suffix("").as_posix() if whole_path else path.stem
        if name in named:
            raise ValueError(f"{named[name]} and {path} have the same name: rename or remove one of them")
        named[name] = path
    return named


def pair_files(
    sr_dir: str | Path, reference_dir: str | Path | None = None, allow_unmatched: bool = False
) -> tuple[tuple[Pair, ...], tuple[str, ...]]:
    """Pair the images of two folders (searched recursively) by stem, whatever their suffixes.

    If a stem occurs twice in a folder, paths within the folders are compared in place of stems.

    Args:
      sr_dir: the images to score.
      reference_dir: their references, or None.
      allow_unmatched: skip images without a partner instead of raising an error.

    Returns:
      the pairs sorted by name, and the names that were skipped.

    Raises:
      FileNotFoundError: no such folder.
      ValueError: no images, two files with the same name, or images without a partner.
    """
    folders = [Path(folder) for folder in (sr_dir, reference_dir) if folder is not None]
    listed = [image_files(folder) for folder in folders]
    whole_path = any(len({path.stem for path in files}) < len(files) for files in listed)
    named = [_by_name(folder, files, whole_path) for folder, files in zip(folders, listed, strict=True)]
    images = named[0]
    if reference_dir is None:
        return tuple(Pair(name, images[name], None) for name in sorted(images)), ()
    references = named[1]
    common = sorted(images.keys() & references.keys())
    left_out = sorted(images.keys() ^ references.keys())
    if not common:
        raise ValueError(
            f"no image of {sr_dir} has a reference of the same name in {reference_dir} "
            f"({_examples(sorted(images))} against {_examples(sorted(references))})"
        )
    if left_out and not allow_unmatched:
        without_reference = sorted(images.keys() - references.keys())
        without_result = sorted(references.keys() - images.keys())
        parts = [
            f"{len(names)} of {folder} without a {partner} ({_examples(names)})"
            for names, folder, partner in (
                (without_reference, sr_dir, "reference"),
                (without_result, reference_dir, "result"),
            )
            if names
        ]
        raise ValueError(f"images without a partner: {'; '.join(parts)}; --allow-unmatched scores the others")
    return tuple(Pair(name, images[name], references[name]) for name in common), tuple(left_out)


def _sizes(pairs: Sequence[Pair]) -> list[tuple[int, int]]:
    """The size of each pair; raises a ValueError if image and reference differ in size."""
    sizes = [image_size(pair.image) for pair in pairs]
    differing = []
    for pair, size in zip(pairs, sizes, strict=True):
        if pair.reference is not None and (other := image_size(pair.reference)) != size:
            differing.append(f"{pair.name} {size[1]}x{size[0]} against {other[1]}x{other[0]}")
    if differing:
        raise ValueError(
            f"{len(differing)} image(s) differ in size (width x height) from their reference: {_examples(differing)}"
        )
    return sizes


def _check_sizes(pairs: Sequence[Pair], sizes: Sequence[tuple[int, int]], ids: Sequence[str], crop_border: int) -> None:
    """Raise a ValueError if images are too small for a metric, before any image is scored."""
    for name in ids:
        inner = [(height - 2 * crop_border, width - 2 * crop_border) for height, width in sizes]
        small = [pair.name for pair, size in zip(pairs, inner, strict=True) if not METRICS[name].fits(*size)]
        if small:
            raise ValueError(
                f"{len(small)} image(s) too small for {name} (SSIM needs 11x11 pixels, NIQE two blocks of 96x96): "
                f"{_examples(small)}"
            )


def _batches(sizes: Sequence[tuple[int, int]]) -> Iterator[tuple[list[int], int]]:
    """Batches of indices of images with equal size, each with the batch size of the compiled program for that size."""
    groups: dict[tuple[int, int], list[int]] = {}
    for index, size in enumerate(sizes):
        groups.setdefault(size, []).append(index)
    for (height, width), members in groups.items():
        batch = max(1, min(_BATCH_IMAGES, len(members), _BATCH_PIXELS // (height * width)))
        for start in range(0, len(members), batch):
            yield members[start : start + batch], batch


def _score_files(
    pairs: Sequence[Pair], ids: Sequence[str], model: NiqeModel | None, crop_border: int, batch: int
) -> dict[str, npt.NDArray[np.float32]]:
    """Score pairs of equal size in a batch padded to `batch` by repeating the last pair; an error names the image."""

    def stack(paths: list[Path]) -> npt.NDArray[np.float32]:
        pixels = [read_pixels(path) for path in paths]
        return np.stack(pixels + pixels[-1:] * (batch - len(pixels)))

    images = stack([pair.image for pair in pairs])
    paths = [pair.reference for pair in pairs if pair.reference is not None]
    references = stack(paths) if paths else None
    try:
        scores = score(images, references, ids, model, crop_border)
    except ValueError as error:
        if len(pairs) == 1:
            raise ValueError(f"{pairs[0].image}: {error}") from error
        # One by one, so that the image that causes the error raises it with its name.
        single = [_score_files([pair], ids, model, crop_border, 1) for pair in pairs]
        scores = {name: np.concatenate([entry[name] for entry in single]) for name in ids}
    return {name: values[: len(pairs)] for name, values in scores.items()}


def _metadata(
    ids: Sequence[str], model: NiqeModel | None, crop_border: int, count: int, left_out: Sequence[str]
) -> dict[str, Any]:
    metrics: dict[str, Any] = {}
    for name in ids:
        row = METRICS[name]
        metrics[name] = {"variant": row.description, "higher_is_better": row.higher_is_better}
        used = model if row.needs_niqe_model else shipped_niqe_model() if name == "niqe-framer" else None
        if used is not None:
            metrics[name] |= {"niqe_model": used.name, "niqe_model_sha256": used.sha256}
    return {
        "framer_jax": __version__,
        "jax": jax.__version__,
        "crop_border": crop_border,
        "images": count,
        "left_out": list(left_out),
        "metrics": metrics,
    }


def upscale_settings(images: Sequence[Path]) -> dict[str, Any]:
    """Summarise the records that `framer-jax upscale` writes next to its images.

    Returns:
      'recorded': the number of images that have a record; and if there are any, lists of the distinct values of
      'recipe', 'checkpoint' (its digest), 'protocol', 'mode', 'color_fix' and 'changes' (of the sampler's knobs).
    """
    summary: dict[str, Any] = {"recorded": 0}
    for image in images:
        try:
            record = json.loads(sidecar_path(image).read_text(encoding="utf-8"))
            settings = record["settings"]
            facts = {name: settings[name] for name in ("protocol", "mode", "color_fix")}
            facts |= {"recipe": record["recipe"], "changes": record.get("changes", {})}
            facts["checkpoint"] = (record["checkpoint"] or {}).get("sha256")
        except (OSError, ValueError, KeyError, TypeError):  # no record, or one of another program
            continue
        summary["recorded"] += 1
        for name, value in facts.items():
            if value not in (values := summary.setdefault(name, [])):
                values.append(value)
    return summary


def evaluate(
    sr_dir: str | Path,
    reference_dir: str | Path | None,
    metric_ids: Sequence[str],
    *,
    niqe_model: str | Path | None = None,
    crop_border: int = 0,
    allow_unmatched: bool = False,
    csv_path: str | Path | None = None,
    json_path: str | Path | None = None,
    overwrite: bool = False,
    seed: int = 0,
    resamples: int = 2000,
    console: Console | None = None,
) -> Evaluation:
    """Score the images of a folder, with references if metrics need them; print and write the table.

    Args:
      sr_dir: the images to score, searched recursively.
      reference_dir: references of the same names and sizes, or None.
      metric_ids: keys of `METRICS`.
      niqe_model: path of the pristine model of `niqe` and `niqe-pyiqa`.
      crop_border: pixels ignored on every side.
      allow_unmatched: skip images without a partner.
      csv_path: file for the scores, one row per image.
      json_path: file for the scores of each image, summary and metadata.
      overwrite: replace these two files if they exist.
      seed: seed of the bootstrap.
      resamples: number of bootstrap resamples.
      console: where progress and table are printed; None for no output.

    Raises:
      FileExistsError: an output file exists and `overwrite` is False.
      FileNotFoundError: a folder or the model does not exist.
      ValueError: unknown metrics, missing references, images that are damaged, of the wrong size or too small.
    """
    outputs = [Path(path) for path in (csv_path, json_path) if path is not None]
    for path in outputs:
        if path.exists() and not overwrite:
            raise FileExistsError(f"{path} exists: choose another name or allow overwriting")
    model = None if niqe_model is None else load_niqe_model(niqe_model)
    ids = check_metric_inputs(metric_ids, reference_dir is not None, model)
    if not any(METRICS[name].needs_reference for name in ids):
        reference_dir = None  # no metric uses references, so they are not paired
    pairs, left_out = pair_files(sr_dir, reference_dir, allow_unmatched)
    sizes = _sizes(pairs)
    _check_sizes(pairs, sizes, ids, crop_border)
    values = {name: np.zeros(len(pairs), np.float32) for name in ids}
    with Progress(console=console, disable=console is None, transient=True) as progress:
        task = progress.add_task("scoring", total=len(pairs))
        for members, batch in _batches(sizes):
            scores = _score_files([pairs[index] for index in members], ids, model, crop_border, batch)
            for name in ids:
                values[name][members] = scores[name]
            progress.advance(task, len(members))
    summary = {name: summarise(scores, seed, resamples) for name, scores in values.items()}
    metadata = _metadata(ids, model, crop_border, len(pairs), left_out)
    metadata["made"] = upscale_settings([pair.image for pair in pairs])
    metadata["bootstrap"] = {"seed": seed, "resamples": resamples, "level": 0.95}
    evaluation = Evaluation(pairs, values, summary, metadata)
    if csv_path is not None:
        write_csv(evaluation, csv_path)
    if json_path is not None:
        write_json(evaluation, json_path)
    if console is not None:
        console.print(summary_table(evaluation.summary, len(pairs)))
        if left_out:
            console.print(f"{len(left_out)} without a partner skipped: {_examples(left_out)}")
    return evaluation


def summarise(values: npt.ArrayLike, seed: int = 0, resamples: int = 2000) -> Summary:
    """Mean over images with its 95 % bootstrap interval; errors as in `bootstrap_interval`."""
    return Summary(float(np.mean(np.asarray(values, np.float64))), *bootstrap_interval(values, seed, resamples))


def summary_table(summary: Mapping[str, Summary], images: int) -> Table:
    """The printed table, with one row per metric."""
    table = Table(title=f"{images} image{'s' if images != 1 else ''}", title_justify="left")
    for heading in ("metric", "mean", "95 % interval"):
        table.add_column(heading, justify="left" if heading == "metric" else "right")
    table.add_column("variant")
    for name, (mean, low, high) in summary.items():
        row = METRICS[name]
        interval = "-" if np.isnan(low) else f"{low:.4f} .. {high:.4f}"
        table.add_row(f"{name} {'↑' if row.higher_is_better else '↓'}", f"{mean:.4f}", interval, row.description)
    return table


def write_csv(evaluation: Evaluation, path: str | Path) -> None:
    """Write one row per image with its name and one column per metric, to six decimals."""
    with atomic_write(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["image", *evaluation.values])
        for index, pair in enumerate(evaluation.pairs):
            writer.writerow([pair.name, *(f"{scores[index]:.6f}" for scores in evaluation.values.values())])


def write_json(evaluation: Evaluation, path: str | Path) -> None:
    """Write metadata, summary and the scores of each image; an undefined interval is null."""
    summary = {
        name: {key: None if np.isnan(value) else value for key, value in entry._asdict().items()}
        for name, entry in evaluation.summary.items()
    }
    images = [
        {"image": pair.name, "file": str(pair.image), "reference": pair.reference and str(pair.reference)}
        | {name: float(scores[index]) for name, scores in evaluation.values.items()}
        for index, pair in enumerate(evaluation.pairs)
    ]
    with atomic_write(path) as temporary:
        text = json.dumps({"metadata": evaluation.metadata, "summary": summary, "images": images}, indent=1)
        temporary.write_text(text + "\n", encoding="utf-8")
