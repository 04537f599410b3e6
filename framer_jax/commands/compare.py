"""`framer-jax compare`: paired differences of models on the same images, from files of scores or from the images."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from framer_jax.commands.compare_images import (
    add_image_arguments,
    check_requests,
    comparable_metrics,
    compare_folders,
    given_image_arguments,
    page_path,
)
from framer_jax.commands.compare_labels import check_labels, read_arm, split_label
from framer_jax.commands.quiet_option import add_quiet_option
from framer_jax.console import message_console, table_width
from framer_jax.evaluation.comparison import (
    DIFFERENCE_HEADINGS,
    Arm,
    Difference,
    as_json,
    check_comparable,
    difference,
    difference_cells,
)
from framer_jax.evaluation.report import metric_heading
from framer_jax.porting.files import atomic_write, check_outputs, check_writable


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.epilog = (
        "Differences are of each model minus the first one, over the images that both have, with 95 % bootstrap "
        "intervals over images. 'better' counts the images on which it is better than the first; p is the two-sided "
        "sign test's."
    )
    parser.add_argument(
        "inputs",
        nargs="+",
        metavar="[LABEL=]FILE[,FILE] | [LABEL=]FOLDER",
        help="JSON files of `framer-jax evaluate --json`, the reference first; several of one model, such as its "
        "seeds, are averaged for each image. Or folders of the models' images, which are scored",
    )
    parser.add_argument("--json", metavar="FILE", help="also write the differences to this file")
    parser.add_argument("--markdown", action="store_true", help="print Markdown instead of a table")
    parser.add_argument("--overwrite", action="store_true", help="replace existing output files")
    add_quiet_option(parser)
    parser.add_argument("--seed", type=int, default=0, help="seed of the bootstrap")
    add_image_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    """Compare and print; the exit status is 1 if an image lacks a score or was left out."""
    if arguments.seed < 0:
        raise ValueError(f"--seed is {arguments.seed}: it must be at least 0")
    if _are_folders(arguments):
        check_requests(arguments)
        _check_outputs(arguments, {"an image of": [split_label(word)[1] for word in arguments.inputs]})
        comparison = compare_folders(arguments, Console(width=table_width()), message_console(arguments.quiet))
        _compare(arguments, comparison.arms, comparison.metrics)
        return int(not comparison.complete)
    arms = [read_arm(text) for text in arguments.inputs]
    check_labels([arm.label for arm in arms], "FILE")
    _check_outputs(arguments, {"a file of scores": sorted({file.path for arm in arms for file in arm.files})})
    metrics = check_comparable([file for arm in arms for file in arm.files])
    _compare(arguments, arms, comparable_metrics(metrics, arms, message_console(arguments.quiet)))
    return 0


def _are_folders(arguments: argparse.Namespace) -> bool:
    """Whether folders of images are compared, rather than files of scores.

    Raises:
      ValueError: a mixture of both, or options that belong to the other kind.
    """
    folders = [word for word in arguments.inputs if Path(split_label(word)[1]).is_dir()]
    files = [word for word in arguments.inputs if any(Path(part).is_file() for part in split_label(word)[1].split(","))]
    if folders and files:
        raise ValueError(
            f"{folders[0]} is a folder of images and {files[0]} is a file: name folders only, and their scores with "
            "--scores LABEL=FILE; or files of scores only"
        )
    given = given_image_arguments(arguments)
    if files and given:
        raise ValueError(f"{given[0]} belongs to folders of images, and {files[0]} is a file: name the folders instead")
    return bool(folders or given)


def _check_outputs(arguments: argparse.Namespace, inputs: Mapping[str, Sequence[str | Path]]) -> None:
    """Refuse outputs that exist, that would replace an input or one another, or whose folder does not exist."""
    page = None if arguments.html is None else page_path(arguments.html)
    outputs = {"--json": arguments.json, "--html": page, "--grid": arguments.grid}
    check_outputs(outputs, inputs, "choose another name")
    for option, output in outputs.items():
        if output is None:
            continue
        path = Path(output)
        makes_folder = option == "--html" and path.name == "index.html" and path != Path(arguments.html)
        if not path.absolute().parent.is_dir() and not makes_folder:
            raise ValueError(f"{option} {path}: there is no folder {path.parent}: make it first")
        if path.exists() and not arguments.overwrite:
            raise ValueError(f"{option} {path} exists: choose another name, or add --overwrite")
        if not makes_folder:
            check_writable(path, option)
        folders = [folder for paths in inputs.values() for folder in paths if Path(folder).is_dir()]
        if option == "--grid" and (
            inside := [each for each in folders if path.resolve().is_relative_to(Path(each).resolve())]
        ):
            raise ValueError(f"{option} {path} would be one of the images of {inside[0]}: name another folder")
    if arguments.grid and Path(arguments.grid).suffix.lower() != ".png":
        raise ValueError(f"--grid {arguments.grid}: the figure is a PNG file: name it FILE.png")


def _compare(arguments: argparse.Namespace, arms: Sequence[Arm], metrics: Sequence[str]) -> None:
    """Print the differences from the first model, and write them to --json."""
    if not metrics:
        return
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
