"""HF-Diff's two perceptual terms with their networks: detail features of an extractor, and embeddings of an encoder."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, cast

import jax

from framer_jax.losses.distribution import js_divergence
from framer_jax.losses.high_frequency import high_frequency_error
from framer_jax.models.hf_extractor import HFExtractor
from framer_jax.recipes.base import Params


def detail_distance(module: HFExtractor, params: Params, prediction: jax.Array, reference: jax.Array) -> jax.Array:
    """HF-Diff's Eq. 6 on images or latents; see framer_jax.losses.high_frequency.

    Args:
      module: the extractor.
      params: its parameters.
      prediction: [B, H, W, C] float32 in [-1, 1], or latents as the extractor was trained on.
      reference: the ground truth, of the same shape; no gradient reaches it.

    Returns:
      [B] float32.
    """
    detail, of_reference = (
        cast(tuple[jax.Array, jax.Array], module.apply({"params": params}, x))[1]  # z_K, [B, H, W, width]
        for x in (prediction, jax.lax.stop_gradient(reference))
    )
    return high_frequency_error(detail, of_reference)


def embedding_distance(
    embed: Callable[[Any, jax.Array], jax.Array],
    params: Params,
    prediction: jax.Array,
    reference: jax.Array,
    temperature: float = 1.0,
    base: float = math.e,
) -> jax.Array:
    """HF-Diff's Eq. 4 on images; see framer_jax.losses.distribution.

    Args:
      embed: (parameters, images) → embeddings [B, D] or [B, N, D].
      params: its parameters.
      prediction: [B, H, W, 3] float32 in the range that `embed` takes.
      reference: the ground truth, of the same shape; no gradient reaches it.
      temperature: as of `js_divergence`.
      base: as of `js_divergence`.

    Returns:
      [B] float32.
    """
    return js_divergence(embed(params, prediction), embed(params, jax.lax.stop_gradient(reference)), temperature, base)
