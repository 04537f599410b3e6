"""`framer-jax compare` with folders of images: their scores, the page and the figure."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.markup import escape

from framer_jax.commands.compare_labels import check_labels, read_arm, split_label
from framer_jax.commands.evaluate import add_scoring_arguments
from framer_jax.data.files import list_images
from framer_jax.data.image_names import examples
from framer_jax.evaluation.comparison import Arm, check_comparable, common_images
from framer_jax.evaluation.comparison_grid import DPI, figure_images, parse_crop, write_grid
from framer_jax.evaluation.comparison_page.build import write_page
from framer_jax.evaluation.comparison_page.data import PageSettings, page_data
from framer_jax.evaluation.comparison_page.embed import (
    ENCODINGS,
    EmbeddedImage,
    check_expected,
    choose_encoding,
    embed_images,
)
from framer_jax.evaluation.image_sets import ImageSet, Method, collect_images
from framer_jax.evaluation.learned import load_learned, parse_weights
from framer_jax.evaluation.method_scores import DEFAULT_METRICS, recorded_arms, score_methods
from framer_jax.evaluation.metrics import Network, check_metric_ids, check_metric_inputs
from framer_jax.evaluation.niqe import load_niqe_model
from framer_jax.evaluation.perceptual import load_networks
from framer_jax.evaluation.report import note_lines
from framer_jax.evaluation.scoring import Failure, ScoreSettings
from framer_jax.evaluation.seams import parse_tile_lines
from framer_jax.progress import Report

NO_METRICS = "none"
"""What --metrics says to compute no scores."""

MEGABYTES = 100
"""Size that a page may have by default."""

LISTED = 20
"""Number of images without a score that are printed."""


class Comparison(NamedTuple):
    """What folders of images gave.

    Attributes:
      arms: the scores of the methods; () without metrics.
      metrics: the metrics that all methods have.
      complete: whether every image was read and has all scores.
    """

    arms: tuple[Arm, ...]
    metrics: tuple[str, ...]
    complete: bool


def add_image_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments that belong to folders of images."""
    group = parser.add_argument_group("folders of images")
    group.add_argument(
        "--html", metavar="FILE", help="write a page that shows the images with a slider; of a folder, its index.html"
    )
    group.add_argument("--grid", metavar="PNG", help="write a figure of crops: a row per image, a column per method")
    group.add_argument("--reference", metavar="GT_DIR", help="references of the same names and sizes")
    group.add_argument("--lr", metavar="LR_DIR", help="LR images of the same names, shown with repeated pixels")
    group.add_argument(
        "--metrics",
        help=f"comma-separated, as of `framer-jax evaluate`, or {NO_METRICS}; default: "
        f"{','.join(DEFAULT_METRICS[True])} with references, {','.join(DEFAULT_METRICS[False])} without",
    )
    group.add_argument(
        "--scores",
        nargs="+",
        metavar="LABEL=FILE[,FILE]",
        help="take the scores from files of `framer-jax evaluate --json`, one for every folder",
    )
    group.add_argument("--limit", type=int, metavar="N", help="the first N images by name")
    group.add_argument(
        "--suffix",
        action="append",
        metavar="[LABEL=]TEXT",
        help="end of the images' names that the references lack, as of upscale --suffix; of one folder with its label",
    )
    group.add_argument("--allow-unmatched", action="store_true", help="leave out images that a folder lacks")
    group.add_argument("--title", default="Comparison", help="heading of the page")
    group.add_argument(
        "--encoding",
        choices=("auto", *ENCODINGS),
        default="auto",
        help="how the page holds images; auto: PNG (lossless) if the page stays within --max-megabytes, otherwise WebP",
    )
    group.add_argument("--max-side", type=int, metavar="N", help="reduce longer images to N pixels in the page")
    group.add_argument(
        "--max-megabytes", type=float, default=MEGABYTES, metavar="MB", help="size that the page may have"
    )
    group.add_argument("--images", metavar="NAME[,NAME]", help="the images of the figure, in this order")
    group.add_argument(
        "--crop",
        default="auto",
        metavar="auto[,SIZE] | X,Y,SIZE",
        help="the crop of the figure in pixels of the results; auto: where the methods differ most",
    )
    add_scoring_arguments(group)


def given_image_arguments(arguments: argparse.Namespace) -> list[str]:
    """The options of `add_image_arguments` that were given, as they are written."""
    return _given(arguments, add_image_arguments)


def _given(arguments: argparse.Namespace, declare: Callable[[argparse.ArgumentParser], None]) -> list[str]:
    parser = argparse.ArgumentParser(add_help=False)
    declare(parser)
    return [action.option_strings[0] for action in parser._actions if getattr(arguments, action.dest) != action.default]


def page_path(text: str) -> Path:
    """The file of --html: of a folder, or of a name that ends like one, its index.html."""
    path = Path(text)
    return path / "index.html" if path.is_dir() or text.endswith(("/", os.sep)) else path


def check_requests(arguments: argparse.Namespace) -> None:
    """Refuse options that contradict each other, and a folder of images where the page is expected.

    Raises:
      ValueError: the message names the option.
    """
    for option, value, least in (
        ("--limit", arguments.limit, 1),
        ("--max-side", arguments.max_side, 16),
        ("--crop-border", arguments.crop_border, 0),
        ("--mod-crop", arguments.mod_crop, 1),
    ):
        if value is not None and value < least:
            raise ValueError(f"{option} is {value}: it must be at least {least}")
    if not arguments.max_megabytes > 0:
        raise ValueError(f"--max-megabytes is {arguments.max_megabytes}: it must be more than 0")
    if arguments.metrics == NO_METRICS:
        if arguments.json:
            raise ValueError(f"--json has nothing to hold with --metrics {NO_METRICS}: leave out one of them")
        if not arguments.html and not arguments.grid:
            raise ValueError(f"there is nothing to do with --metrics {NO_METRICS}: add --html FILE or --grid PNG")
    if arguments.images and not arguments.grid:
        raise ValueError("--images chooses the rows of a figure: add --grid PNG; --limit N applies to the page, too")
    if arguments.html and Path(arguments.html).is_dir() and list_images(arguments.html, recursive=False).paths:
        raise ValueError(f"--html {arguments.html} is a folder of images: name the page before the folders to compare")


def compare_folders(arguments: argparse.Namespace, console: Console, messages: Console) -> Comparison:
    """Score the images of the folders and write the page and the figure.

    Args:
      arguments: the parsed arguments, whose `inputs` are folders.
      console: where what was written is printed.
      messages: where progress is reported.

    Raises:
      FileExistsError, FileNotFoundError, ValueError: as of `framer-jax evaluate`; a page that would be too large.
    """
    methods = _methods(arguments.inputs, arguments.suffix or [])
    crop = parse_crop(arguments.crop)
    recorded = _recorded(arguments)
    ids = _metric_ids(arguments, recorded)
    settings = None if recorded else _settings(arguments, ids)
    image_set = collect_images(
        methods,
        arguments.reference,
        arguments.lr,
        allow_unmatched=arguments.allow_unmatched,
        mod_crop=_mod_crop(arguments, recorded),
        limit=arguments.limit,
    )
    figure = figure_images(image_set, _names(arguments.images or "")) if arguments.grid else []
    page, embedded = _embed(arguments, image_set, console, messages) if arguments.html else (None, [])
    arms, failures = _scores(image_set, settings, recorded, console, messages)
    ids = comparable_metrics(ids, arms, messages)
    if page is not None:
        path = page_path(arguments.html)
        size = write_page(path, page_data(image_set, embedded, arms, ids, page), embedded)
        count = f"{len(embedded)} image{'s' if len(embedded) != 1 else ''}"
        _say(console, f"{path}: {count} of {len(methods)} methods, {size / 1e6:.1f} MB")
    if arguments.grid:
        width, height = write_grid(arguments.grid, image_set, figure, arms, ids, crop)
        _say(console, f"{arguments.grid}: {width}x{height} pixels, {DPI} dpi")
    return Comparison(arms, ids, _report(image_set, failures, console))


def comparable_metrics(metrics: Sequence[str], arms: Sequence[Arm], messages: Console) -> tuple[str, ...]:
    """The metrics by which the first arm can be compared with each of the others; a note names any other one.

    Raises:
      ValueError: there is none of them.
    """
    kept = []
    for metric in metrics:
        lacking = [arm.label for arm in arms[1:] if not common_images(metric, arms[0], arm)]
        if lacking:
            messages.print(
                f"note: no image has a {metric} of both {arms[0].label} and {lacking[0]}: it is left out", markup=False
            )
        else:
            kept.append(metric)
    if metrics and not kept:
        raise ValueError(f"there is no metric by which {arms[0].label} can be compared with all others")
    return tuple(kept)


def _say(console: Console, text: str) -> None:
    console.print(escape(text), highlight=False, soft_wrap=True)


def _methods(words: Sequence[str], suffixes: Sequence[str]) -> tuple[Method, ...]:
    """The methods that `[LABEL=]FOLDER` and `--suffix [LABEL=]TEXT` name."""
    folders = [split_label(word) for word in words]
    named = [(label or Path(folder).resolve().name, Path(folder)) for label, folder in folders]
    labels = [label for label, _ in named]
    check_labels(labels, "FOLDER")
    by_label = dict.fromkeys(labels, "")
    for text in suffixes:
        label, separator, ending = text.partition("=")
        if separator and label not in by_label:
            raise ValueError(f"--suffix {text}: no folder is called {label!r} ({', '.join(labels)})")
        by_label |= {label: ending} if separator else dict.fromkeys(labels, text)
    return tuple(Method(label, folder, by_label[label]) for label, folder in named)


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _recorded(arguments: argparse.Namespace) -> dict[str, Arm]:
    """Label → the scores that --scores names; without --scores, nothing."""
    if arguments.scores is None:
        return {}
    if given := _given(arguments, add_scoring_arguments):
        raise ValueError(f"{given[0]} has no effect on the scores of --scores: leave it out")
    arms = [read_arm(text) for text in arguments.scores]
    check_labels([arm.label for arm in arms], "FILE")
    return {arm.label: arm for arm in arms}


def _mod_crop(arguments: argparse.Namespace, recorded: Mapping[str, Arm]) -> int:
    """The crop of the images: that of the recorded scores, if there are any."""
    files = [file for arm in recorded.values() for file in arm.files]
    return int(files[0].metadata.get("mod_crop", 1)) if files else int(arguments.mod_crop or 1)


def _metric_ids(arguments: argparse.Namespace, recorded: Mapping[str, Arm]) -> tuple[str, ...]:
    """The metrics to show: those that are named; by default those of the recorded scores, or `DEFAULT_METRICS`."""
    names = _names(arguments.metrics or "")
    if names == [NO_METRICS] and not recorded:
        return ()
    if not recorded:
        return tuple(check_metric_ids(names or DEFAULT_METRICS[arguments.reference is not None]))
    common = check_comparable([file for arm in recorded.values() for file in arm.files])
    if missing := [name for name in names if name not in common]:
        raise ValueError(
            f"the files of --scores do not all have the metric {missing[0]!r}: they have {', '.join(common)}"
        )
    return tuple(names) or common


def _settings(arguments: argparse.Namespace, ids: Sequence[str]) -> ScoreSettings | None:
    """What is computed; None without metrics."""
    if not ids:
        return None
    model = None if arguments.niqe_model is None else load_niqe_model(arguments.niqe_model)
    learned, unavailable = load_learned(ids, parse_weights(arguments.pyiqa_weights))
    if unavailable:
        raise ValueError("; ".join(unavailable.values()))
    networks: dict[str, Network] = {**load_networks(ids, arguments.lpips_weights, arguments.dists_weights), **learned}
    lines = None if arguments.tile_lines is None else parse_tile_lines(arguments.tile_lines)
    checked = check_metric_inputs(ids, arguments.reference is not None, model, networks, lines)
    return ScoreSettings(tuple(checked), model, arguments.crop_border or 0, arguments.mod_crop or 1, networks, lines)


def _embed(
    arguments: argparse.Namespace, image_set: ImageSet, console: Console, messages: Console
) -> tuple[PageSettings, list[EmbeddedImage]]:
    """Encode the images of the page, before anything is scored: a page that is too large is refused first."""
    budget, side = arguments.max_megabytes * 1e6, arguments.max_side
    automatic = arguments.encoding == "auto"
    encoding = choose_encoding(image_set, budget, side) if automatic else arguments.encoding
    expected = check_expected(image_set, encoding, budget, side)
    if not messages.quiet:
        _say(console, f"the page will have about {expected / 1e6:.1f} MB (images as {ENCODINGS[encoding].description})")
    with Report(messages, transient=True) as progress:
        task = progress.add_task("reading images", total=len(image_set.images))
        embedded = embed_images(image_set, encoding, budget, side, lambda count: progress.advance(task, count))
    return PageSettings(arguments.title, encoding, side, arguments.seed), embedded


def _scores(
    image_set: ImageSet,
    settings: ScoreSettings | None,
    recorded: Mapping[str, Arm],
    console: Console,
    messages: Console,
) -> tuple[tuple[Arm, ...], dict[str, tuple[Failure, ...]]]:
    """The scores of each method, and label → why images have none; prints what was ignored or converted."""
    if recorded:
        return recorded_arms(image_set, recorded), {}
    if settings is None:
        return (), {}
    with Report(messages, transient=True) as progress:
        task = progress.add_task("scoring", total=len(image_set.images) * len(image_set.methods))
        arms, failures, notes = score_methods(image_set, settings, lambda done: progress.advance(task, done))
    for label, of_method in notes.items():
        for line in note_lines(of_method):
            _say(console, f"{label}: {line}")
    return arms, failures


def _report(image_set: ImageSet, failures: Mapping[str, Sequence[Failure]], console: Console) -> bool:
    """Print what is missing; whether nothing is."""
    lines = [
        f"{label}: {failure.image} has no {', '.join(failure.metrics)}: {failure.reason}"
        for label, of_method in failures.items()
        for failure in of_method
    ]
    for line in lines[:LISTED]:
        _say(console, line)
    if len(lines) > LISTED:
        _say(console, f"and {len(lines) - LISTED} more")
    for item in image_set.left_out:
        _say(console, f"left out: {item}")
    if image_set.unmatched:
        _say(console, f"{len(image_set.unmatched)} without a partner skipped: {examples(image_set.unmatched)}")
    return not lines and not image_set.left_out
