"""The text that conditions a denoiser in training: captions, the null text, or zeros."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Any

from framer_jax.commands.provenance import check_latents
from framer_jax.config import ConfigError
from framer_jax.data.embeddings import CaptionedPhotos, check_manifest_text
from framer_jax.data.latents import LatentFiles
from framer_jax.data.photo_pairs import PhotoPairs
from framer_jax.data.records import check_kind, is_records, read_manifest
from framer_jax.data.sources import ImageFiles
from framer_jax.data.text import TextEmbedding, TextSettings, TextSizes, check_text, zero_text
from framer_jax.recipes.components.text import CONDITIONS, read_text


@dataclass(frozen=True)
class TextCondition:
    """The text that conditions a denoiser.

    Attributes:
      condition: one of framer_jax.recipes.components.text.CONDITIONS; zeros are used only if 'zero' is stated.
      embeddings: folder that `framer-jax precompute embeddings --captions` wrote, for 'captions'.
      null: file that `framer-jax precompute embeddings --null` wrote, for 'captions' and 'null'.
      caption_dropout: fraction of examples with the null text instead of their caption, for 'captions'.
      sizes: sizes of the embeddings that the denoiser takes.

    Raises:
      ConfigError: the values do not fit together.
    """

    condition: str = "captions"
    embeddings: str = ""
    null: str = ""
    caption_dropout: float = 0.2
    sizes: TextSizes = field(default_factory=TextSettings)

    def __post_init__(self) -> None:
        if self.condition not in CONDITIONS:
            raise ConfigError(f"recipe.text.condition {self.condition!r} must be one of {', '.join(CONDITIONS)}")
        needed = {"captions": ("embeddings", "null"), "null": ("null",), "zero": ()}[self.condition]
        knobs = {"embeddings": "data.embeddings", "null": "recipe.text.null_embedding"}
        for name, knob in knobs.items():
            if name in needed and not getattr(self, name):
                option = "--captions" if name == "embeddings" else "--null"
                raise ConfigError(
                    f"recipe.text.condition {self.condition!r} needs {knob}: write the embeddings with "
                    f"`framer-jax precompute embeddings {option}`; without any text encoder, set "
                    "recipe.text.condition=zero"
                )
            if name not in needed and getattr(self, name):
                raise ConfigError(f"recipe.text.condition {self.condition!r} takes no {knob}: leave it empty")


def open_latents(
    folder: str | os.PathLike[str], config: dict[str, Any], vae: str, text: TextCondition | None
) -> LatentFiles:
    """Precomputed latents joined with texts, as framer_jax.data.pipeline.make_batches takes them.

    Args:
      folder: folder that `framer-jax precompute latents` wrote.
      config: plain dict of the run's configuration.
      vae: digest of the run's autoencoder (framer_jax.checkpoints.autoencoder.read_autoencoder).
      text: the text that conditions the denoiser, if any.

    Raises:
      ConfigError, ValueError, FileNotFoundError: latents of another run or autoencoder, texts of other sizes or
        encoders, or a photograph without an embedding; one line each.
    """
    if not is_records(folder):
        raise FileNotFoundError(f"{folder} holds no records: write them with `framer-jax precompute latents`")
    manifest = read_manifest(folder)
    check_kind(manifest, "latents", folder)
    check_latents(manifest, config, vae, str(folder))
    if text is None:
        return LatentFiles(folder)
    null, embeddings = _texts(text)
    return LatentFiles(folder, null, embeddings or None, text.caption_dropout if embeddings else 1.0)


def captioned(photos: ImageFiles | PhotoPairs, text: TextCondition) -> CaptionedPhotos:
    """Photographs joined with their captions' embeddings, as framer_jax.data.pipeline.make_batches takes them.

    Args:
      photos: the photographs, or pairs of LR and HR photographs.
      text: with condition 'captions'.

    Raises:
      ConfigError, ValueError, FileNotFoundError: texts of other sizes or encoders, or a photograph without an
        embedding; one line each.
    """
    null, folder = _texts(text)
    return CaptionedPhotos(photos, null, folder, text.caption_dropout)


def _texts(text: TextCondition) -> tuple[TextEmbedding, str]:
    """(the null text, the folder of embeddings; '' where there are no captions), checked against each other."""
    null, encoders = (zero_text(text.sizes), {}) if text.condition == "zero" else read_text(text.null)
    check_text(null.shapes, text.sizes, text.null)
    if text.condition != "captions":
        return null, ""
    if not is_records(text.embeddings):
        raise FileNotFoundError(
            f"{text.embeddings} holds no records: write them with `framer-jax precompute embeddings`"
        )
    manifest = read_manifest(text.embeddings)
    check_kind(manifest, "embeddings", text.embeddings)
    check_manifest_text(manifest["text"], text.sizes, text.embeddings)
    for name in text.sizes.encoders:
        if manifest["text"]["encoders"][name] != encoders.get(name):
            raise ConfigError(
                f"{text.null}: its encoder {name} is {str(encoders.get(name))[:12]!r}, that of {text.embeddings} is "
                f"{manifest['text']['encoders'][name][:12]!r}: make both with the same text encoders"
            )
    return null, text.embeddings
