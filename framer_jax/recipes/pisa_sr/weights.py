"""PiSA-SR's weights: its authors' file of two LoRAs, and runs as merged checkpoints."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from framer_jax.knobs import settings_from
from framer_jax.porting.lora_pickle import LoraPickle, adapters_of, read_lora_pickle, split_adapter
from framer_jax.porting.table import map_named
from framer_jax.recipes.base import Params, Recipe, expected_params
from framer_jax.recipes.components.adapters import merge_factors
from framer_jax.recipes.components.base_model import BASE, cast_frozen
from framer_jax.recipes.components.published_lora import published_factors, published_pickle
from framer_jax.recipes.components.sd_base import NETWORK, read_unet, unet_arguments, unet_file
from framer_jax.recipes.method import PHOTOS, Build, Config, MergedNetwork, Published, TrainedRun, WeightReader
from framer_jax.recipes.pisa_sr.recipe import DENOISER, PIXEL, SEMANTIC
from framer_jax.recipes.pisa_sr.settings import PisaSrSettings
from framer_jax.trees import check_same_structure

BASE_FILE = unet_file("pisa_sr")

ADAPTERS = {PIXEL: "pix", SEMANTIC: "sem"}
"""Group → last word of the names of its adapters in the authors' file, of which there are three: 'default_encoder_pix',
'default_decoder_pix', 'default_others_pix'."""


def groups_of(pickle: LoraPickle, config: Config, recipe: Recipe) -> Params:
    """The exported groups in the authors' file.

    Args:
      pickle: the file.
      config: the `recipe` section.
      recipe: the recipe that it describes, with weights.

    Raises:
      ValueError: there is no base, or the file is of another size, rank or choice of modules than configured; one line
        that names the knob.
    """
    if BASE not in recipe.frozen:
        raise ValueError(
            f"{pickle.source} holds LoRAs, and {BASE_FILE.knob}, the network that they lie on, is empty: set it to the "
            "path of stable-diffusion-2-1-base's U-Net"
        )
    adapters = adapters_of(
        pickle, "unet", map_named(NETWORK), recipe.frozen[BASE], lambda adapter: adapter.rpartition("_")[2]
    )
    if adapters.keys() != set(ADAPTERS.values()):
        raise ValueError(
            f"{pickle.source}: its adapters end in {', '.join(sorted(adapters))}, and those of PiSA-SR in "
            f"{' and '.join(ADAPTERS.values())}: it is a file of another method"
        )
    expected, scale = expected_params(recipe), config["pisa_sr"]["lora_scale"]
    return {
        group: published_factors(adapters[name], expected[group], scale, pickle.source, "recipe.pisa_sr.lora")
        for group, name in ADAPTERS.items()
    }


def read_published(path: Path, config: Config, recipe: Recipe, reader: WeightReader) -> Params:
    """The exported groups as the authors publish them: one file, pisa_sr.pkl; errors as of `groups_of`."""
    return groups_of(read_lora_pickle(path), config, recipe)


def published_by(build: Build) -> Published:
    """The authors' file of LoRAs as a model of PiSA-SR, or as what training starts from."""
    return published_pickle(build, read_published, "pisa_sr_sd21", partial(content_of, build=build))


def content_of(run: TrainedRun, build: Build) -> dict[str, Any]:
    """What the authors' file of a run holds; the inverse of `groups_of`.

    Raises:
      ValueError: the run lacks parameters, or has trained a whole U-Net, which has no place there.
    """
    recipe = build(run.config, "description", PHOTOS, run.reader)
    check_same_structure(run.groups, expected_params(recipe), str(run.path))
    if BASE not in recipe.frozen:
        raise ValueError(f"{run.path} has a whole U-Net and no pixel-level LoRA: use --to diffusers")
    settings = settings_from(PisaSrSettings, run.config["pisa_sr"], "recipe.pisa_sr")
    content: dict[str, Any] = {"state_dict_unet": {}}
    for group, word in ADAPTERS.items():
        factors, base = run.groups[group], recipe.frozen[BASE]
        state, modules = split_adapter(map_named(NETWORK), base, factors, settings.lora_scale, word)
        content["state_dict_unet"] |= state
        content[f"lora_rank_unet_{word}"] = settings.lora_rank
        content |= {f"unet_lora_{part}_modules_{word}": names for part, names in modules.items()}
    return content


def merge(run: TrainedRun, build: Build) -> MergedNetwork:
    """A run as a merged checkpoint: the U-Net with both LoRAs, which is called once for an image.

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
    # A run without a base may have another number of latent channels than Stable Diffusion.
    arguments = {**unet_arguments(run.config), "out_channels": params["conv_out"]["kernel"].shape[-1]}
    return MergedNetwork(params, arguments, {}, lambda rank: settings.lora_scale * rank, dependencies)
