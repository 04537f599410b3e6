"""Scores of a folder as a printed table, CSV and JSON."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from rich.box import SIMPLE
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from framer_jax.data.files import LeftOut
from framer_jax.data.image_names import examples
from framer_jax.evaluation.metrics import METRICS, Network
from framer_jax.evaluation.pairs import Pair, PairDigests
from framer_jax.evaluation.protocol import PublishedRow
from framer_jax.evaluation.scoring import Failure, Note
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
      notes: what was ignored or converted in images that have their scores.
      digests: SHA-256 of the files of the pairs.
      unavailable: metric id to why it was left out.
    """

    pairs: tuple[Pair, ...]
    values: dict[str, npt.NDArray[np.float32]]
    summary: dict[str, Summary]
    metadata: dict[str, Any]
    failures: tuple[Failure, ...] = ()
    left_out: tuple[LeftOut, ...] = ()
    notes: tuple[Note, ...] = ()
    digests: tuple[PairDigests, ...] = ()
    unavailable: Mapping[str, str] = {}

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
    digests = evaluation.digests or (PairDigests("", ""),) * len(evaluation.pairs)
    images = [
        {
            "image": pair.name,
            "file": str(pair.image) if pair.image.exists() else None,
            "image_sha256": digest.image,
            "reference": pair.reference and str(pair.reference),
            "reference_sha256": digest.reference,
        }
        | {name: number_or_none(float(scores[index])) for name, scores in evaluation.values.items()}
        for index, (pair, digest) in enumerate(zip(evaluation.pairs, digests, strict=True))
    ]
    failures = [failure._asdict() for failure in evaluation.failures]
    notes = [note._asdict() for note in evaluation.notes]
    content = {
        "metadata": evaluation.metadata,
        "summary": summary,
        "images": images,
        "without_score": failures,
        "notes": notes,
    }
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def print_evaluation(
    evaluation: Evaluation,
    published: Sequence[PublishedRow],
    networks: Mapping[str, Network],
    console: Console,
) -> None:
    """Print the table, the published rows of the protocol, and what is to be said of images and metrics."""
    metadata = evaluation.metadata
    for network in networks.values():
        if network.installed:
            console.print(f"{network.metric}: {' and '.join(network.installed)} of the installed package")
    for line in _protocol_lines(metadata.get("protocol")):
        console.print(escape(line), highlight=False, soft_wrap=True)
    console.print(summary_table(evaluation.summary, len(evaluation.pairs)))
    if published:
        console.print(published_table(evaluation.summary, published, len(evaluation.pairs)))
        for source in dict.fromkeys(row.source for row in published):
            console.print(escape(f"published: {source}"), highlight=False, soft_wrap=True)
    lines = [
        f"{name} {MISSING} {reason.removeprefix(f'{name} is left out: ')}"
        for name, reason in evaluation.unavailable.items()
    ]
    lines += [*failure_lines(evaluation), *note_lines(evaluation.notes)]
    if renamed := metadata.get("renamed"):
        named = [f"{image} with {reference}" for image, reference in renamed.items()]
        lines.append(f"{len(renamed)} of other names paired: {examples(named)}")
    for line in (*lines, *(f"left out: {item}" for item in evaluation.left_out)):
        console.print(escape(line), highlight=False, soft_wrap=True)
    if metadata.get("left_out"):
        console.print(f"{len(metadata['left_out'])} without a partner skipped: {examples(metadata['left_out'])}")


def _protocol_lines(protocol: Mapping[str, Any] | None) -> list[str]:
    """The protocol and its image set, and what is assumed."""
    if protocol is None:
        return []
    image_set = protocol["image_set"]
    state = (
        "the images are none of its sets, so there are no published rows"
        if image_set is None
        else f"image set {image_set}" + ("" if protocol["complete_set"] else ", not complete or changed")
    )
    lines = [f"protocol {protocol['name']} ({protocol['summary']}): {state}"]
    return lines + [f"assumed: {text}" for text in protocol["assumptions"]]


def published_table(summary: Mapping[str, Summary], published: Sequence[PublishedRow], images: int) -> Table:
    """The means of an evaluation of so many images and the published rows, with one column per metric."""
    metrics = list(dict.fromkeys([*summary, *(metric for row in published for metric in row.scores)]))
    table = Table(
        title="with the published rows, to four digits at most", title_justify="left", box=SIMPLE, padding=(0, 1, 0, 0)
    )
    table.add_column("")
    for metric in metrics:
        words = metric_heading(metric, METRICS[metric].higher_is_better).replace("-", "\n").replace(" ", "\n")
        table.add_column(words, justify="right", no_wrap=True)
    means = {metric: entry.mean for metric, entry in summary.items()}
    counts = {entry.images for entry in summary.values()}
    ours = "this folder" if counts == {images} else f"this folder ({min(counts)} of {images} images)"
    table.add_row(ours, *(_cell(means.get(metric)) for metric in metrics), end_section=True)
    for row in published:
        table.add_row(escape(f"{row.model} (published)"), *(_cell(row.scores.get(metric)) for metric in metrics))
    return table


def _cell(value: float | None) -> str:
    return MISSING if value is None or np.isnan(value) else f"{value:.4g}"


def note_lines(notes: Sequence[Note]) -> list[str]:
    """One line per kind of note, with the names of the images."""
    by_text: dict[str, list[str]] = {}
    for note in notes:
        by_text.setdefault(note.text, []).append(note.image)
    return [f"{len(names)} image(s), {text}: {examples(names)}" for text, names in by_text.items()]


def metric_heading(metric: str, higher_is_better: bool) -> str:
    """A metric with an arrow that says which scores are better."""
    return f"{metric} {'↑' if higher_is_better else '↓'}"


def number_or_none(value: float) -> float | None:
    """A number as plain JSON, which has no NaN."""
    return None if np.isnan(value) else value
