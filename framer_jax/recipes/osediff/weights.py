"""OSEDiff's weights: its authors' file of LoRAs, and runs as merged checkpoints."""

from __future__ import annotations

from pathlib import Path

from framer_jax.porting.lora_pickle import LoraPickle, adapters_of, read_lora_pickle, whole_layers
from framer_jax.porting.table import map_named
from framer_jax.recipes.base import Params, Recipe, expected_params
from framer_jax.recipes.components.base_model import BASE, cast_frozen, join_params
from framer_jax.recipes.components.latent_space import AUTOENCODER
from framer_jax.recipes.components.one_step import ENCODER, STUDENT
from framer_jax.recipes.components.published_lora import (
    AUTOENCODER_NETWORK,
    check_group,
    merged_autoencoder,
    merged_network,
    published_factors,
    published_pickle,
)
from framer_jax.recipes.components.sd_base import NETWORK, read_unet, unet_arguments, unet_file
from framer_jax.recipes.method import Build, Config, MergedNetwork, Published, TrainedRun, WeightReader
from framer_jax.recipes.osediff.recipe import DENOISER
from framer_jax.trees import check_same_structure, flatten_names, nest_names

BASE_FILE = unet_file("osediff")

PUBLISHED_LORAS = {STUDENT: ("unet", NETWORK, BASE), ENCODER: ("vae", AUTOENCODER_NETWORK, AUTOENCODER)}
"""Group, with which its knobs' names begin → network in the authors' file, its weight map, its entry of `frozen`."""


def groups_of(pickle: LoraPickle, config: Config, recipe: Recipe) -> Params:
    """The exported groups in the authors' file.

    Args:
      pickle: the file.
      config: the `recipe` section.
      recipe: the recipe that it describes, with weights.

    Raises:
      ValueError: the file is of another size, rank or choice of modules than configured; one line that names the knob.
    """
    expected, scale = expected_params(recipe), config["osediff"]["lora_scale"]
    groups = {}
    for group, (network, model, entry) in PUBLISHED_LORAS.items():
        if group not in recipe.exported:
            _refuse_lora(pickle, network, group)
            continue
        (layers,) = adapters_of(pickle, network, map_named(model), recipe.frozen[entry], lambda adapter: "").values()
        groups[group] = published_factors(layers, expected[group], scale, pickle.source, f"recipe.osediff.{group}")
    unet = recipe.frozen[BASE]
    whole = nest_names(whole_layers(pickle, "unet", map_named(NETWORK), unet))
    if flatten_names(whole)[0].keys() != flatten_names(expected.get(DENOISER, {}))[0].keys():
        held = ", ".join(sorted({name.rpartition("/")[0] for name in flatten_names(whole)[0]})) or "none"
        raise ValueError(
            f"{pickle.source}: layers that are in it as a whole: {held}; recipe.osediff.trainable "
            f"{config['osediff']['trainable']!r} names others: set it to those of the file"
        )
    if whole:
        groups[DENOISER] = whole
    check_same_structure(groups, expected, pickle.source)
    return groups


def _refuse_lora(pickle: LoraPickle, network: str, group: str) -> None:
    if pickle.tensors.get(network):
        raise ValueError(
            f"{pickle.source}: it holds a LoRA of the {network}, and recipe.osediff.{group}_modules is empty: set it "
            "to a pattern of the modules in the file"
        )


def read_published(path: Path, config: Config, recipe: Recipe, reader: WeightReader) -> Params:
    """The exported groups as the authors publish them: one file, osediff.pkl; errors as of `groups_of`."""
    return groups_of(read_lora_pickle(path), config, recipe)


def published_by(build: Build) -> Published:
    """The authors' file of LoRAs as a model of OSEDiff, or as what training starts from."""
    return published_pickle(build, read_published, "osediff_sd21")


def merge(run: TrainedRun, model: str) -> MergedNetwork:
    """A run as a merged checkpoint: a network of the base, with what the run trained.

    Args:
      run: the run.
      model: 'sd_unet' or 'kl_autoencoder'.

    Raises:
      ValueError: the run has trained nothing of that network.
    """
    settings, scale = run.config["osediff"], run.config["osediff"]["lora_scale"]
    group = STUDENT if model == NETWORK else ENCODER
    check_group(run, group, model, f"recipe.osediff.{group}_modules")
    if model != NETWORK:
        return merged_autoencoder(run, scale)
    dependency = run.dependency(BASE_FILE.path)
    weights = cast_frozen(read_unet(BASE_FILE, str(dependency), run.config, run.reader), settings["base_dtype"])
    weights = join_params(weights, run.groups.get(DENOISER, {}))
    return merged_network(run, weights, unet_arguments(run.config), run.groups[group], scale, dependency)
