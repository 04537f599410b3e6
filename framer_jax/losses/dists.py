"""DISTS: structure and texture similarity of two images, computed from the features of a trained network.

Ding et al., "Image Quality Assessment: Unifying Structure and Texture Similarity" (IEEE TPAMI 2020). Features come from
framer_jax.models.vgg, with L2 pooling; the image itself is the first of them.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp

STABILIZER = 1e-6
"""c_1 and c_2, added to numerators and denominators of both similarities."""


def texture_similarity(first: jax.Array, second: jax.Array) -> jax.Array:
    """Similarity of the means over positions, Eq. 3: maps [B, H, W, C] → [B, C], at most 1."""
    mean, other = (maps.mean(axis=(1, 2)) for maps in (first, second))
    return (2.0 * mean * other + STABILIZER) / (mean**2 + other**2 + STABILIZER)


def structure_similarity(first: jax.Array, second: jax.Array) -> jax.Array:
    """Covariance over positions relative to the variances, Eq. 4: maps [B, H, W, C] → [B, C], at most 1."""
    one, two = (maps - maps.mean(axis=(1, 2), keepdims=True) for maps in (first, second))
    covariance = (one * two).mean(axis=(1, 2))
    variances = (one**2).mean(axis=(1, 2)) + (two**2).mean(axis=(1, 2))
    return (2.0 * covariance + STABILIZER) / (variances + STABILIZER)


def dists(features: Sequence[jax.Array], other: Sequence[jax.Array], alpha: jax.Array, beta: jax.Array) -> jax.Array:
    """DISTS, Eq. 5: 1 − Σ (α · texture + β · structure) / Σ (α + β) over all channels of all features.

    Args:
      features: maps [B, H_l, W_l, C_l] float32 of one image: the image in [0, 1], then the features of five stages.
      other: the same of the other image.
      alpha: weights of the texture similarities, [Σ C_l] float32, not negative.
      beta: weights of the structure similarities, [Σ C_l].

    Returns:
      [B] float32; 0 for equal images.

    Raises:
      ValueError: the features differ in number or shape, or the weights do not fit them.
    """
    shapes, others = ([maps.shape for maps in group] for group in (features, other))
    channels = sum(shape[-1] for shape in shapes)
    if shapes != others or alpha.shape != (channels,) or beta.shape != (channels,):
        raise ValueError(
            f"DISTS got features {shapes} and {others} with weights {alpha.shape} and {beta.shape}: features must "
            f"agree, and the weights need one entry for each of the {channels} channels"
        )
    pairs = list(zip(features, other, strict=True))
    texture = jnp.concatenate([texture_similarity(*pair) for pair in pairs], axis=-1)  # [B, Σ C_l]
    structure = jnp.concatenate([structure_similarity(*pair) for pair in pairs], axis=-1)
    weighted = alpha[None, :] * texture + beta[None, :] * structure
    return 1.0 - weighted.sum(axis=-1) / (alpha.sum() + beta.sum())
