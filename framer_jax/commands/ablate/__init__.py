"""`framer-jax ablate`: the arms of a paper's ablation with several seeds, trained, scored and compared in one table."""

from __future__ import annotations

import argparse
import json
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
from rich.console import Console
from rich.markup import escape

from framer_jax.commands.ablate.jobs import (
    Job,
    ScoreOptions,
    command_line,
    finished,
    job_commands,
    plan_jobs,
    run_job,
    state_of,
)
from framer_jax.commands.ablate.pairs import DEGRADATION_SEED, check_made, make_pairs, preset_of
from framer_jax.commands.ablate.settings import (
    PAIRS,
    RECORD,
    AblationSettings,
    arm_configs,
    read_settings,
    write_record,
)
from framer_jax.commands.override_option import add_override_option
from framer_jax.commands.quiet_option import add_quiet_option
from framer_jax.config import ConfigError, load_config, to_dict
from framer_jax.console import message_console
from framer_jax.errors import is_correctable, one_line
from framer_jax.evaluation.ablation_table import AblationResult, ablation_json, ablation_markdown, ablation_result
from framer_jax.evaluation.comparison import ScoreFile
from framer_jax.evaluation.learned import LEARNED
from framer_jax.evaluation.metrics import METRICS, check_metric_inputs
from framer_jax.evaluation.niqe import load_niqe_model
from framer_jax.evaluation.perceptual import DISTS_OPTION, LPIPS_OPTION, load_networks
from framer_jax.porting.files import atomic_write
from framer_jax.progress import duration
from framer_jax.training.workdir import check_name

TABLE = "table"
"""Name of the files of the collected results, .md and .json."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.epilog = (
        "Options that are left out are those of the first call with the same --output, as its ablation.json says. The "
        "same command goes on where it was stopped."
    )
    parser.add_argument(
        "ablation",
        metavar="NAME[,NAME]",
        help="an ablation that ships, such as framer:table2, or a Python file with get_ablation(); of several, arms "
        "that are the same train once",
    )
    parser.add_argument("--output", required=True, metavar="FOLDER", help="for runs, images, scores and the table")
    parser.add_argument("--base", metavar="CONFIG", help="configuration that the arms change, in place of the file's")
    parser.add_argument("--init", metavar="WEIGHTS", help="weights that every run starts from, as of train --init")
    add_override_option(parser, "override one knob of every run", default=False)
    add_quiet_option(parser)
    parser.add_argument("--arms", metavar="A,B", help="some of the arms, the reference among them")
    parser.add_argument("--seeds", metavar="0,1,2", help="seeds of the trainings")
    parser.add_argument("--steps", type=int, metavar="N", help="number of sampling steps")
    _add_image_arguments(parser)
    _add_metric_arguments(parser)
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--list", action="store_true", help="print the jobs and their commands, and do nothing")
    what.add_argument("--index", type=int, metavar="I", help="run job I only, for job arrays, and make no table")
    what.add_argument("--collect", action="store_true", help="make the table of the jobs that are complete, and no job")


def _add_image_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("images", "photographs that are degraded once, or LR images with references")
    group.add_argument("--photos", metavar="HR_FOLDER", help="photographs to degrade as the base's training data are")
    group.add_argument("--limit", type=int, metavar="N", help="the first N photographs only")
    group.add_argument("--crop", type=int, metavar="N", help="center crops of N pixels in place of whole photographs")
    group.add_argument(
        "--degradation-seed", type=int, metavar="N", help=f"seed of their degradation ({DEGRADATION_SEED})"
    )
    group.add_argument("--lr", metavar="FOLDER", help="LR images, in place of --photos")
    group.add_argument("--reference", metavar="FOLDER", help="their HR images, of the same names")


def _add_metric_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("metrics", "as of `framer-jax evaluate`")
    group.add_argument("--metrics", metavar="A,B", help="comma-separated; default: the ablation's")
    group.add_argument("--niqe-model", metavar="NPZ", help="pristine-model parameters of niqe and niqe-pyiqa")
    group.add_argument(LPIPS_OPTION, nargs="+", default=(), metavar="FILE", help="weights of lpips-alex and lpips-vgg")
    group.add_argument(DISTS_OPTION, nargs="+", default=(), metavar="FILE", help="weights of dists")


def run(arguments: argparse.Namespace) -> int:
    """Run the jobs that are left and collect; the exit status is 1 if a job failed or is missing."""
    check_name(Path(arguments.output))
    settings = read_settings(arguments)
    options = ScoreOptions(arguments.niqe_model, tuple(arguments.lpips_weights), tuple(arguments.dists_weights))
    arm_configs(settings.base, settings.arms, settings.overrides, settings.seeds[0])  # legal, and all different
    jobs = plan_jobs(settings)
    if arguments.list:
        print(_listing(jobs, settings, options))
        return 0
    if arguments.collect:
        if not (settings.output / RECORD).is_file():
            raise ConfigError(
                f"{settings.output} has no {RECORD}, which the first job writes: --collect makes the table of jobs "
                "that were run"
            )
        return _collect(jobs, settings, {})
    if arguments.index is not None and not 0 <= arguments.index < len(jobs):
        raise ConfigError(f"--index {arguments.index}: there are {len(jobs)} jobs, from 0 to {len(jobs) - 1}")
    console = message_console(arguments.quiet)
    _prepare(settings, options, console)
    chosen = jobs if arguments.index is None else [jobs[arguments.index]]
    failures = _run_jobs(chosen, len(jobs), settings, options, console)
    if arguments.index is None:
        return _collect(jobs, settings, failures)
    return int(bool(failures))


def _prepare(settings: AblationSettings, options: ScoreOptions, console: Console) -> None:
    """Check what all jobs need before the first one, make the pairs, and write down what is asked.

    Raises:
      ConfigError, ValueError, FileNotFoundError: as of the metrics' checks and of `make_pairs`.
    """
    if needing := [name for name in settings.metrics if METRICS[name].needs_tile_lines or name in LEARNED]:
        raise ConfigError(f"--metrics {needing[0]}: score the images with `framer-jax evaluate`, and leave it out here")
    if settings.pairs.crop and (
        small := [name for name in settings.metrics if not METRICS[name].fits(*[settings.pairs.crop] * 2)]
    ):
        raise ConfigError(
            f"--crop {settings.pairs.crop} is too small for {small[0]}, which needs {METRICS[small[0]].smallest}"
        )
    if not (settings.pairs.photos or settings.pairs.lr):
        raise ConfigError("no images to upscale: give --photos HR_FOLDER, or --lr FOLDER and --reference FOLDER")
    networks = load_networks(settings.metrics, options.lpips_weights, options.dists_weights)
    niqe_model = load_niqe_model(options.niqe_model) if options.niqe_model else None
    check_metric_inputs(settings.metrics, True, niqe_model, networks)
    preset = preset_of(to_dict(load_config(settings.base, settings.overrides)))
    check_made(settings.pairs, settings.output / PAIRS, preset)
    make_pairs(settings.pairs, settings.output / PAIRS, preset, console)
    write_record(settings)


def _listing(jobs: Sequence[Job], settings: AblationSettings, options: ScoreOptions) -> str:
    lines = []
    if not (settings.output / PAIRS).is_dir() and not settings.pairs.lr:
        lines.append(
            f"# the images in {settings.output / PAIRS} are made by the first job that --index or no option runs"
        )
    for job in jobs:
        lines.append(f"# --index {job.number}: {job.name}, {state_of(job, settings)}")
        lines += [command_line(words) for words in job_commands(job, settings, options)]
    lines.append(f"# {len(jobs)} jobs; as an array: the same command with --index 0 to {len(jobs) - 1}, then --collect")
    return "\n".join(lines)


def _run_jobs(
    jobs: Sequence[Job], count: int, settings: AblationSettings, options: ScoreOptions, console: Console
) -> dict[str, str]:
    """Run jobs one after another; name of each job that failed → the reason."""
    failures: dict[str, str] = {}
    seconds: list[float] = []  # that the jobs took which were run
    for index, job in enumerate(jobs):
        title = f"[{job.number + 1} of {count}] {job.name}"
        try:
            if finished(job, settings):
                _say(console, f"{title}: complete")
                continue
            left = f" (about {duration(sum(seconds) / len(seconds) * (len(jobs) - index))} left)" if seconds else ""
            _say(console, f"{title}: {job.config} {' '.join(job.overrides)}{left}")
            started = time.monotonic()
            run_job(job, settings, options, console.quiet)
            seconds.append(time.monotonic() - started)
        except Exception as error:  # the other jobs go on
            if not is_correctable(error):
                traceback.print_exc()
            failures[job.name] = one_line(error)
            print(f"{title}: failed: {failures[job.name]}", file=sys.stderr, flush=True)
        jax.clear_caches()  # of programs that no later job uses, with which memory would grow; those on disk stay
    for name, reason in failures.items():
        print(f"failed: {name}: {reason}", file=sys.stderr)
    return failures


def _say(console: Console, text: str) -> None:
    console.print(escape(text), soft_wrap=True)


def _collect(jobs: Sequence[Job], settings: AblationSettings, failures: Mapping[str, str]) -> int:
    """Write and print the table; the exit status is 1 if a job is missing."""
    scores: dict[str, dict[int, ScoreFile]] = {}
    missing: list[Job] = []
    for job in jobs:
        try:
            of_job = None if job.name in failures else finished(job, settings)
        except ValueError as error:
            print(f"{job.name}: {error}", file=sys.stderr)
            of_job = None
        if of_job is None:
            missing.append(job)
        else:
            scores.setdefault(job.arm, {})[job.seed] = of_job
    note = ""
    if missing:
        names = ", ".join(f"{job.name} (--index {job.number})" for job in missing)
        note = f"{len(missing)} of {len(jobs)} jobs are missing: {names}"
        print(note, file=sys.stderr)
    if scores:
        results = [ablation_result(ablation, scores) for ablation in settings.ablations]
        _write(results, settings, note)
    return int(bool(missing))


def _write(results: Sequence[AblationResult], settings: AblationSettings, note: str) -> None:
    seeds = ", ".join(map(str, settings.seeds))
    method = "Intervals are over images, of scores that are averaged over the seeds for each image; ± is the standard "
    method += "deviation over seeds."
    parts = [f"# Ablation on `{settings.base}`\n", f"Seeds {seeds}. {method}\n", *([f"**{note}**\n"] if note else [])]
    text = "\n".join([*parts, *map(ablation_markdown, results)])
    content: dict[str, Any] = {"base": settings.base, "missing": note, "ablations": list(map(ablation_json, results))}
    for suffix, written in ((".md", text), (".json", json.dumps(content, indent=1) + "\n")):
        with atomic_write(settings.output / f"{TABLE}{suffix}") as temporary:
            temporary.write_text(written, encoding="utf-8")
    print(text)
