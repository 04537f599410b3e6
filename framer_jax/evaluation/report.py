"""Scores of a folder as a printed table, CSV and JSON."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from rich.table import Table

from framer_jax.data.files import LeftOut
from framer_jax.evaluation.metrics import METRICS
from framer_jax.evaluation.pairs import Pair
from framer_jax.evaluation.scoring import Failure
from framer_jax.evaluation.statistics import bootstrap_interval
from framer_jax.porting.files import atomic_write

MISSING = "–"
"""A cell without a score."""

LISTED = 20
"""Number of images without all scores that are printed."""


class Summary(NamedTuple):
    """Mean of a metric over the images that have a score, the bounds of its bootstrap interval, and their number."""

    mean: float
    low: float
    high: float
    images: int


class Evaluation(NamedTuple):
    """The scores of a folder.

    Attributes:
      pairs: the images, sorted by name.
      values: metric id to the scores of the pairs, [N] float32; NaN where an image has none, see `failures`.
      summary: metric id to its mean and interval.
      metadata: what is needed to compare the numbers: version, metric variants, border, model hashes, settings.
      failures: why images have no score, in the order of the pairs.
      left_out: what may be an image of the folders, or hold images, and cannot be read.
    """

    pairs: tuple[Pair, ...]
    values: dict[str, npt.NDArray[np.float32]]
    summary: dict[str, Summary]
    metadata: dict[str, Any]
    failures: tuple[Failure, ...] = ()
    left_out: tuple[LeftOut, ...] = ()

    def __repr__(self) -> str:
        means = ", ".join(f"{name} {entry.mean:.4f}" for name, entry in self.summary.items())
        return f"Evaluation({len(self.pairs)} images, {means})"


def summarise(values: npt.ArrayLike, seed: int = 0, resamples: int = 2000) -> Summary:
    """Mean over the images that have a score (not NaN) with its 95 % bootstrap interval; NaN where there is none.

    Raises:
      ValueError: as of `bootstrap_interval`.
    """
    scores = np.asarray(values, np.float64)
    scores = scores[~np.isnan(scores)]
    if not scores.size:
        return Summary(float("nan"), float("nan"), float("nan"), 0)
    return Summary(float(np.mean(scores)), *bootstrap_interval(scores, seed, resamples), scores.size)


def summary_table(summary: Mapping[str, Summary], images: int) -> Table:
    """The printed table, with one row per metric."""
    table = Table(title=f"{images} image{'s' if images != 1 else ''}", title_justify="left")
    incomplete = any(entry.images < images for entry in summary.values())
    for heading in ("metric", "mean", "95 % interval", *(["images"] if incomplete else [])):
        table.add_column(heading, justify="left" if heading == "metric" else "right")
    table.add_column("variant")
    for name, entry in summary.items():
        row = METRICS[name]
        mean = MISSING if np.isnan(entry.mean) else f"{entry.mean:.4f}"
        interval = MISSING if np.isnan(entry.low) else f"{entry.low:.4f} .. {entry.high:.4f}"
        count = [str(entry.images)] if incomplete else []
        table.add_row(metric_heading(name, row.higher_is_better), mean, interval, *count, row.description)
    return table


def failure_lines(evaluation: Evaluation) -> list[str]:
    """The images without all scores, a line each with their scores and a note; the notes follow."""
    names = list(dict.fromkeys(failure.image for failure in evaluation.failures))
    if not names:
        return []
    index = {pair.name: position for position, pair in enumerate(evaluation.pairs)}
    notes = {reason: number for number, reason in enumerate(_reasons(evaluation.failures, names[:LISTED]), 1)}
    lines = [f"{len(names)} of {len(evaluation.pairs)} images lack scores, which the means leave out:"]
    for name in names[:LISTED]:
        cells = []
        for metric, scores in evaluation.values.items():
            score = scores[index[name]]
            reasons = [why for image, ids, why in evaluation.failures if image == name and metric in ids]
            cells.append(f"{metric} {MISSING} [{notes[reasons[0]]}]" if reasons else f"{metric} {score:.4f}")
        lines.append(f"  {name}: {', '.join(cells)}")
    lines += [f"  and {len(names) - LISTED} more"] if len(names) > LISTED else []
    return lines + [f"  [{number}] {reason}" for reason, number in notes.items()]


def _reasons(failures: Sequence[Failure], names: Sequence[str]) -> list[str]:
    return list(dict.fromkeys(failure.reason for failure in failures if failure.image in names))


def write_csv(evaluation: Evaluation, path: str | Path) -> None:
    """Write one row per image with its name and one column per metric, to six decimals; no score is an empty cell."""
    with (
        atomic_write(path) as temporary,
        temporary.open("w", newline="", encoding="utf-8", errors="backslashreplace") as file,
    ):
        writer = csv.writer(file)
        writer.writerow(["image", *evaluation.values])
        for index, pair in enumerate(evaluation.pairs):
            row = [scores[index] for scores in evaluation.values.values()]
            writer.writerow([pair.name, *("" if np.isnan(score) else f"{score:.6f}" for score in row)])


def write_json(evaluation: Evaluation, path: str | Path) -> None:
    """Write metadata, summary, the scores of each image and why there are none; what is undefined is null."""
    summary = {
        name: {key: number_or_none(value) for key, value in entry._asdict().items()}
        for name, entry in evaluation.summary.items()
    }
    images = [
        {"image": pair.name, "file": str(pair.image), "reference": pair.reference and str(pair.reference)}
        | {name: number_or_none(float(scores[index])) for name, scores in evaluation.values.items()}
        for index, pair in enumerate(evaluation.pairs)
    ]
    failures = [failure._asdict() for failure in evaluation.failures]
    content = {"metadata": evaluation.metadata, "summary": summary, "images": images, "without_score": failures}
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def metric_heading(metric: str, higher_is_better: bool) -> str:
    """A metric with an arrow that says which scores are better."""
    return f"{metric} {'↑' if higher_is_better else '↓'}"


def number_or_none(value: float) -> float | None:
    """A number as plain JSON, which has no NaN."""
    return None if np.isnan(value) else value
