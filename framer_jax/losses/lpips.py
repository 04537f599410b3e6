"""LPIPS: the perceptual distance of two images, computed from the features of a trained network.

Zhang et al., "The Unreasonable Effectiveness of Deep Features as a Perceptual Metric" (CVPR 2018), Eq. 1, in version
0.1 of its weights (a linear head on each feature). Features and heads come from framer_jax.models.vgg.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp

EPSILON = 1e-10
"""Added to the length of a feature vector before it divides."""


def unit_length(feature: jax.Array) -> jax.Array:
    """[B, H, W, C] → each position's vector divided by its length; zero stays zero, with a gradient of zero."""
    square = jnp.square(feature).sum(axis=-1, keepdims=True)
    is_zero = square == 0.0
    # Two selections, so that the derivative of the root at zero never enters (it would be a NaN in the gradient).
    length = jnp.where(is_zero, 0.0, jnp.sqrt(jnp.where(is_zero, 1.0, square)))
    return feature / (length + EPSILON)


def lpips_terms(
    features: Sequence[jax.Array], other: Sequence[jax.Array], heads: Sequence[jax.Array]
) -> tuple[jax.Array, ...]:
    """The summands of Eq. 1, one per feature l: mean over h, w of Σ_c w_lc (f̂_lhwc − ĝ_lhwc)², f̂ and ĝ of unit length.

    Args:
      features: maps [B, H_l, W_l, C_l] float32 of one image.
      other: the same of the other image.
      heads: w, [C_l] float32 each, not negative if trained.

    Returns:
      [B] float32 per feature.

    Raises:
      ValueError: the numbers of features differ, or a head does not fit its feature.
    """
    if not len(features) == len(other) == len(heads):
        raise ValueError(
            f"LPIPS got {len(features)} and {len(other)} features and {len(heads)} heads: pass the same number of each"
        )
    terms = []
    for first, second, head in zip(features, other, heads, strict=True):
        if first.shape != second.shape or first.shape[-1:] != head.shape:
            raise ValueError(
                f"LPIPS got features {first.shape} and {second.shape} with a head {head.shape}: features must agree, "
                "and a head has one weight per channel"
            )
        difference = jnp.square(unit_length(first) - unit_length(second))
        terms.append((difference * head[None, None, None, :]).sum(axis=-1).mean(axis=(1, 2)))
    return tuple(terms)


def lpips(features: Sequence[jax.Array], other: Sequence[jax.Array], heads: Sequence[jax.Array]) -> jax.Array:
    """LPIPS, Eq. 1, [B] float32: the sum of `lpips_terms`."""
    return jnp.stack(lpips_terms(features, other, heads)).sum(axis=0)
