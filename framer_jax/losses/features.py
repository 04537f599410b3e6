"""The perceptual loss of SRGAN's successors: the L1 distance of a trained network's features.

Johnson, Alahi and Fei-Fei, "Perceptual Losses for Real-Time Style Transfer and Super-Resolution" (ECCV 2016); features
before the ReLU as in Wang et al., "ESRGAN" (ECCV Workshops 2018). They come from framer_jax.models.vgg.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp

REAL_ESRGAN_WEIGHTS = (0.1, 0.1, 1.0, 1.0, 1.0)
"""Weights of VGG19's conv1_2, conv2_2, conv3_4, conv4_4 and conv5_4 in Real-ESRGAN's options."""


def feature_distance(
    features: Sequence[jax.Array], other: Sequence[jax.Array], weights: Sequence[float] = REAL_ESRGAN_WEIGHTS
) -> jax.Array:
    """Σ_l w_l · mean |f_l − g_l|.

    Args:
      features: maps [B, H_l, W_l, C_l] float32 of one image.
      other: the same of the other image.
      weights: w, one number for each feature.

    Returns:
      [B] float32; 0 for equal images.

    Raises:
      ValueError: the features differ in number or shape, or there are more or fewer weights.
    """
    shapes, others = ([maps.shape for maps in group] for group in (features, other))
    if shapes != others or len(weights) != len(shapes):
        raise ValueError(
            f"the perceptual loss got features {shapes} and {others} with {len(weights)} weights: features must agree, "
            "and each needs one weight"
        )
    terms = [
        weight * jnp.abs(first - second).mean(axis=(1, 2, 3))
        for first, second, weight in zip(features, other, weights, strict=True)
    ]
    return jnp.stack(terms).sum(axis=0)
