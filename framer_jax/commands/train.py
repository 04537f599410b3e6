"""`framer-jax train`: train a recipe from a configuration file, or continue where its work directory stands."""

from __future__ import annotations

import argparse
import json
import logging
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax

from framer_jax.checkpoints.autoencoder import read_preview
from framer_jax.checkpoints.groups import read_groups
from framer_jax.checkpoints.migration import migrate
from framer_jax.checkpoints.open import READER, build_recipe
from framer_jax.checkpoints.paths import digest_of, digests, with_local_weights
from framer_jax.commands.end_notice import end_at_once, notice_of_sudden_end
from framer_jax.commands.exports import WeightFiles
from framer_jax.commands.override_option import add_override_option
from framer_jax.commands.provenance import portable
from framer_jax.commands.quiet_option import add_quiet_option
from framer_jax.commands.training_data import (
    open_training,
    open_validation,
    pairs_info,
    text_condition,
    training_kind,
)
from framer_jax.config import (
    ConfigError,
    check_config,
    knob_table,
    load_config,
    to_dict,
    unusual_settings,
    with_later_knobs,
)
from framer_jax.data.pipeline import make_batches, prepare_for
from framer_jax.data.settings import degradation_preset
from framer_jax.data.workers import check_main_module
from framer_jax.degradations.presets import DegradationPreset
from framer_jax.evaluation.validation import make_validation
from framer_jax.inference.model import BEST, LAST, SHIPPED, weights_file
from framer_jax.inference.named_models import MODELS
from framer_jax.knobs import nearest, settings_from
from framer_jax.models.layers import KERNEL_BACKENDS
from framer_jax.paths import AnyPath, as_path, check_local, local_copy
from framer_jax.porting.files import check_outputs, sha256_of
from framer_jax.recipes.base import Frozen, Params, Recipe, expected_params
from framer_jax.recipes.components.networks import network_section
from framer_jax.recipes.framer import add_framer
from framer_jax.recipes.table import method_of
from framer_jax.training.checkpoint import saved_steps
from framer_jax.training.hosts import all_or_none, first_host_first, host_rows
from framer_jax.training.logging import LoggingSettings, default_writer
from framer_jax.training.loop import CHECKPOINTS, train
from framer_jax.training.run import TrainResult
from framer_jax.training.settings import TrainingSettings
from framer_jax.training.workdir import check_name, check_unlocked
from framer_jax.trees import check_same_structure

LOGGER = logging.getLogger(__name__)

HEARTBEAT_TIMEOUT = 30
"""Seconds without a sign of life after which JAX takes a process for dead, and ends the others."""

INTERRUPTED = 130
"""Exit status after Ctrl-C, as shells use it."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument(
        "--config", required=True, help="a shipped configuration by name, such as starter, or a Python file"
    )
    parser.add_argument("--workdir", required=True, help="for checkpoints, weights and logs; resumed if it has any")
    parser.add_argument(
        "--init", metavar="WEIGHTS", help="start from this file; or a shipped model: starter, diffusion, standard"
    )
    add_override_option(parser)
    parser.add_argument(
        "--stop-after-minutes",
        type=float,
        metavar="M",
        help="save and stop after M minutes; the same command resumes (as --set training.stop_after_minutes=M)",
    )
    add_quiet_option(parser)
    hosts = parser.add_argument_group("several hosts", "start the same command on each host, in a shared --workdir")
    hosts.add_argument("--distributed", action="store_true", help="SLURM, MPI and TPU pods need nothing else")
    hosts.add_argument("--coordinator", metavar="HOST:PORT", help="a free port of the host of process 0")
    hosts.add_argument("--processes", type=int, metavar="N", help="how many hosts (processes) there are")
    hosts.add_argument("--process", type=int, metavar="I", help="which of them this is, from 0")


def run(arguments: argparse.Namespace) -> int:
    """Train and report."""
    limit = arguments.stop_after_minutes
    changes = [] if limit is None else [f"training.stop_after_minutes={limit}"]
    config = to_dict(load_config(arguments.config, [*arguments.overrides, *changes]))
    if not arguments.workdir:
        raise ConfigError("--workdir is empty: name a folder")
    initialize_distributed(arguments.distributed, arguments.coordinator, arguments.processes, arguments.process)
    if arguments.distributed:
        return _run_distributed(config, arguments)
    try:
        result = train_from_config(config, arguments.workdir, init=arguments.init, quiet=arguments.quiet)
    except KeyboardInterrupt:
        print(f"framer-jax train: interrupted; {_resumable(as_path(arguments.workdir))}", file=sys.stderr)
        return INTERRUPTED
    print(result.message)
    return 0


def _run_distributed(config: dict[str, Any], arguments: argparse.Namespace) -> int:
    """The same as one of several processes; an error ends it at once, and thereby the others."""
    name = f"process {jax.process_index()} of {jax.process_count()}"
    remedy = "start the same command on all hosts to resume"
    try:
        with notice_of_sudden_end(name, as_path(arguments.workdir) / CHECKPOINTS, remedy):
            result = train_from_config(config, arguments.workdir, init=arguments.init, quiet=arguments.quiet)
    except Exception as error:
        end_at_once(error)
        raise
    if jax.process_index() == 0:
        print(result.message)
    return 0


def _resumable(workdir: AnyPath) -> str:
    """What the same command would do after an interruption."""
    steps = saved_steps(workdir / CHECKPOINTS)
    if not steps:
        return "no step is saved: the same command begins anew"
    return f"step {steps[-1]} is saved in {workdir / CHECKPOINTS / str(steps[-1])}: run the same command to resume"


def initialize_distributed(
    distributed: bool, coordinator: str | None, processes: int | None, process: int | None
) -> None:
    """Connect the processes of all hosts, before any computation; nothing to do for one host.

    Raises:
      ConfigError: the arguments do not fit together, or the processes do not find each other.
    """
    options = {"--coordinator": coordinator, "--processes": processes, "--process": process}
    missing = [name for name, value in options.items() if value is None]
    if not distributed:
        if len(missing) < len(options):
            raise ConfigError(f"{', '.join(sorted(set(options) - set(missing)))} without --distributed: add it")
        return
    if missing and len(missing) < len(options):
        raise ConfigError(
            f"--distributed also needs {', '.join(missing)} (or none of them, on SLURM, MPI and TPU pods)"
        )
    if processes is not None and process is not None and not 0 <= process < processes:
        raise ConfigError(f"--process {process} must lie in 0 to {processes - 1} (--processes {processes})")
    try:
        jax.distributed.initialize(coordinator, processes, process, heartbeat_timeout_seconds=HEARTBEAT_TIMEOUT)
    except (ValueError, RuntimeError) as error:
        text = " ".join(str(error).split())
        raise ConfigError(
            f"--distributed: {text}; if hosts do not find each other, give --coordinator, --processes and --process"
        ) from error


def train_from_config(
    config: dict[str, Any], workdir: str | AnyPath, init: str | None = None, quiet: bool = False
) -> TrainResult:
    """Set up a run and train.

    Args:
      config: plain dict of a whole configuration (framer_jax.config.to_dict).
      workdir: work directory of the run, on this machine or in gs://; afterwards it holds `weights.safetensors`
        (newest), `best.safetensors` and their `card.md`.
      init: a weights file to start from, or the name of a shipped model; a run is resumed with the one that it was
        begun with.
      quiet: no progress bar, and no lines on the console.

    Returns:
      How the run ended; its message also counts and names the damaged images that were skipped (at most 1 % of the
      images, or one, may be damaged: more are an error).

    Raises:
      ConfigError, ValueError, FileNotFoundError: an input that cannot be used, in one line.
    """
    workdir, data = as_path(workdir), config["data"]
    with all_or_none():
        _check_before_reading(config, workdir)
        config, init = with_local_weights(config), local_copy(init) if init else None
        check_initial_file(workdir, init)
        base = build_recipe(config["recipe"], data=training_kind(config))
        recipe = add_framer(base, config["framer"])
        _check_crop(data["crop"], base)
        settings: TrainingSettings = settings_from(TrainingSettings, config["training"], "training")
        preset = degradation_preset(data, base.scale)
    source = first_host_first(lambda: open_training(config))
    with all_or_none():
        text = text_info(config)
        initial, identity = _weights_to_begin_with(base, config["recipe"], init)
        preview = preview_decoder(config, base)
    pairs, held_out_damage = first_host_first(lambda: open_validation(config, preset, base.scale, base.lr_multiple))
    info = pairs_info(config, source) if jax.process_index() == 0 else {}  # only the first host logs

    batches = _batches(source, data, preset, settings)
    try:
        result = train(
            recipe,
            batches,
            prepare_for(source, preset, recipe.batch_entries),
            settings,
            workdir,
            config_json=json.dumps({**config, **identity}),
            may_change=paths_that_may_change(config),
            migrate=lambda saved: with_later_knobs(migrate(saved)),
            run_info={**text, **attention_info(config), **info},
            record_names=source.names,
            file_digests=source.digests(),
            unusual_settings=unusual_settings(config),
            validate=make_validation(base, pairs, preview=preview) if pairs else None,
            export=WeightFiles(workdir, recipe.name, base, {"config": portable(config), **identity, **text}),
            writer=default_writer(workdir, LoggingSettings(**config["logging"]), quiet),
            quiet=quiet,
            initial_params=initial or None,
        )
    finally:
        batches.close()  # ends the worker processes
    parts = (result.message, source.damage(), held_out_damage())
    return replace(result, message="; ".join(dict.fromkeys(part for part in parts if part)))


def _check_crop(crop: int, recipe: Recipe) -> None:
    multiple = recipe.scale * recipe.lr_multiple
    if crop % multiple:
        raise ConfigError(f"data.crop {crop} must be a multiple of {multiple} for this recipe")


def _weights_to_begin_with(recipe: Recipe, config: dict[str, Any], init: str | None) -> tuple[Params, dict[str, Any]]:
    """The groups that do not start at random; and what identifies them and the frozen weights, as part of the run."""
    named, digest = initial_weights(recipe, config, init) if init else ({}, None)
    return {**recipe.initial_params, **named}, {"init": digest, "weights": digests(config)}


def _check_before_reading(config: dict[str, Any], workdir: AnyPath) -> None:
    check_config(config)
    check_name(workdir)
    if config["logging"]["tensorboard"]:
        check_local(workdir, "logging.tensorboard (leave it off: metrics.jsonl is written there)")
    if config["logging"]["wandb"]:
        check_local(workdir, "logging.wandb, which keeps its files in the work directory")
    if config["training"]["profile_step"]:
        check_local(workdir, "training.profile_step, whose trace is written to the work directory")
    check_unlocked(workdir)
    check_main_module(config["data"]["workers"])


def check_initial_file(workdir: AnyPath, init: str | None) -> None:
    """Refuse to start from a file that does not exist, or that the run would replace with its own weights.

    Raises:
      FileNotFoundError: there is no such file, folder or shipped model.
      ValueError: as of framer_jax.porting.files.check_outputs.
    """
    if not init or init in SHIPPED:
        return
    path = weights_file(init, folders=True)
    if not path.exists():
        hint = ": name the file of that model" if init in MODELS else nearest(init, SHIPPED)
        raise FileNotFoundError(f"--init {init}: no such file, and no shipped model of that name{hint}")
    if isinstance(workdir, Path) and path.is_file():  # otherwise `init` is a file of another machine
        outputs = {f"the weights of {workdir}": workdir / LAST, f"the best weights of {workdir}": workdir / BEST}
        check_outputs(outputs, {"--init": [path]}, "copy the file to another folder")


def text_info(config: dict[str, Any]) -> dict[str, str]:
    """A line about the text that conditions the denoiser, for logs and metadata; {} for methods without text."""
    method, condition = method_of(config["recipe"]), text_condition(config)
    if condition is None or method.text_summary is None:
        return {}
    return {"text": method.text_summary(condition.condition, condition.caption_dropout)}


def attention_info(config: dict[str, Any]) -> dict[str, str]:
    """A line for the log where the network's attention names a kernel that this machine's backend does not have."""
    section, network = network_section(config["recipe"])
    kernel, backend = config["recipe"][section][network].get("attention"), jax.default_backend()
    if KERNEL_BACKENDS.get(kernel, backend) == backend:
        return {}
    knob = f"recipe.{section}.{network}.attention"
    needed = KERNEL_BACKENDS[kernel].upper()
    return {"attention": f"{knob} is {kernel}, a kernel for {needed}s; on this {backend.upper()} it is computed as xla"}


def preview_decoder(config: dict[str, Any], recipe: Recipe) -> Frozen:
    """The tiny decoder that `data.validation_preview` names, see framer_jax.checkpoints.autoencoder.read_preview."""
    knob, path = "data.validation_preview", config["data"]["validation_preview"]
    if not path:
        return {}
    space = config["recipe"].get("space", {}).get("name", "")
    decoder = read_preview(path, recipe.frozen, space, knob)
    LOGGER.warning("validation images and scores are of previews, decoded by %s (%s)", path, knob)
    return decoder


def paths_that_may_change(config: dict[str, Any]) -> tuple[str, ...]:
    """Knobs of the recipe that may differ between a checkpoint and the run that resumes it.

    These are paths of weights, whose digests are compared instead, and knobs that follow another one.
    """
    recipe = config["recipe"]
    files = [file.knob for file in method_of(recipe).weight_files]
    return (*files, *(name for name, knob in knob_table(recipe["name"]) if knob.follows))


def _batches(source: Any, data: dict[str, Any], preset: DegradationPreset, settings: TrainingSettings) -> Any:
    return make_batches(
        source,
        data["crop"],
        preset,
        settings.global_batch,
        settings.seed,
        crop_mode=data["crop_mode"],
        flip_and_rotate=data["flip_and_rotate"],
        num_threads=data["threads"],
        num_workers=data["workers"],
        rows=host_rows(settings),
    )


def initial_weights(recipe: Recipe, config: dict[str, Any], init: str) -> tuple[Params, str]:
    """The groups of a weights file to start from, and its digest.

    Args:
      recipe: the recipe that is trained.
      config: the configuration's `recipe` section.
      init: a weights file or a training directory, a published network, a folder that the method's authors publish, or
        the name of a shipped model.

    Raises:
      ValueError, FileNotFoundError, ImportError: it cannot be read, or does not fit; one line that names it.
    """
    published = method_of(config).published
    if init not in SHIPPED and published and published.initialize and published.matches(Path(init), config):
        return published.initialize(Path(init), config, recipe, READER), digest_of(init)
    path = SHIPPED.get(init) or weights_file(init)
    params = read_groups(path, config, same_process=False).params
    check_same_structure(params, expected_params(recipe), source=str(path))
    return params, sha256_of(path)
