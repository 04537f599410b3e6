"""PiSA-SR's weights: runs as whole networks."""

from __future__ import annotations

from pathlib import Path

import jax
import numpy as np

from framer_jax.knobs import settings_from
from framer_jax.recipes.base import expected_params
from framer_jax.recipes.components.adapters import merge_factors
from framer_jax.recipes.components.base_model import cast_frozen
from framer_jax.recipes.components.networks import execution_knobs
from framer_jax.recipes.components.sd_base import NETWORK, read_unet, unet_file
from framer_jax.recipes.components.text import text_widths
from framer_jax.recipes.method import PHOTOS, Build, MergedNetwork, TrainedRun
from framer_jax.recipes.pisa_sr.recipe import DENOISER, PIXEL, SEMANTIC
from framer_jax.recipes.pisa_sr.settings import PisaSrSettings
from framer_jax.trees import check_same_structure

BASE_FILE = unet_file("pisa_sr")


def merge(run: TrainedRun, build: Build) -> MergedNetwork:
    """A run as one U-Net, the base's with both LoRAs merged, which restores an image in one call.

    Args:
      run: the run.
      build: builds the recipe, whose parameters the run must have.

    Raises:
      ValueError: the run lacks parameters.
    """
    recipe = build(run.config, "description", PHOTOS, run.reader)
    check_same_structure(run.groups, expected_params(recipe), str(run.path))
    settings = settings_from(PisaSrSettings, run.config["pisa_sr"], "recipe.pisa_sr")
    dependencies: tuple[Path, ...] = ()
    if settings.base_checkpoint:
        dependencies = (run.dependency(BASE_FILE.path),)
        weights = read_unet(BASE_FILE, str(dependencies[0]), run.config, run.reader)
        weights = merge_factors(cast_frozen(weights, settings.base_dtype), run.groups[PIXEL], settings.lora_scale)
    else:
        weights = run.groups[DENOISER]
    merged = merge_factors(weights, run.groups[SEMANTIC], settings.lora_scale)
    params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float32), merged)
    size = {key: value for key, value in run.config["denoiser"][NETWORK].items() if key not in execution_knobs(NETWORK)}
    arguments = {**size, **text_widths(run.config), "out_channels": params["conv_out"]["kernel"].shape[-1]}
    return MergedNetwork(params, arguments, {}, lambda rank: settings.lora_scale * rank, dependencies)
