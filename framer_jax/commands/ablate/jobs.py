"""The jobs of an ablation, one per arm and seed: train, upscale and evaluate, by the commands of those names."""

from __future__ import annotations

import argparse
import importlib
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from framer_jax.commands.ablate.pairs import pair_folders
from framer_jax.commands.ablate.settings import IMAGES, PAIRS, RUNS, SCORES, AblationSettings, arm_config
from framer_jax.config import load_config
from framer_jax.evaluation.comparison import ScoreFile, read_scores
from framer_jax.evaluation.files import image_files
from framer_jax.evaluation.table import upscale_settings
from framer_jax.inference.model import LAST
from framer_jax.porting.files import sha256_of
from framer_jax.training.checkpoint import saved_steps
from framer_jax.training.loop import CHECKPOINTS

INTERRUPTED = 130
"""Exit status of `framer-jax train` after Ctrl-C."""


class Job(NamedTuple):
    """One arm with one seed.

    Attributes:
      number: its number, from 0; the seeds of an arm follow one another.
      arm: the arm.
      seed: the seed of its training.
      config: its configuration.
      overrides: the overrides of the configuration, the seed last.
      run: work directory of the training.
      images: folder of the upscaled images.
      scores: file of their scores.
    """

    number: int
    arm: str
    seed: int
    config: str
    overrides: tuple[str, ...]
    run: Path
    images: Path
    scores: Path

    @property
    def name(self) -> str:
        """Arm and seed, as its folders are called."""
        return self.run.name


class ScoreOptions(NamedTuple):
    """The files of metrics, as `framer-jax evaluate` takes them.

    Attributes:
      niqe_model: pristine model of NIQE, or None.
      lpips_weights: files of LPIPS.
      dists_weights: files of DISTS.
    """

    niqe_model: str | None = None
    lpips_weights: tuple[str, ...] = ()
    dists_weights: tuple[str, ...] = ()


def plan_jobs(settings: AblationSettings) -> list[Job]:
    """All jobs in their order."""
    jobs: list[Job] = []
    for arm, overlay in settings.arms.items():
        for seed in settings.seeds:
            name = f"{arm}-s{seed}"
            run, images = settings.output / RUNS / name, settings.output / IMAGES / name
            scores = settings.output / SCORES / f"{name}.json"
            config, overrides = arm_config(settings.base, overlay, settings.overrides, seed)
            jobs.append(Job(len(jobs), arm, seed, config, overrides, run, images, scores))
    return jobs


def job_commands(job: Job, settings: AblationSettings, options: ScoreOptions) -> list[list[str]]:
    """The words of the three commands of a job, which `run_job` runs and `--list` prints."""
    lr, reference = pair_folders(settings.pairs, settings.output / PAIRS)
    changes = [word for override in job.overrides for word in ("--set", override)]
    train = ["train", "--config", job.config, "--workdir", str(job.run), *changes]
    train += ["--init", settings.init] if settings.init else []
    # The whole configuration is named for upscaling, too: a run's weights hold the names of further files, not paths.
    upscale = ["upscale", str(lr), str(job.images), "--weights", str(job.run), "--recipe", job.config, *changes]
    upscale += ["--recursive", "--skip-existing", *(["--steps", str(settings.steps)] if settings.steps else [])]
    evaluate = ["evaluate", str(job.images), "--reference", str(reference), "--metrics", ",".join(settings.metrics)]
    evaluate += [
        "--json",
        str(job.scores),
        "--resume",
        *(["--niqe-model", options.niqe_model] if options.niqe_model else []),
    ]
    for name in ("lpips_weights", "dists_weights"):
        files = getattr(options, name)
        evaluate += [f"--{name.replace('_', '-')}", *files] if files else []
    return [train, upscale, evaluate]


def command_line(words: Sequence[str]) -> str:
    """A command for a shell."""
    return shlex.join(["framer-jax", *words])


def finished(job: Job, settings: AblationSettings) -> ScoreFile | None:
    """The scores of a job that is complete, or None; an interrupted evaluation is not complete.

    Raises:
      ValueError: the file is damaged, or lacks a metric.
    """
    if not job.scores.is_file():
        return None
    scores = read_scores(job.scores, unfinished=True)
    if not scores.metadata.get("complete", True):
        return None
    if missing := [name for name in settings.metrics if name not in scores.scores]:
        raise ValueError(f"{job.scores} lacks {', '.join(missing)}: remove it, and the images are scored again")
    return scores


def state_of(job: Job, settings: AblationSettings) -> str:
    """How far a job is, in one word: complete, trained, begun or open; damaged for scores that cannot be read."""
    try:
        if finished(job, settings):
            return "complete"
    except ValueError:
        return "damaged"
    steps = saved_steps(job.run / CHECKPOINTS)
    if not steps:
        return "open"
    return "trained" if steps[-1] >= load_config(job.config, job.overrides).training.steps else "begun"


def run_job(job: Job, settings: AblationSettings, options: ScoreOptions, quiet: bool = False) -> None:
    """Train, upscale and evaluate; what is there is continued.

    Everything runs in this process, which costs less than one process per job and, since the caches are cleared after
    each job, no more memory. Programs of other seeds come from JAX's cache on disk.

    Raises:
      KeyboardInterrupt: the training was interrupted by a signal, after it saved its last step.
      Exception: as of the three commands.
      ValueError: the training stopped at training.stop_after, images are missing, or are of other weights.
    """
    more = ["--quiet"] if quiet else []
    train, upscale, evaluate = ([*words, *more] for words in job_commands(job, settings, options))
    _check_trained(job, _run_command(train))
    if _run_command(upscale):
        raise ValueError(f"{job.images}: not all images were upscaled (see above)")
    made = upscale_settings(image_files(job.images).paths)
    if made.get("checkpoint") != [sha256_of(job.run / LAST)]:
        raise ValueError(f"{job.images} holds images of other weights than {job.run}: remove this folder")
    job.scores.parent.mkdir(parents=True, exist_ok=True)
    _run_command(evaluate)  # a status of 1 means that an image has no score, which the file says


def _check_trained(job: Job, status: int) -> None:
    """Tell a complete training from one that stopped."""
    knobs, steps = load_config(job.config, job.overrides).training, saved_steps(job.run / CHECKPOINTS)
    last = steps[-1] if steps else 0
    if status == INTERRUPTED or (last < knobs.steps and last != knobs.stop_after):
        raise KeyboardInterrupt
    if last < knobs.steps:
        raise ValueError(f"the training stopped at step {last} of {knobs.steps} (training.stop_after)")


def _run_command(words: Sequence[str]) -> int:
    """Run a command of this package as its command line would."""
    module = importlib.import_module(f"framer_jax.commands.{words[0]}")
    parser = argparse.ArgumentParser(prog=f"framer-jax {words[0]}")
    module.add_arguments(parser)
    return int(module.run(parser.parse_args(words[1:])))
