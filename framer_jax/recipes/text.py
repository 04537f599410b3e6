"""The text that conditions a denoiser: embeddings from files or records, or, said explicitly, none.

No encoder runs here: `framer-jax precompute embeddings` writes what they make of a text once.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from framer_jax.data.text import POOLED_TEXT, STORED_NAMES, TEXT, TextEmbedding, TextSettings, check_text, zero_text
from framer_jax.porting.weights import load_weights
from framer_jax.recipes.base import Batch, Frozen

TEXTS = "texts"
"""The entry of `frozen` with texts by their names."""

NULL, WANTED, AVOIDED = "null", "wanted", "avoided"
"""The empty text; what is asked for of every picture; what sampling leads away from. The empty one stands for both."""

CONDITIONS = ("captions", "null", "zero")
"""What a run tells its denoiser: captions, or by chance nothing; always nothing; or, without any text encoder, zeros,
which the base does not know as nothing."""


def text_of_all(frozen: Frozen, name: str, count: int) -> TextEmbedding:
    """One text of `frozen` for each of `count` examples; the empty one where there is none of that name."""
    texts = frozen[TEXTS]
    found = texts.get(name, texts[NULL])
    return TextEmbedding(*(jnp.broadcast_to(part, (count, *part.shape)) for part in found))  # type: ignore[arg-type]


def text_of_batch(frozen: Frozen, batch: Batch, count: int) -> TextEmbedding:
    """The text of each example: what the batch brings ('text' [B, L, W] and 'pooled_text' [B, P]), or the empty one."""
    if TEXT not in batch:
        return text_of_all(frozen, NULL, count)
    parts: tuple[jax.Array, jax.Array] = batch[TEXT], batch[POOLED_TEXT]
    return TextEmbedding(*(part.astype(jnp.float32) for part in parts))  # type: ignore[arg-type]


def read_texts(
    config: Mapping[str, Any], settings: TextSettings, any_length: Collection[str] = ()
) -> dict[str, TextEmbedding]:
    """The texts that a configuration's `recipe.text` names, float32.

    A denoiser takes texts of any length, but those of one call have one (DiT4SR trains with 154 tokens and samples
    with 333).

    Args:
      config: the configuration's `recipe.text`.
      settings: sizes of the run's texts.
      any_length: names of texts that may have other lengths than these.

    Raises:
      ValueError: an unknown condition; no empty text, and zeros are not asked for; an embedding of other sizes.
      FileNotFoundError: a file is missing.
    """
    condition = config["condition"]
    if condition not in CONDITIONS:
        raise ValueError(f"recipe.text.condition is {condition!r}: choose one of {', '.join(CONDITIONS)}")
    named = [name for name in (NULL, WANTED, AVOIDED) if config[name]]
    if condition == "zero":
        if named:
            raise ValueError(f"recipe.text.condition 'zero' takes no embeddings: leave recipe.text.{named[0]} empty")
        return {NULL: zero_text(settings)}
    if not config[NULL]:
        raise ValueError(
            "recipe.text.null is empty: set it to the file that `framer-jax precompute embeddings --null` writes; "
            "without any text encoder, say recipe.text.condition=zero"
        )
    texts = {}
    for name in named:
        found, _ = read_text(config[name], f"recipe.text.{name}")
        check_text(shapes_of(found), settings, config[name], name in any_length)
        texts[name] = TextEmbedding(*(np.asarray(part, np.float32) for part in found))
    return texts


def read_text(path: str | os.PathLike[str], knob: str = "") -> tuple[TextEmbedding, dict[str, str]]:
    """One text from a file, and the digests of its encoders.

    Raises:
      FileNotFoundError: there is no such file. ValueError: it is of another kind, or damaged.
    """
    source = f"{knob}: {path}" if knob else str(path)
    if not Path(path).is_file():
        raise FileNotFoundError(f"{source}: there is no such file; `framer-jax precompute embeddings` writes them")
    arrays, metadata = load_weights(path)
    if metadata.get("kind") != "text" or not set(STORED_NAMES.values()) <= arrays.keys():
        raise ValueError(f"{source}: no embedding of a text: make it with `framer-jax precompute embeddings --null`")
    return TextEmbedding.from_record(arrays), dict(metadata["text"]["encoders"])


def shapes_of(text: TextEmbedding) -> dict[str, tuple[int, ...]]:
    """Of the entries of one text, by their names."""
    return text.shapes


def text_settings(config: Mapping[str, Any]) -> TextSettings:
    """The sizes of texts that a configuration's `recipe.text` describes."""
    left, right = config["clip_widths"]
    return TextSettings(config["clip_length"], config["t5_length"], (left, right), config["width"])


def text_widths(config: Mapping[str, Any]) -> dict[str, int]:
    """What a denoiser needs to know of the texts that `recipe.text` describes."""
    return {"context_width": config["width"], "pooled_width": sum(config["clip_widths"])}


def denoiser_shapes(denoiser: Any, channels: int, text: TextSettings, latents: int) -> tuple[jax.ShapeDtypeStruct, ...]:
    """Inputs of a denoiser that is told a text, as small as it takes them: latent, time, text, and further latents.

    Args:
      denoiser: its `multiple` is the least side of a latent.
      channels: of a latent.
      text: sizes of the text.
      latents: their number.
    """

    def floats(*shape: int) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, jnp.float32)

    latent = floats(1, denoiser.multiple, denoiser.multiple, channels)
    told = (floats(1, *text.shapes[name]) for name in (TEXT, POOLED_TEXT))
    return latent, floats(1), *told, *(latent for _ in range(latents - 1))
