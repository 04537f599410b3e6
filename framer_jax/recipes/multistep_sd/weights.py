"""Weights of the multi-step method: the U-Net to start from with a ControlNet added, and runs as whole networks."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from framer_jax.data.text import TextSizes
from framer_jax.knobs import settings_from
from framer_jax.models.controlled_unet import CONTROLNET, UNET, ControlledUNet
from framer_jax.recipes.base import Params, expected_params
from framer_jax.recipes.components.base_model import cast_frozen, join_params, split_params, zeros_like_inputs
from framer_jax.recipes.components.networks import build_denoiser
from framer_jax.recipes.components.sd_base import build_space, read_unet, unet_file
from framer_jax.recipes.components.text import text_sizes, text_widths
from framer_jax.recipes.method import PHOTOS, Build, Config, MergedNetwork, TrainedRun, WeightReader
from framer_jax.recipes.multistep_sd.recipe import DENOISER, denoiser_inputs
from framer_jax.recipes.multistep_sd.settings import MultistepSdSettings
from framer_jax.trees import check_same_structure

BASE_FILE = unet_file("multistep_sd")

NETWORK = "controlled_sd_unet"
"""The network."""

UNET_MAP, CONTROLNET_MAP = "sd_unet", "controlnet"
"""Weight maps of its parts."""

SIZES = ("channels", "blocks", "attention_levels", "heads", "groups")
"""Constructor arguments of both parts."""


def read_base(path: str, config: Config, reader: WeightReader, prediction: str) -> Params:
    """The U-Net's parameters; arguments and errors as of framer_jax.recipes.components.sd_base.read_unet."""
    return read_unet(BASE_FILE, path, config, reader, prediction, NETWORK, "recipe.multistep_sd.prediction")


def with_controlnet(unet: Mapping[str, Any], denoiser: ControlledUNet, text: TextSizes) -> Params:
    """A U-Net's parameters with those of a ControlNet and of attention to image tokens, host arrays.

    The ControlNet starts as a copy of the U-Net's way down, as its authors initialize it; what the U-Net does not have
    is drawn with a fixed key, and changes nothing before any training.
    """
    unet_leaves = flatten_dict(dict(unet), sep="/")
    inputs = denoiser_inputs(denoiser, text)
    names = flatten_dict(jax.eval_shape(denoiser.init, jax.random.key(0), *inputs)["params"], sep="/")
    copies = {name: unet_leaves[name.partition("/")[2]] for name in names if name.partition("/")[2] in unet_leaves}

    @jax.jit
    def draw(key: jax.Array) -> dict[str, jax.Array]:  # the compiler removes what draws the copied parameters
        drawn = flatten_dict(denoiser.init(key, *zeros_like_inputs(inputs))["params"], sep="/")
        return {name: leaf for name, leaf in drawn.items() if name not in copies}

    others = {name: np.asarray(leaf) for name, leaf in draw(jax.random.key(0)).items()}
    return unflatten_dict({name: copies[name] if name in copies else others[name] for name in names}, sep="/")


def merge(run: TrainedRun, build: Build, model: str) -> MergedNetwork:
    """The U-Net or the ControlNet of a run as a whole network: its trained parameters joined with the frozen base.

    Args:
      run: the run.
      build: builds the recipe, whose parameters the run must have.
      model: 'sd_unet' or 'controlnet'.

    Raises:
      ValueError: the run lacks parameters; or it attends to image tokens, for which these layouts have no place.
    """
    recipe = build(run.config, "description", PHOTOS, run.reader)
    check_same_structure(run.groups, expected_params(recipe), str(run.path))
    arguments = dict(run.config["denoiser"][NETWORK])
    if arguments["image_context_width"]:
        raise ValueError(
            f"{run.path}: its network attends to image tokens, which {model} in the layout of diffusers does not: only "
            "runs with recipe.multistep_sd.image_tokens=none can be ported"
        )
    settings = settings_from(MultistepSdSettings, run.config["multistep_sd"], "recipe.multistep_sd")
    params: Params = run.groups[DENOISER]
    dependencies: tuple[Path, ...] = ()
    if settings.base_checkpoint:
        dependencies = (run.dependency(BASE_FILE.path),)
        unet = read_base(str(dependencies[0]), run.config, run.reader, settings.prediction)
        space = build_space(run.config, "description", run.reader)
        denoiser: Any = build_denoiser(run.config, space, **text_widths(run.config))
        untrained = split_params(with_controlnet(unet, denoiser, text_sizes(run.config)), settings.trainable)[1]
        params = join_params(cast_frozen(untrained, settings.base_dtype), params)
    part = {UNET_MAP: UNET, CONTROLNET_MAP: CONTROLNET}[model]
    params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float32), params[part])
    names = (*SIZES, "image_widths") if part == CONTROLNET else SIZES
    return MergedNetwork(params, {name: arguments[name] for name in names}, {}, lambda rank: 0.0, dependencies)
