"""`framer-jax pretrain`: train HF-Diff's feature extractor as a classifier, or continue where its directory stands."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from framer_jax.commands.exports import WeightFiles
from framer_jax.commands.model_card import CARD
from framer_jax.commands.override_option import add_override_option
from framer_jax.commands.quiet_option import add_quiet_option
from framer_jax.config import ConfigError, declare_knob
from framer_jax.data.class_folders import ClassDataSettings, LabelledPhotos, class_folders
from framer_jax.data.pipeline import make_batches, prepare_labelled
from framer_jax.evaluation.classification import make_validation, scores_of
from framer_jax.knobs import Knob, check_values, knobs_of, settings_from
from framer_jax.models.hf_extractor import HFExtractor
from framer_jax.overrides import apply_override, parse_override
from framer_jax.porting.files import atomic_write
from framer_jax.recipes.base import Params, Recipe
from framer_jax.recipes.components.networks import DTYPES
from framer_jax.recipes.hf_extractor.recipe import EXTRACTOR, classify, hf_extractor
from framer_jax.recipes.method import DTYPES as DTYPE_NAMES
from framer_jax.training.hosts import first_host_first, host_rows
from framer_jax.training.logging import LoggingSettings, default_writer
from framer_jax.training.loop import train
from framer_jax.training.run import TrainResult
from framer_jax.training.settings import TrainingSettings
from framer_jax.training.workdir import check_name, check_unlocked

EPOCHS = 20
"""Passes over the images, as in Algorithm 2."""

ALGORITHM_2: Mapping[str, Any] = {
    "global_batch": 32,
    "learning_rate": 5e-4,
    "schedule": "staircase",
    "decay_factor": 0.95,
    "decay_every": 5000,
    "warmup_steps": 0,
    "best_metric": None,
}
"""Defaults of the section `training` that HF-Diff states, and those without which it would contradict them."""

SECTIONS: Mapping[str, type] = {
    EXTRACTOR: HFExtractor,
    "data": ClassDataSettings,
    "training": TrainingSettings,
    "logging": LoggingSettings,
}
"""Section of the configuration → the class with its knobs."""

FROM_DATA = ("extractor.classes", "training.steps")
"""Knobs whose values follow from the images and --epochs."""

DTYPE = Knob("dtype", str, False, "float32", "Compute dtype of the network.", choices=DTYPE_NAMES)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("--classes", required=True, metavar="FOLDER", help="a folder with a folder of images per class")
    parser.add_argument("--validation", metavar="FOLDER", help="such a folder of held-out images of the same classes")
    parser.add_argument("--workdir", required=True, help="for checkpoints, weights and logs; resumed if it has any")
    parser.add_argument("--epochs", type=int, default=EPOCHS, help=f"passes over the images ({EPOCHS}, as published)")
    add_override_option(parser, "override one knob of the sections extractor, data, training and logging")
    add_quiet_option(parser)


def run(arguments: argparse.Namespace) -> int:
    """Train and report."""
    config = pretraining_config(arguments.classes, arguments.validation or "", arguments.overrides)
    result = pretrain(config, arguments.workdir, arguments.epochs, arguments.quiet)
    if jax.process_index() == 0:
        print(result.message)
    return 0


def pretraining_config(train: str, validation: str = "", overrides: Sequence[str] = ()) -> dict[str, Any]:
    """The configuration of a pre-training: the defaults of the paper and of this library, with overrides.

    Args:
      train: folder with a folder of images for each class.
      validation: such a folder of held-out images, or ''.
      overrides: such as 'extractor.modules=5' or 'data.crop=64'.

    Raises:
      ConfigError: an unknown knob, a value that is not legal, or one that follows from the images.
    """
    config, knobs = ConfigDict(), {}
    for section, settings in SECTIONS.items():
        config[section] = ConfigDict()
        for each in (*knobs_of(settings), *((DTYPE,) if section == EXTRACTOR else ())):
            declare_knob(config[section], each)
            knobs[f"{section}.{each.name}"] = each
    for name, value in ALGORITHM_2.items():
        config.training[name] = value
    config.data.train, config.data.validation = train, validation
    config.lock()
    try:
        for key, text in map(parse_override, overrides):
            if key in (*FROM_DATA, "data.train", "data.validation"):
                raise ConfigError(f"{key} cannot be set: it follows from --classes, --validation and --epochs")
            apply_override(config, key, text, knobs)
        plain: dict[str, Any] = json.loads(json.dumps(config.to_dict()))
        for section in SECTIONS:
            of_section = [knob for name, knob in knobs.items() if name.startswith(f"{section}.")]
            check_values(of_section, plain[section], section)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    return plain


def pretrain(config: dict[str, Any], workdir: str | Path, epochs: int = EPOCHS, quiet: bool = False) -> TrainResult:
    """Train the extractor.

    Args:
      config: as of `pretraining_config`; the number of classes and of steps are filled in.
      workdir: gets `weights.safetensors` (a ported file of the model 'hf_extractor'), `card.md`, checkpoints and logs.
      epochs: passes over the images; the last batch of the run is the last that is full.
      quiet: print nothing while it runs.

    Raises:
      ConfigError, ValueError, FileNotFoundError: an input that cannot be used, in one line.
    """
    workdir = Path(workdir)
    check_name(workdir)
    check_unlocked(workdir)
    data: ClassDataSettings = settings_from(ClassDataSettings, config["data"], "data")
    _check_outside(workdir, data)
    least_side = data.crop if data.crop_mode == "crop" else 1
    source = first_host_first(lambda: class_folders(data.train, least_side, data.small_share))
    held_out = first_host_first(
        lambda: class_folders(data.validation, 1, 0.0, source.classes) if data.validation else None
    )
    config = _complete(config, source, epochs)
    settings: TrainingSettings = settings_from(TrainingSettings, config["training"], "training")
    module, recipe, arguments = _network(config[EXTRACTOR])
    _check_best_metric(settings.best_metric, scores_of(source.classes) if held_out else ())
    metadata = _metadata(config, arguments, source)
    score = partial(classify, module)
    checked = (data.crop, data.crop_mode, data.validation_count, settings.global_batch)
    validate = make_validation(score, held_out, *checked) if held_out else None
    batches = make_batches(
        source,
        data.crop,
        None,
        settings.global_batch,
        settings.seed,
        crop_mode=data.crop_mode,
        num_threads=data.threads,
        num_workers=data.workers,
        rows=host_rows(settings),
    )
    try:
        result = train(
            recipe,
            batches,
            prepare_labelled,
            settings,
            workdir,
            config_json=json.dumps(config),
            may_change=("data.train", "data.validation", "data.validation_count"),
            run_info={"data": f"{len(source)} images of {len(source.classes)} classes, {epochs} epochs"},
            record_names=source.names,
            file_digests=source.digests(),
            validate=validate,
            export=WeightFiles(workdir, recipe.name, recipe, metadata, EXTRACTOR, write_card),
            writer=default_writer(workdir, LoggingSettings(**config["logging"]), quiet),
            quiet=quiet,
        )
    finally:
        batches.close()  # ends the worker processes
    return replace(result, message="; ".join(part for part in (result.message, source.damage()) if part))


def _network(section: Mapping[str, Any]) -> tuple[HFExtractor, Recipe, dict[str, Any]]:
    """The network of the `extractor` section, its recipe and its arguments."""
    arguments = {name: value for name, value in section.items() if name != DTYPE.name}
    try:
        module = HFExtractor(**arguments, dtype=DTYPES[section[DTYPE.name]])
        return module, hf_extractor(module), arguments
    except ValueError as error:
        raise ConfigError(f"extractor: {error}") from error


def _check_outside(workdir: Path, data: ClassDataSettings) -> None:
    """Refuse a work directory among the images, where its folders would be taken for classes."""
    for option, folder in (("--classes", data.train), ("--validation", data.validation)):
        if folder and workdir.resolve().is_relative_to(Path(folder).resolve()):
            raise ConfigError(
                f"--workdir {workdir} lies in the folder of {option}: name a folder outside of the images"
            )


def _complete(config: Mapping[str, Any], source: LabelledPhotos, epochs: int) -> dict[str, Any]:
    """The configuration with the numbers of classes and steps; a ConfigError if there is no step."""
    if epochs < 1:
        raise ConfigError(f"--epochs is {epochs}: it must be at least 1")
    count, classes, batch = len(source), len(source.classes), config["training"]["global_batch"]
    if not (steps := epochs * count // batch):
        raise ConfigError(
            f"{epochs} epoch(s) of {count} images are less than one batch of {batch}: use more epochs, or a smaller "
            "training.global_batch"
        )
    return {
        **config,
        EXTRACTOR: {**config[EXTRACTOR], "classes": classes},
        "training": {**config["training"], "steps": steps},
    }


def _check_best_metric(name: str | None, known: Sequence[str]) -> None:
    if name and not known:
        raise ConfigError(f"training.best_metric is {name!r}, and there is no validation: add --validation, or omit it")
    if name and name not in known:
        raise ConfigError(f"training.best_metric is {name!r}: validation gives {', '.join(known)}")


def _metadata(config: Mapping[str, Any], arguments: Mapping[str, Any], source: LabelledPhotos) -> dict[str, Any]:
    """Metadata of a ported network, with how it was trained."""
    data = {**config["data"], **{key: Path(config["data"][key]).name for key in ("train", "validation")}}
    return {
        "model": "hf_extractor",
        "arguments": dict(arguments),
        "source": {"files": [], "notes": [], "assumed": []},
        "pretraining": {"data": data, "training": config["training"], "images": len(source), "classes": source.classes},
    }


def write_card(workdir: Path, name: str, params: Params, metadata: Mapping[str, Any]) -> None:
    """Write the page on an extractor next to its weights: what it was trained on, how long, and what it is for."""
    trained, arguments = metadata["pretraining"], metadata["arguments"]
    data, training = trained["data"], trained["training"]
    count = sum(leaf.size for leaf in jax.tree.leaves(params))
    rows = {
        "network": f"variant {arguments['variant']}, {arguments['modules']} invertible modules of "
        f"{arguments['channels']} channels, {count:,} parameters with its classifier",
        "data": f"{data['train']}, {trained['images']} images of {len(trained['classes'])} classes, "
        f"{data['crop_mode']}s of {data['crop']} pixels",
        "training": f"{metadata['step']} of {training['steps']} steps, global batch {training['global_batch']}, seed "
        f"{training['seed']}",
        "for": "`recipe.hf_diff.extractor_checkpoint`",
    }
    lines = [f"# {name}", "", "| | |", "|---|---|", *(f"| {row} | {value} |" for row, value in rows.items()), ""]
    with atomic_write(workdir / CARD) as temporary:
        temporary.write_text("\n".join(lines), encoding="utf-8", errors="backslashreplace")
