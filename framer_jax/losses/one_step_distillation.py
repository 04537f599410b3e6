"""SinSR: the three terms that distill a ResShift model of many steps into one step.

Wang et al., "SinSR: Diffusion-Based Image Super-Resolution in a Single Step" (CVPR 2024), Section 3 and Algorithm 1, as
the released code computes them: all three terms are errors of latents, with weight 1 each. The teacher's deterministic
trajectory makes x0_T, its end, a function of x_T, its start. The student S(x, t) learns that function (distillation),
its inverse (inverse), and to reconstruct the HR latent from the inverse of it (consistency).
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from framer_jax.losses.latent import latent_error


class OneStepTerms(NamedTuple):
    """The terms of the loss, [B] float32 each."""

    distillation: jax.Array
    inverse: jax.Array
    consistency: jax.Array


def distillation_error(prediction: jax.Array, trajectory_end: jax.Array, weights: np.ndarray) -> jax.Array:
    """L_distill = |S(x_T, T−1) − x0_T|²: the student's step against the teacher's trajectory.

    Args:
      prediction: S(x_T, T−1), [B, h, w, C] float32.
      trajectory_end: x0_T, where the teacher's deterministic trajectory from x_T ends, of the same shape.
      weights: [C], weights of the channels, see framer_jax.losses.latent.channel_weights.

    Returns:
      [B] float32.
    """
    return latent_error(prediction, trajectory_end, weights)


def inverse_error(prediction: jax.Array, trajectory_start: jax.Array, weights: np.ndarray) -> jax.Array:
    """L_inverse = |S(x0_T, 0) − x_T|²: the student's inverse step against the start of the trajectory.

    Args:
      prediction: S(x0_T, 0), [B, h, w, C] float32.
      trajectory_start: x_T, of the same shape.
      weights: [C], weights of the channels.

    Returns:
      [B] float32.
    """
    return latent_error(prediction, trajectory_start, weights)


def consistency_error(prediction: jax.Array, z_hr: jax.Array, weights: np.ndarray) -> jax.Array:
    """L_consistency = |S(x̂_T, T−1) − z_hr|² with x̂_T = S(z_hr, 0): the HR latent from its own inverse.

    x̂_T is a constant in SinSR's released code; HF-Diff's Eq. 8 marks no stopped gradient.

    Args:
      prediction: S(S(z_hr, 0), T−1), [B, h, w, C] float32.
      z_hr: the HR latent, of the same shape.
      weights: [C], weights of the channels.

    Returns:
      [B] float32.
    """
    return latent_error(prediction, z_hr, weights)


def one_step_distillation(terms: OneStepTerms, weights: tuple[float, float, float]) -> jax.Array:
    """SinSR's total, [B] float32: the sum of the terms times their weights, in the order of `OneStepTerms`."""
    distillation_weight, inverse_weight, consistency_weight = weights
    return (
        jnp.float32(distillation_weight) * terms.distillation
        + jnp.float32(inverse_weight) * terms.inverse
        + jnp.float32(consistency_weight) * terms.consistency
    )
