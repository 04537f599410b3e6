"""`framer-jax train`: train a recipe from a configuration file, or continue where its work directory stands."""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax

from framer_jax.commands.model_card import write_card
from framer_jax.commands.provenance import portable
from framer_jax.commands.training_data import open_source, open_training, text_condition
from framer_jax.config import ConfigError, load_config, to_dict
from framer_jax.data.photos import HELD_OUT
from framer_jax.data.pipeline import images_of_records, make_batches, make_prepare
from framer_jax.data.records import RecordFiles
from framer_jax.data.whole_photos import validation_pairs
from framer_jax.degradations.presets import DegradationPreset, preset_by_name
from framer_jax.evaluation.validation import make_validation
from framer_jax.inference.model import BEST, LAST, save_model, weights_file
from framer_jax.knobs import settings_from
from framer_jax.porting.files import sha256_of
from framer_jax.porting.weights import check_same_structure
from framer_jax.recipes.base import Params, Recipe, expected_params
from framer_jax.recipes.stable_diffusion import read_student
from framer_jax.recipes.table import add_framer, build_recipe
from framer_jax.recipes.weights_by_path import digest_of, digests, is_published_student, read_groups
from framer_jax.training.logging import LoggingSettings, default_writer
from framer_jax.training.loop import TrainResult, train
from framer_jax.training.settings import TrainingSettings

WEIGHT_FILES = (  # files are compared by their digests
    "recipe.space.weights",
    "recipe.lpips.weights",
    "recipe.sinsr.teacher",
    "recipe.teacher.weights",
    "recipe.teacher.published.space.weights",
    "recipe.dit4sr.base",
    "recipe.tsd_sr.base",
    "recipe.tsd_sr.teacher_lora",
    "recipe.text.null",
    "recipe.text.wanted",
    "recipe.text.avoided",
    "recipe.dtkd.ramp_steps",  # follows training.steps
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("--config", required=True, help="configuration file, such as configs/starter.py")
    parser.add_argument("--workdir", required=True, help="for checkpoints, weights and logs; resumed if it has any")
    parser.add_argument("--init", metavar="WEIGHTS", help="start from this file; 'starter' is the shipped model")
    parser.add_argument(
        "--set", dest="changes", action="append", default=[], metavar="KEY=VALUE", help="change one knob; repeatable"
    )
    hosts = parser.add_argument_group("several hosts", "start the same command on each host, in a shared --workdir")
    hosts.add_argument("--distributed", action="store_true", help="SLURM, MPI and TPU pods need nothing else")
    hosts.add_argument("--coordinator", metavar="HOST:PORT", help="a free port of the host of process 0")
    hosts.add_argument("--processes", type=int, metavar="N", help="how many hosts (processes) there are")
    hosts.add_argument("--process", type=int, metavar="I", help="which of them this is, from 0")


def run(arguments: argparse.Namespace) -> int:
    """Train and report."""
    config = to_dict(load_config(arguments.config, arguments.changes))
    join_hosts(arguments.distributed, arguments.coordinator, arguments.processes, arguments.process)
    result = train_from_config(config, arguments.workdir, init=arguments.init)
    if jax.process_index() == 0:
        print(result.message)
    return 0


def join_hosts(distributed: bool, coordinator: str | None, processes: int | None, process: int | None) -> None:
    """Make one program of the processes on all hosts; nothing to do for one host. Before any computation.

    Raises:
      ConfigError: what is given does not go together, or the processes do not find each other.
    """
    given = {"--coordinator": coordinator, "--processes": processes, "--process": process}
    missing = [name for name, value in given.items() if value is None]
    if not distributed:
        if len(missing) < len(given):
            raise ConfigError(f"{', '.join(sorted(set(given) - set(missing)))} without --distributed: add it")
        return
    if missing and len(missing) < len(given):
        raise ConfigError(
            f"--distributed also needs {', '.join(missing)} (or none of them, on SLURM, MPI and TPU pods)"
        )
    if processes is not None and process is not None and not 0 <= process < processes:
        raise ConfigError(f"--process {process} must lie in 0 to {processes - 1} (--processes {processes})")
    try:
        jax.distributed.initialize(coordinator, processes, process)
    except (ValueError, RuntimeError) as error:
        text = " ".join(str(error).split())
        raise ConfigError(
            f"--distributed: {text}; if hosts do not find each other, give --coordinator, --processes and --process"
        ) from error


def train_from_config(config: dict[str, Any], workdir: str | Path, init: str | None = None) -> TrainResult:
    """Put a run together and let it go.

    Args:
      config: plain dict of a whole configuration (framer_jax.config.to_dict).
      workdir: of the run; afterwards holds `weights.safetensors` (newest), `best.safetensors` and their `card.md`.
      init: a weights file to start from, or 'starter'; a run is resumed with the one that it was begun with.

    Returns:
      How the run ended; its message also counts and names the damaged images that were skipped (at most 1 % of the
      images, or one, may be damaged: more are an error).

    Raises:
      ConfigError, ValueError, FileNotFoundError: whatever of it cannot be used, in one line.
    """
    workdir = Path(workdir)
    base = build_recipe(config["recipe"])
    recipe = add_framer(base, config["framer"])
    data = config["data"]
    multiple = base.scale * base.lr_multiple
    if data["crop"] % multiple:
        raise ConfigError(f"data.crop {data['crop']} must be a multiple of {multiple} for this recipe")
    try:
        settings = settings_from(TrainingSettings, config["training"], "training")
        logging = settings_from(LoggingSettings, config["logging"], "logging")
    except ValueError as error:
        raise ConfigError(str(error)) from error
    preset = preset_by_name(data["degradation"], base.scale)
    source = open_training(config)
    told = {"text": condition.told(config["recipe"]["name"])} if (condition := text_condition(config)) else {}
    start, digest = starting_weights(base, config["recipe"], init) if init else (base.initial_params, None)
    # What was started from and what stays frozen is a part of what a run is.
    identity = {"init": digest, "weights": digests(config["recipe"])}
    held_out = open_source(data["validation"], HELD_OUT, 1)
    pairs = validation_pairs(held_out, preset, multiple=multiple, limit=data["validation_count"])

    def export(params: Params, step: int, best: bool) -> None:
        if jax.process_index() == 0:
            metadata = {"config": portable(config), "step": step, **identity, **told}
            for name in (LAST, BEST) if best else (LAST,):
                save_model(workdir / name, base, params, metadata)
            write_card(workdir, recipe.name, {group: params[group] for group in base.exported}, metadata)

    batches = _batches(source, data, preset, settings)
    try:
        result = train(
            recipe,
            batches,
            images_of_records if isinstance(source, RecordFiles) else make_prepare(preset),
            settings,
            workdir,
            config_json=json.dumps({**config, **identity}),
            run_info=told,
            record_names=source.names,
            validate=make_validation(base, pairs) if pairs else None,
            export=export,
            may_change=WEIGHT_FILES,
            writer=default_writer(workdir, logging),
            initial_params=start or None,
        )
    finally:
        batches.close()  # ends the worker processes
    parts = (result.message, source.damage(), held_out.damage())
    return replace(result, message="; ".join(dict.fromkeys(part for part in parts if part)))


def _batches(source: Any, data: dict[str, Any], preset: DegradationPreset, settings: TrainingSettings) -> Any:
    return make_batches(
        source,
        data["crop"],
        preset,
        settings.global_batch,
        settings.seed,
        framing=data["framing"],
        turns=data["turns"],
        num_threads=data["threads"],
        num_workers=data["workers"],
    )


def starting_weights(recipe: Recipe, config: dict[str, Any], init: str) -> tuple[Params, str]:
    """The groups of a weights file to start from, and its digest.

    Args:
      recipe: what is trained.
      config: its entry of the configuration.
      init: a weights file or a training directory of ours, a published denoiser, the folder of TSD-SR's LoRAs, or
        'starter', the shipped one.

    Raises:
      ValueError, FileNotFoundError, ImportError: it cannot be read, or does not fit; one line that names it.
    """
    if init != "starter" and is_published_student(init, config):
        return read_student(init, config, recipe), digest_of(init)
    path = weights_file(None if init == "starter" else init)
    params = read_groups(path, config, same_process=False).params
    check_same_structure(params, expected_params(recipe), source=str(path))
    return params, sha256_of(path)
