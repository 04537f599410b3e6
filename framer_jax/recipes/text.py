"""The text that conditions a denoiser: embeddings from files or records, or, said explicitly, none.

A text is (context [T, C], pooled [P]), as the encoders of Stable Diffusion 3 make them together. No encoder runs here:
`framer-jax precompute embeddings` writes them once.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from framer_jax.recipes.base import Batch, Frozen

TEXTS = "texts"
"""The entry of `frozen` with the embeddings by their names."""

NULL, WANTED, AVOIDED = "null", "wanted", "avoided"
"""The empty text; what is asked for of every picture; what sampling leads away from. The empty one stands for both."""

CONTEXT, POOLED = "prompt", "pooled"
"""The entries of a batch, and of a file, with a text's tokens [T, C] and its pooled embedding [P]."""


class Text(NamedTuple):
    """A text for each example: context [B, T, C] and pooled [B, P], float32."""

    context: jax.Array
    pooled: jax.Array


class TextShape(NamedTuple):
    """What a denoiser takes: T tokens of width C, and P pooled numbers."""

    length: int
    width: int
    pooled: int


def zero_text(shape: TextShape) -> dict[str, dict[str, np.ndarray]]:
    """Texts of zeros: training and sampling without any text encoder."""
    return {
        NULL: {
            CONTEXT: np.zeros((shape.length, shape.width), np.float32),
            POOLED: np.zeros((shape.pooled,), np.float32),
        }
    }


def check_text(text: Mapping[str, np.ndarray], shape: TextShape, source: str) -> None:
    """Refuse a text of another shape.

    Raises:
      ValueError: it lacks a part, or a part has another shape; the message names the source and the remedy.
    """
    for name, wanted in ((CONTEXT, (shape.length, shape.width)), (POOLED, (shape.pooled,))):
        found = np.shape(text[name]) if name in text else None
        if found != wanted:
            what = "is missing" if found is None else f"has the shape {found}"
            raise ValueError(
                f"{source}: its {name} {what}, and the denoiser takes {wanted}: make the embeddings with the same text "
                "lengths, or set recipe.text.length"
            )


def text_of_all(frozen: Frozen, name: str, count: int) -> Text:
    """One text of `frozen` for each of `count` examples; the empty one where there is none of that name."""
    texts = frozen[TEXTS]
    found = texts.get(name, texts[NULL])
    return Text(*(jnp.broadcast_to(found[part], (count, *found[part].shape)) for part in (CONTEXT, POOLED)))


def text_of_batch(frozen: Frozen, batch: Batch, count: int) -> Text:
    """The text of each example: what the batch brings ('prompt' [B, T, C] and 'pooled' [B, P]), or the empty one."""
    if CONTEXT not in batch:
        return text_of_all(frozen, NULL, count)
    return Text(batch[CONTEXT].astype(jnp.float32), batch[POOLED].astype(jnp.float32))
