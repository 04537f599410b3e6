"""Scores of folders of SR images, kept on disk, and the table of their means: what tools/quality_table.py prints."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from framer_jax.evaluation.metrics import METRICS
from framer_jax.evaluation.niqe import NiqeModel
from framer_jax.evaluation.pairs import Pair, pair_files, pair_sizes
from framer_jax.evaluation.perceptual import NETS, is_installed, load_networks, missing_weights
from framer_jax.evaluation.provenance import metric_entries
from framer_jax.evaluation.report import MISSING, Summary, number_or_none, summarise
from framer_jax.evaluation.scoring import ScoreSettings, score_pairs
from framer_jax.porting.files import atomic_write, sha256_of
from tools.quality_images import DataSet, digest_of_json, file_name

NUMBERS, SUMMARY = "scores.json", "summary.json"
"""Files of a report: all scores, and means only."""

COLUMNS = {
    "psnr-y": ("PSNR-Y", 2),
    "ssim-y": ("SSIM-Y", 3),
    "lpips-alex": ("LPIPS", 3),
    "dists": ("DISTS", 3),
    "niqe-pyiqa": ("NIQE", 2),
}
"""Metric → heading of its column and number of decimals."""

AT_ONCE = 8
"""Number of images that are scored before the scores are written to disk."""

ImageScores = dict[str, dict[str, float]]
"""Name of an image → metric → score; NaN where the metric is undefined."""


class Row(NamedTuple):
    """A row of a table.

    Attributes:
      label: the way to upscale.
      pairs: its images and their references, sorted by name.
      scores: those of its images.
    """

    label: str
    pairs: tuple[Pair, ...]
    scores: ImageScores


def usable_metrics(
    requested: Sequence[str], niqe_model: NiqeModel | None, lpips_files: Sequence[str], dists_files: Sequence[str]
) -> tuple[ScoreSettings, list[str]]:
    """The metrics whose weights are there, and a line for each of the others.

    Args:
      requested: keys of `COLUMNS`.
      niqe_model: pristine model, or None.
      lpips_files: weights of LPIPS; () for those of installed packages.
      dists_files: weights of DISTS; () for those of installed packages.

    Raises:
      ValueError, OSError, ImportError: an unknown metric, or a file that cannot be used.
    """
    ids, lines = [], []
    for name in dict.fromkeys(requested):
        if name not in COLUMNS:
            raise ValueError(f"--metrics: {name!r} is none of {', '.join(COLUMNS)}")
        named = dists_files if name == "dists" else lpips_files
        if name in NETS and not named and not is_installed(name):
            lines.append(missing_weights(name))
        elif METRICS[name].needs_niqe_model and niqe_model is None:
            lines.append(f"the metric {name} needs a pristine model: give its path (--niqe-model)")
        else:
            ids.append(name)
    networks = load_networks(ids, lpips_files, dists_files if "dists" in ids else ())
    return ScoreSettings(tuple(ids), niqe_model, networks=networks), lines


def settings_of(data_set: DataSet, settings: ScoreSettings) -> ScoreSettings:
    """The settings without the metrics that need references, if the data set has none."""
    if data_set.reference is not None:
        return settings
    return settings._replace(ids=tuple(name for name in settings.ids if not METRICS[name].needs_reference))


def score_folder(
    label: str,
    folder: Path,
    names: Collection[str],
    data_set: DataSet,
    settings: ScoreSettings,
    output: Path,
    advance: Callable[[int], object],
) -> Row:
    """The row of a folder of images; what was scored before is taken from disk.

    Args:
      label: name of the row.
      folder: SR images.
      names: of the images to score, without suffix; those that are not there yet are left out.
      data_set: its references are used.
      settings: from `settings_of`.
      output: folder of the whole report.
      advance: called with the number of scores that are done.

    Raises:
      ValueError, OSError: images and references of different sizes, or files that cannot be read.
    """
    pairs = tuple(pair for pair in _pairs(folder, data_set.reference) if pair.name in names)
    row = Row(label, pairs, {pair.name: {} for pair in pairs})
    for metric in settings.ids:
        of_metric = settings._replace(ids=(metric,))
        cache = _cache_file(output, folder, label, data_set, of_metric)
        for name, score in _scores(pairs, of_metric, cache, advance).items():
            row.scores[name][metric] = score
    return row


def _scores(
    pairs: Sequence[Pair], settings: ScoreSettings, cache: Path, advance: Callable[[int], object]
) -> dict[str, float]:
    """Name of an image → its score by the one metric of `settings`; those that `cache` lacks are written to it."""
    (metric,) = settings.ids
    known: dict[str, float] = json.loads(cache.read_text(encoding="utf-8")) if cache.is_file() else {}
    missing = [pair for pair in pairs if pair.name not in known]
    advance(len(pairs) - len(missing))
    for start in range(0, len(missing), AT_ONCE):
        part = missing[start : start + AT_ONCE]
        sizes = pair_sizes(part)
        try:
            values = score_pairs(part, sizes, settings, advance)[0][metric].tolist()
        except ValueError:  # the metric is undefined for all of them
            values = [float("nan")] * len(part)
        known |= {pair.name: value for pair, value in zip(part, values, strict=True)}
        with atomic_write(cache) as temporary:
            temporary.write_text(json.dumps(known) + "\n", encoding="utf-8")
    return {pair.name: known[pair.name] for pair in pairs}


def _cache_file(output: Path, folder: Path, label: str, data_set: DataSet, settings: ScoreSettings) -> Path:
    """The file of the scores of a folder by one metric, whose name changes with all that they depend on.

    Images that others published count with their digest, ours with the name of the folder, which has one.
    """
    images = folder.name if folder.is_relative_to(output) else sha256_of(folder)
    reference = None if data_set.reference is None else sha256_of(data_set.reference)
    digest = digest_of_json({"images": images, "reference": reference, "metrics": metric_entries(settings)})
    return output / "scores" / data_set.name / f"{file_name(label)}-{settings.ids[0]}-{digest}.json"


def _pairs(folder: Path, reference: Path | None) -> tuple[Pair, ...]:
    if not folder.is_dir() or not any(folder.iterdir()):
        return ()
    return pair_files(folder, reference, allow_unmatched=True).pairs


def common_images(rows: Sequence[Row]) -> list[str]:
    """The names of the images that all rows have, sorted."""
    return sorted(set.intersection(*(set(row.scores) for row in rows))) if rows else []


def summaries(row: Row, ids: Sequence[str], names: Sequence[str]) -> dict[str, Summary]:
    """Metric → mean over the named images, and its interval."""
    return {metric: summarise([row.scores[name][metric] for name in names]) for metric in ids}


def table(
    rows: Sequence[Row], ids: Sequence[str], seconds: Mapping[str, float], names: Sequence[str] | None = None
) -> str:
    """A Markdown table with one row per way to upscale: means and 95 % intervals.

    Args:
      rows: the ways.
      ids: the metrics.
      seconds: label → seconds per image, for a column of its own; {} for none.
      names: the images to average over; None for all that each row has.
    """
    of_rows = {row.label: summaries(row, ids, list(row.scores) if names is None else names) for row in rows}
    return summary_markdown(of_rows, seconds, {row.label: len(row.scores if names is None else names) for row in rows})


def summary_markdown(
    rows: Mapping[str, Mapping[str, Summary]], seconds: Mapping[str, float], images: Mapping[str, int] | None = None
) -> str:
    """A Markdown table of means and their intervals.

    Args:
      rows: label → metric → mean; at least one row. A metric that a row lacks is marked as missing.
      seconds: label → seconds per image, for a column of its own; {} for none.
      images: label → number of images; None for the largest number that has a score.
    """
    ids = [name for name in COLUMNS if any(name in summary for summary in rows.values())]
    arrows = ["↑" if METRICS[name].higher_is_better else "↓" for name in ids]
    headings = [f"{COLUMNS[name][0]} {arrow}" for name, arrow in zip(ids, arrows, strict=True)]
    headings = ["", "images", *headings, *(["seconds"] if seconds else [])]
    lines = [f"| {' | '.join(headings)} |", "|---" * len(headings) + "|"]
    for label, summary in rows.items():
        count = max(entry.images for entry in summary.values()) if images is None else images[label]
        cells = [_cell(summary[name], COLUMNS[name][1]) if name in summary else MISSING for name in ids]
        time = [f"{seconds[label]:.3g}" if label in seconds else MISSING] if seconds else []
        lines.append(f"| {' | '.join([label, str(count), *cells, *time])} |")
    return "\n".join(lines) + "\n"


def _cell(entry: Summary, digits: int) -> str:
    if not entry.images:
        return MISSING
    if entry.images == 1:
        return f"{entry.mean:.{digits}f}"
    return f"{entry.mean:.{digits}f} ({entry.low:.{digits}f} .. {entry.high:.{digits}f})"


def as_json(row: Row, ids: Sequence[str]) -> dict[str, Any]:
    """A row with the scores of every image, as plain JSON; what is undefined is null."""
    return {
        "files": {pair.name: str(pair.image) for pair in row.pairs},
        "summary": {
            metric: {key: number_or_none(value) for key, value in entry._asdict().items()}
            for metric, entry in summaries(row, ids, list(row.scores)).items()
        },
        "images": {
            name: {metric: number_or_none(score) for metric, score in scores.items()}
            for name, scores in row.scores.items()
        },
    }


def write_numbers(folder: Path, numbers: Mapping[str, Any]) -> None:
    """Write a report's numbers with the scores of every image, and without them, `SUMMARY`, for a page.

    Args:
      folder: of the report.
      numbers: plain JSON; 'data_sets' has a row of `as_json` for each data set and label.
    """
    means = {
        name: {label: row["summary"] for label, row in rows.items()} for name, rows in numbers["data_sets"].items()
    }
    for name, content in {NUMBERS: numbers, SUMMARY: {**numbers, "data_sets": means}}.items():
        with atomic_write(folder / name) as temporary:
            temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
