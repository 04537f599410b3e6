"""DiT4SR's weights: the base of training, published transformers, and runs merged with their base."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from framer_jax.errors import KINDS, with_message
from framer_jax.knobs import settings_from
from framer_jax.models.dit4sr_transformer import resolve_lr_attention, with_control, without_control
from framer_jax.models.mmdit import JointTransformer, block_structure, match_block_layout
from framer_jax.porting.diffusers_folder import CONFIG, model_folder
from framer_jax.porting.table import map_named
from framer_jax.porting.weights import read_metadata
from framer_jax.recipes.base import Params, Recipe, expected_params
from framer_jax.recipes.components.base_model import BASE, base_file, cast_frozen, check_same_size
from framer_jax.recipes.components.networks import execution_knobs
from framer_jax.recipes.dit4sr.recipe import LORA, merge_params
from framer_jax.recipes.dit4sr.settings import Dit4srSettings
from framer_jax.recipes.method import (
    PHOTOS,
    Build,
    Config,
    MergedNetwork,
    Published,
    TrainedRun,
    WeightReader,
    with_values,
)
from framer_jax.trees import check_same_structure

BASE_FILE = base_file("dit4sr")

NETWORK, BASE_NETWORK = "dit4sr_transformer", "mmdit"
"""Weight maps of DiT4SR's transformer and of the one it builds on."""

CONTROL_ARGUMENTS = ("variant", "lr_attention", "control_scale")
"""Constructor arguments of DiT4SR's transformer that Stable Diffusion's does not have."""


def read_base(path: str, arguments: Mapping[str, Any], reader: WeightReader) -> Params:
    """The denoiser's parameters to start from: DiT4SR's, or Stable Diffusion 3.5's with control layers added.

    Args:
      path: file or folder (a pipeline's, or its transformer/), in Diffusers' layout or from `framer-jax port`.
      arguments: constructor arguments of the denoiser; also 'channels' of the autoencoder's latents, 'positions' and
        'position_base', where they are known.
      reader: reads the weights.

    Raises:
      FileNotFoundError, ImportError, ValueError: the weights cannot be read, or are of another size than configured;
        one line that names the knobs.
    """
    knob = BASE_FILE.knob
    # Where no second attention shows the variant, it is the configured one; otherwise another one is refused below.
    dual = arguments["dual_blocks"] or arguments.get("dual_layers")
    other = {"variant"} if dual and arguments["variant"] != "released" else set()
    configured = {name: value for name, value in arguments.items() if name not in other}
    model, base = reader.transformer(
        knob, path, (BASE_NETWORK, NETWORK), "Stable Diffusion 3.5's transformer", configured
    )
    channels = base.arguments["channels"]
    if channels != arguments.get("channels", channels):
        raise ValueError(
            f"{knob} {path} denoises latents of {channels} channels, and the autoencoder of recipe.space makes "
            f"{arguments['channels']}: set recipe.space.checkpoint to the one that belongs to it"
        )
    also = ("variant",) if model == NETWORK else ()
    source = f"{knob} {path}, {map_named(model).describe(base.arguments)},"
    check_same_size(base.arguments, arguments, f"recipe.denoiser.{NETWORK}", source, also)
    known = [name for name in ("positions", "position_base") if name in base.arguments and name in arguments]
    if any(base.arguments[name] != arguments[name] for name in known):
        raise ValueError(f"{knob} {path} has a position table that no published model has: use one of those")
    return base.params if model == NETWORK else with_control(base.params, arguments["variant"])


def published_by(build: Build) -> Published:
    """Whole transformers, as published or ported, as models of DiT4SR: the recipe as training would start from it."""

    def matches(path: Path, config: Config) -> bool:
        return path.exists() and "config" not in read_metadata(path)

    def in_folder(folder: Path) -> bool:
        return (model_folder(folder, BASE_FILE.part) / CONFIG).is_file()

    def open_published(path: Path, config: Config, purpose: str, reader: WeightReader) -> tuple[Recipe, Params]:
        section = config["dit4sr"]
        base = section["base_checkpoint"]
        if base and Path(base).resolve() != path.resolve():
            raise ValueError(
                f"{path} is a whole transformer, and {BASE_FILE.knob} names another, {base}: leave that empty"
            )
        if section["lora_modules"]:
            raise ValueError(
                f"{path} is a transformer without the LoRA of recipe.dit4sr.lora_modules: leave that empty"
            )
        try:
            recipe = build(with_values(config, {BASE_FILE.path: str(path)}), purpose, PHOTOS, reader)
        except KINDS as error:  # the path was given as weights, not as a base
            raise with_message(error, str(error).replace(BASE_FILE.knob, "weights")) from error
        return recipe, dict(recipe.initial_params)

    return Published(matches, in_folder, open_published, None, (), "dit4sr_sd35")


def merge(run: TrainedRun, build: Build, model: str) -> MergedNetwork:
    """A run as one whole transformer: the trained parameters joined with the frozen base, the LoRA merged.

    Args:
      run: the run.
      build: builds the recipe, whose parameters the run must have.
      model: 'dit4sr_transformer', or 'mmdit' if the control layers have no effect.

    Raises:
      ValueError: the run lacks parameters, or its control layers have an effect and 'mmdit' has none.
    """
    recipe = build(run.config, "description", PHOTOS, run.reader)
    check_same_structure(run.groups, expected_params(recipe), str(run.path))
    arguments = dict(run.config["denoiser"][NETWORK])
    unstacked = JointTransformer(**block_structure(arguments))
    groups = {name: match_block_layout(group, unstacked) for name, group in run.groups.items()}
    settings = settings_from(Dit4srSettings, run.config["dit4sr"], "recipe.dit4sr")
    dependencies: tuple[Path, ...] = ()
    frozen = {}
    if settings.base_checkpoint:
        dependencies = (run.dependency(BASE_FILE.path),)
        frozen = cast_frozen(read_base(str(dependencies[0]), arguments, run.reader), settings.base_dtype)
    params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float32), merge_params(groups, {BASE: frozen}, settings))
    omitted = {"taps", *execution_knobs(NETWORK)}
    if model == BASE_NETWORK:
        omitted |= set(CONTROL_ARGUMENTS)
        try:
            params = without_control(params, resolve_lr_attention(arguments["lr_attention"], arguments["variant"]))
        except ValueError as error:
            raise ValueError(f"{run.path}: {error}: use --model {NETWORK}") from error
    arguments = {name: value for name, value in arguments.items() if name not in omitted}
    return MergedNetwork(params, arguments, groups.get(LORA, {}), lambda rank: settings.lora_alpha, dependencies)
