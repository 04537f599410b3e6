"""The training and validation data of a run: photographs, or records that `framer-jax precompute` wrote."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from framer_jax.checkpoints.autoencoder import read_autoencoder
from framer_jax.checkpoints.paths import required_path
from framer_jax.commands.provenance import check_records
from framer_jax.commands.text_condition import TextCondition, captioned, open_latents
from framer_jax.config import ConfigError
from framer_jax.data.embeddings import STORED_EMBEDDINGS, CaptionedPhotos
from framer_jax.data.latents import LatentFiles
from framer_jax.data.mixture import PhotoMixture
from framer_jax.data.photo_pairs import PhotoPairs, pair_source
from framer_jax.data.photos import HELD_OUT, TRAINING, photo_source
from framer_jax.data.records import RecordFiles, is_records, read_manifest
from framer_jax.data.settings import DataSettings
from framer_jax.data.sources import ImageFiles, folder_source
from framer_jax.data.whole_photos import ValidationPair, validation_pairs
from framer_jax.degradations.presets import DegradationPreset
from framer_jax.evaluation.lr_pairs import folder_pairs
from framer_jax.paths import check_local
from framer_jax.porting.kl_autoencoder import KL_AUTOENCODER
from framer_jax.recipes.components.spaces import AUTOENCODER_MAPS
from framer_jax.recipes.components.spaces import WEIGHT_FILE as AUTOENCODER_FILE
from framer_jax.recipes.components.text import text_sizes
from framer_jax.recipes.method import CAPTIONED_PHOTOS, LATENTS, PHOTOS, TEACHER_OUTPUTS, value_at
from framer_jax.recipes.table import method_of

LOGGER = logging.getLogger(__name__)

BUILTIN = "builtin"
"""The name of the built-in photographs in a data entry; a folder of this name is written ./builtin."""


def open_source(
    name: str, split: tuple[str, ...], crop: int, small_share: float = 0.0, keep_index: bool = False
) -> ImageFiles:
    """The images that a data entry names: 'builtin' for the built-in ones, else a folder.

    Args, Raises: as of framer_jax.data.sources.folder_source.
    """
    if name == BUILTIN:
        return photo_source(split, crop=crop)
    return folder_source(name, crop=crop, small_share=small_share, keep_index=keep_index)


def open_photos(data: dict[str, Any]) -> ImageFiles:
    """The training photographs of a configuration's `data` section, without those that are smaller than its crops.

    Raises:
      ValueError, FileNotFoundError: as of framer_jax.data.sources.folder_source.
    """
    small_share = data.get("small_share", DataSettings.small_share)
    return open_source(data["train"], TRAINING, least_side(data), small_share, keep_index=True)


def open_mixture(data: dict[str, Any]) -> PhotoMixture:
    """The photographs of the folders that `data.mixture` names, with their shares; errors as of `open_photos`."""
    parts = [open_photos({**data, "train": folder}) for folder, _ in data["mixture"]]
    return PhotoMixture(parts, [share for _, share in data["mixture"]])


def open_pairs(config: dict[str, Any]) -> PhotoPairs:
    """The LR and HR photographs that `data.pairs` names, without those that are smaller than the crops.

    Raises:
      ValueError, FileNotFoundError: as of framer_jax.data.photo_pairs.pair_source.
    """
    data, scale = config["data"], config["recipe"]["scale"]
    lr, hr = data["pairs"]
    small_share = data.get("small_share", DataSettings.small_share)
    return pair_source(lr, hr, scale, least_side(data), small_share=small_share)


def pairs_info(config: dict[str, Any], source: Any) -> dict[str, str]:
    """For logs: the alignment of pairs, and that they are not degraded; {} for other training data."""
    photos = source.photos if isinstance(source, CaptionedPhotos) else source
    if not isinstance(photos, PhotoPairs):
        return {}
    data = config["data"]
    validation = "" if data.get("validation_pairs") else f", which validation on {data['validation']} uses"
    degradation = f"LR images are used as they are, without data.degradation {data['degradation']}{validation}"
    return {"pairs": f"{len(photos)} pairs; {degradation}", "alignment": photos.alignment()}


def open_validation(
    config: dict[str, Any], preset: DegradationPreset, scale: int, lr_multiple: int
) -> tuple[list[ValidationPair], Callable[[], str]]:
    """The validation images of a configuration with their LR images, and a report on damaged ones.

    Args:
      config: plain dict of the configuration.
      preset: the degradation of images that are no pairs.
      scale: HR pixels per LR pixel.
      lr_multiple: the sides of LR images are cropped to multiples of this.

    Raises:
      ValueError, FileNotFoundError: the images cannot be used.
    """
    data = config["data"]
    if not data["validation_count"]:
        return [], str  # nothing is opened, such as the built-in photographs of an extra that is not installed
    if folders := data.get("validation_pairs"):
        for folder in folders:
            check_local(folder, "data.validation_pairs")
        lr, hr = folders
        return folder_pairs(lr, hr, scale, lr_multiple, data["validation_count"]), str
    source = open_source(data["validation"], HELD_OUT, 1, keep_index=True)
    pairs = validation_pairs(source, preset, multiple=scale * lr_multiple, limit=data["validation_count"])
    return pairs, source.damage


def least_side(data: dict[str, Any]) -> int:
    """The smallest photograph that a data entry can train on: smaller ones are padded for squares only."""
    return 2 if data["crop_mode"] == "square" else int(data["crop"])


def training_kind(config: dict[str, Any]) -> str:
    """The kind of a configuration's training data, without opening it, see framer_jax.recipes.method.

    Raises:
      ConfigError: the method cannot train on it, or as of TextCondition.
    """
    folder, text = config["data"]["train"], text_condition(config)
    if not is_records(folder):
        return CAPTIONED_PHOTOS if text and text.condition == "captions" else PHOTOS
    kind = LATENTS if text or read_manifest(folder).get("kind") == LATENTS else TEACHER_OUTPUTS
    try:
        method_of(config["recipe"]).batch_entries(config["recipe"], kind)
    except ValueError as error:
        raise ConfigError(f"data.train {folder} holds records: {error}") from error
    return kind


def open_training(config: dict[str, Any]) -> ImageFiles | PhotoMixture | PhotoPairs | CaptionedPhotos | RecordFiles:
    """The training set of a configuration: photographs, pairs, or the folder that `framer-jax precompute` wrote.

    Raises:
      ConfigError, ValueError, FileNotFoundError: it cannot be used, or its records belong to another configuration.
    """
    folder, recipe = config["data"]["train"], config["recipe"]
    kind, text = training_kind(config), text_condition(config)
    if kind in (PHOTOS, CAPTIONED_PHOTOS) and config["data"].get("mixture"):
        if kind == CAPTIONED_PHOTOS:
            raise ConfigError("data.mixture has no captions: train on one folder, data.train, or without captions")
        return open_mixture(config["data"])
    if kind in (PHOTOS, CAPTIONED_PHOTOS):
        photos = open_pairs(config) if config["data"].get("pairs") else open_photos(config["data"])
        return captioned(photos, text) if text and kind == CAPTIONED_PHOTOS else photos
    if kind == TEACHER_OUTPUTS:
        records = RecordFiles(folder)
        check_records(records.manifest, config, folder)
        return records
    if recipe["space"].get("shift") is not None:
        raise ConfigError(
            "recipe.space.shift is for latents that are encoded during training; precomputed ones have the "
            "autoencoder's own shift: leave it at None"
        )
    if text and text.embeddings and not config["data"]["embeddings"]:
        LOGGER.warning("data.embeddings is empty: captions are read from %s, next to the latents", text.embeddings)
    return open_latents_of(config, text)


def open_latents_of(config: dict[str, Any], text: TextCondition | None) -> LatentFiles:
    """The precomputed latents that a configuration names, joined with its texts, if it has any.

    Raises:
      ConfigError, ValueError, FileNotFoundError: as of framer_jax.commands.text_condition.open_latents.
    """
    path, space = value_at(config["recipe"], AUTOENCODER_FILE.path), config["recipe"]["space"]["name"]
    model = AUTOENCODER_MAPS.get(space, KL_AUTOENCODER.name)
    path = required_path(path, AUTOENCODER_FILE.knob, "the autoencoder", model, True)
    return open_latents(config["data"]["train"], config, read_autoencoder(space, path).digest, text)


def text_condition(config: dict[str, Any]) -> TextCondition | None:
    """The text that conditions a configuration's denoiser; None for methods without text.

    Raises:
      ConfigError: as of TextCondition.
    """
    data, recipe = config["data"], config["recipe"]
    if method_of(recipe).conditioning != "text":
        return None
    text = recipe["text"]
    embeddings = data["embeddings"] or (stored_embeddings(data["train"]) if text["condition"] == "captions" else "")
    return TextCondition(
        text["condition"], embeddings, text["null_embedding"], data["caption_dropout"], text_sizes(recipe)
    )


def stored_embeddings(train: str) -> str:
    """The folder of embeddings that is stored with latents; '' if there is none."""
    folder = Path(train) / STORED_EMBEDDINGS
    return str(folder) if is_records(train) and is_records(folder) else ""
