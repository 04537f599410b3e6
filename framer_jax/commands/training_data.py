"""What a run trains and validates on: photographs, or records that `framer-jax precompute` wrote."""

from __future__ import annotations

from typing import Any

from framer_jax.commands.provenance import check_records
from framer_jax.commands.text_condition import TextCondition, captioned, open_latents
from framer_jax.config import ConfigError
from framer_jax.data.embeddings import CaptionedPhotos
from framer_jax.data.latents import LatentFiles
from framer_jax.data.photos import TRAINING, photo_source
from framer_jax.data.records import RecordFiles, is_records
from framer_jax.data.sources import ImageFiles, folder_source
from framer_jax.porting.kl_autoencoder import KL_AUTOENCODER
from framer_jax.recipes.stable_diffusion import read_kl_autoencoder
from framer_jax.recipes.table import TOLD
from framer_jax.recipes.text import text_settings
from framer_jax.recipes.weights_by_path import required

BUILTIN = "builtin"
"""The name of the built-in photographs in a data entry; a folder of this name is written ./builtin."""

NEED_PHOTOS = ("tsd_sr",)
"""Recipes that are told texts and whose losses look at pictures; the others of the kind take latents too."""


def open_source(name: str, split: tuple[str, ...], crop: int) -> ImageFiles:
    """The images that a data entry names: 'builtin' for the built-in ones, else a folder."""
    return photo_source(split, crop=crop) if name == BUILTIN else folder_source(name, crop=crop)


def least_side(data: dict[str, Any]) -> int:
    """The smallest photograph that a data entry can train on: smaller ones are padded for squares only."""
    return 2 if data["crop_mode"] == "square" else int(data["crop"])


def open_training(config: dict[str, Any]) -> ImageFiles | CaptionedPhotos | RecordFiles:
    """The training set of a configuration: photographs, or the folder that `framer-jax precompute` wrote.

    Raises:
      ConfigError, ValueError, FileNotFoundError: it cannot be used, or its records belong to another configuration.
    """
    folder, name = config["data"]["train"], config["recipe"]["name"]
    text = text_condition(config)
    if not is_records(folder):
        photos = open_source(folder, TRAINING, least_side(config["data"]))
        return captioned(photos, text) if text and text.condition == "captions" else photos
    if name in NEED_PHOTOS:
        raise ConfigError(f"data.train {folder} holds records, and recipe.name {name} needs photographs: give a folder")
    if text:
        if config["recipe"]["space"].get("shift") is not None:
            raise ConfigError(
                "recipe.space.shift is for latents that are made while training; precomputed ones have the "
                "autoencoder's own: leave it out"
            )
        return open_latents_of(config, text)
    found = RecordFiles(folder)
    check_records(found.manifest, config, folder)
    return found


def open_latents_of(config: dict[str, Any], text: TextCondition) -> LatentFiles:
    """The precomputed latents that a configuration names, joined with its texts.

    Raises:
      ConfigError, ValueError, FileNotFoundError: as framer_jax.commands.text_condition.open_latents.
    """
    weights = config["recipe"]["space"]["weights"]
    path = required(weights, "recipe.space.weights", "the autoencoder", KL_AUTOENCODER.name, True)
    return open_latents(config["data"]["train"], config, read_kl_autoencoder(path).digest, text)


def text_condition(config: dict[str, Any]) -> TextCondition | None:
    """What a configuration tells its denoiser; None of a recipe that is told nothing.

    Raises:
      ConfigError: as TextCondition.
    """
    data, recipe = config["data"], config["recipe"]
    if recipe["name"] not in TOLD:
        return None
    text = recipe["text"]
    return TextCondition(
        text["condition"], data["embeddings"], text["null"], data["caption_dropout"], text_settings(text)
    )
