"""`framer-jax compare`: paired differences of models that were scored on the same images."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from framer_jax.console import table_width
from framer_jax.evaluation.comparison import (
    DIFFERENCE_HEADINGS,
    Arm,
    Difference,
    as_json,
    check_comparable,
    difference,
    difference_cells,
    read_scores,
)
from framer_jax.evaluation.report import metric_heading
from framer_jax.porting.files import atomic_write, check_outputs


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.epilog = (
        "Differences are of each model minus the first one, over the images that both have, with 95 % bootstrap "
        "intervals over images. 'better' counts the images on which it is better than the first; p is the two-sided "
        "sign test's."
    )
    parser.add_argument(
        "scores",
        nargs="+",
        metavar="[LABEL=]FILE[,FILE]",
        help="JSON files of `framer-jax evaluate --json`, the reference first; several of one model, such as its "
        "seeds, are averaged for each image",
    )
    parser.add_argument("--json", metavar="FILE", help="also write the differences to this file")
    parser.add_argument("--markdown", action="store_true", help="print Markdown instead of a table")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing --json file")
    parser.add_argument("--seed", type=int, default=0, help="seed of the bootstrap")


def run(arguments: argparse.Namespace) -> int:
    """Compare and print."""
    if arguments.seed < 0:
        raise ValueError(f"--seed is {arguments.seed}: it must be at least 0")
    arms = [_arm(text) for text in arguments.scores]
    if len(arms) < 2:
        raise ValueError("compare needs two models or more: name the JSON files of `framer-jax evaluate --json`")
    labels = [arm.label for arm in arms]
    if repeated := [label for label in labels if labels.count(label) > 1]:
        raise ValueError(f"two models are called {repeated[0]!r}: write LABEL=FILE")
    if arguments.json:
        inputs = {file.path for arm in arms for file in arm.files}
        check_outputs({"--json": Path(arguments.json)}, {"a file of scores": sorted(inputs)}, "choose another name")
        if not Path(arguments.json).absolute().parent.is_dir():
            raise ValueError(
                f"--json {arguments.json}: there is no folder {Path(arguments.json).parent}: make it first"
            )
        if Path(arguments.json).exists() and not arguments.overwrite:
            raise ValueError(f"--json {arguments.json} exists: choose another name, or add --overwrite")
    metrics = check_comparable([file for arm in arms for file in arm.files])
    reference, *others = arms
    rows = {arm.label: [difference(metric, reference, arm, arguments.seed) for metric in metrics] for arm in others}
    for label, entries in rows.items():
        title = f"{label} minus {reference.label}, {max(entry.images for entry in entries)} images"
        if arguments.markdown:
            print(f"{title}:\n\n{differences_markdown(reference.label, label, entries)}")
        else:
            Console(width=table_width()).print(_table(title, reference.label, label, entries))
    if arguments.json:
        with atomic_write(arguments.json) as temporary:
            temporary.write_text(json.dumps(as_json(reference, rows), indent=1) + "\n", encoding="utf-8")
    return 0


def _arm(text: str) -> Arm:
    label, separator, files = text.partition("=")
    if not separator or Path(text).is_file():
        label, files = "", text
    paths = [files] if Path(files).is_file() else files.split(",")
    if "" in paths:
        raise ValueError(f"{text!r} names an empty file: write FILE,FILE or LABEL=FILE,FILE")
    return Arm(label or Path(paths[0]).stem, tuple(map(read_scores, paths)))


def _cells(entry: Difference) -> list[str]:
    means = f"{entry.first:.4f}", f"{entry.second:.4f}"
    return [metric_heading(entry.metric, entry.higher_is_better), *means, *difference_cells(entry)]


def _table(title: str, first: str, second: str, entries: Sequence[Difference]) -> Table:
    table = Table(title=escape(title), title_justify="left")
    for heading in ("metric", *(_short(label) for label in (first, second)), *DIFFERENCE_HEADINGS):
        table.add_column(escape(heading), justify="left" if heading == "metric" else "right", no_wrap=True)
    for entry in entries:
        table.add_row(*_cells(entry))
    return table


def _short(label: str) -> str:
    """A label that leaves room for the numbers; the title has all of it."""
    return label if len(label) <= 20 else f"{label[:19]}…"


def differences_markdown(first: str, second: str, entries: Sequence[Difference]) -> str:
    """The differences of two models as a Markdown table.

    Args:
      first: label of the reference.
      second: label of the other model.
      entries: one per metric.
    """
    headings = ("metric", *(label.replace("|", "\\|") for label in (first, second)), *DIFFERENCE_HEADINGS)
    lines = [f"| {' | '.join(headings)} |", "|---" * len(headings) + "|"]
    return "\n".join([*lines, *(f"| {' | '.join(_cells(entry))} |" for entry in entries)]) + "\n"
