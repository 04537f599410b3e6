"""Squared errors of latents.

Yue, Wang and Loy, "ResShift: Efficient Diffusion Model for Image Super-resolution by Residual Shifting" (NeurIPS 2023).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np


def channel_weights(channel_scale: np.ndarray, power: float) -> np.ndarray:
    """Loss weights of latent channels, proportional to channel_scale ** power, with mean 1.

    Power 0 weights all channels equally, as the paper does; power 2 turns the latent MSE into the pixel MSE where the
    codec is orthonormal.

    Args:
      channel_scale: [C], the scale by which each channel of the latent was divided.
      power: exponent.

    Returns:
      [C] float32.
    """
    weights = channel_scale.astype(np.float64) ** power
    return (weights / weights.mean()).astype(np.float32)


def latent_error(prediction: jax.Array, target: jax.Array, weights: np.ndarray) -> jax.Array:
    """ResShift's loss, Eq. 8 without its time-dependent weight: the mean over h, w and c of w_c (ẑ₀ − z₀)².

    Args:
      prediction: ẑ₀, [B, h, w, C] float32.
      target: z₀, of the same shape.
      weights: w, [C], see `channel_weights`.

    Returns:
      [B] float32.
    """
    return (jnp.square(prediction - target) * jnp.asarray(weights)[None, None, None, :]).mean(axis=(1, 2, 3))


def latent_mse(prediction: jax.Array, target: jax.Array) -> jax.Array:
    """Mean squared error of latents [B, h, w, C]: [B] float32."""
    return jnp.square(prediction - target).mean(axis=(1, 2, 3))
