"""What a run trains and validates on: photographs, or records that `framer-jax precompute` wrote."""

from __future__ import annotations

from typing import Any

from framer_jax.commands.provenance import check_records
from framer_jax.commands.text_condition import TextCondition, open_latents
from framer_jax.config import ConfigError
from framer_jax.data.latents import LatentFiles
from framer_jax.data.photos import TRAINING, photo_source
from framer_jax.data.records import RecordFiles, is_records
from framer_jax.data.sources import ImageFiles, folder_source
from framer_jax.porting.kl_autoencoder import KL_AUTOENCODER
from framer_jax.recipes.stable_diffusion import read_kl_autoencoder
from framer_jax.recipes.table import text_settings
from framer_jax.recipes.weights_by_path import required

BUILTIN = "builtin"
"""The name of the built-in photographs in a data entry; a folder of this name is written ./builtin."""


TEXT_RECIPES = ("dit4sr",)
"""Recipes whose denoiser is told a text."""


def open_source(name: str, split: tuple[str, ...], crop: int) -> ImageFiles:
    """The images that a data entry names: 'builtin' for the built-in ones, else a folder."""
    return photo_source(split, crop=crop) if name == BUILTIN else folder_source(name, crop=crop)


def least_side(data: dict[str, Any]) -> int:
    """The smallest photograph that a data entry can train on: smaller ones are padded for squares only."""
    return 2 if data["framing"] == "square" else int(data["crop"])


def open_training(config: dict[str, Any]) -> ImageFiles | RecordFiles:
    """The training set of a configuration: photographs, or the folder that `framer-jax precompute` wrote.

    Raises:
      ConfigError, ValueError, FileNotFoundError: it cannot be used, or its records belong to another configuration.
    """
    folder, condition = config["data"]["train"], config["recipe"]["text"]["condition"]
    denoised = config["recipe"]["name"] in TEXT_RECIPES
    if not is_records(folder):
        if denoised and condition == "captions":
            raise ConfigError(
                f"data.train {folder} holds photographs, and recipe.text.condition 'captions' needs precomputed "
                "latents: see `framer-jax precompute latents`, or set recipe.text.condition=null"
            )
        return open_source(folder, TRAINING, least_side(config["data"]))
    if denoised:
        return open_latents_of(config)
    found = RecordFiles(folder)
    check_records(found.manifest, config, folder)
    return found


def open_latents_of(config: dict[str, Any]) -> LatentFiles:
    """The precomputed latents that a configuration names, joined with its texts.

    Raises:
      ConfigError, ValueError, FileNotFoundError: as framer_jax.commands.text_condition.open_latents.
    """
    recipe = config["recipe"]
    path = required(recipe["space"]["weights"], "recipe.space.weights", "the autoencoder", KL_AUTOENCODER.name, True)
    text = text_condition(config)
    assert text is not None  # of a recipe that is told texts
    return open_latents(config["data"]["train"], config, read_kl_autoencoder(path).digest, text)


def text_condition(config: dict[str, Any]) -> TextCondition | None:
    """What a configuration tells its denoiser; None of a recipe that is told nothing.

    Raises:
      ConfigError: as TextCondition.
    """
    data, recipe = config["data"], config["recipe"]
    if recipe["name"] not in TEXT_RECIPES:
        return None
    text = recipe["text"]
    return TextCondition(text["condition"], data["embeddings"], text["null"], data["null_ratio"], text_settings(text))
