"""Target-score distillation of TSD-SR: the score of a diffusion teacher pulls a one-step student.

Dong et al., "TSD-SR: One-Step Diffusion with Target Score Distillation for Real-World Image Super-Resolution" (CVPR
2025): variational score distillation (VSD), against a regularizer network that is trained on the student's latents, and
target-score matching (TSM), against the teacher's own score of the HR latent. With several sub-steps along the
trajectories it is the paper's distribution-aware sampling module (DASM).

The released trainer computes this loss without a gradient, so it trains nothing there. Here it has one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from framer_jax.diffusion import flow

FIRST_INDEX_RANGE = (50, 950)
"""Range of the table index of the first sub-step; the upper end is excluded."""

MAX_BIAS = 0.5
"""Largest bias of the trajectory's end, as a fraction of a sub-step."""


class Velocities(NamedTuple):
    """Velocities that the networks predict at one sub-step, after guidance; [B, h, w, C] float32 each.

    Attributes:
      teacher: the teacher's, for the noisy latent of the student.
      teacher_hr: the teacher's, for the noisy HR latent.
      regulariser: the regularizer's, for the noisy latent of the student.
    """

    teacher: jax.Array
    teacher_hr: jax.Array
    regulariser: jax.Array


Networks = Callable[[jax.Array, jax.Array, jax.Array], Velocities]
"""(noisy student latent, noisy HR latent, sigma [B]) → velocities."""


class Directions(NamedTuple):
    """Gradients of the distillation with respect to the student's latent; [B, h, w, C] float32 each.

    Attributes:
      variational: g_VSD = Σ_k w_k σ_k² (v_teacher(z_σ) − v_regularizer(z_σ)).
      matching: g_TSM = Σ_k w_k σ_k² (v_teacher(z_σ) − v_teacher(z_σ^HR)).
    """

    variational: jax.Array
    matching: jax.Array

    def combined(self, vsd_weight: float) -> jax.Array:
        """λ g_VSD + (1 − λ) g_TSM, with the paper's λ as `vsd_weight`."""
        return vsd_weight * self.variational + (1.0 - vsd_weight) * self.matching


def draw_sigmas(
    key: jax.Array,
    count: int,
    substeps: int = 1,
    substep_size: int = 50,
    substep_bias: bool = True,
    shift: float = 3.0,
) -> jax.Array:
    """Draw the sigmas of each example's sub-steps, and the one that the last sub-step leads to.

    Args:
      key: one PRNG key.
      count: number of examples.
      substeps: number of sub-steps K, at least 1.
      substep_size: length of a sub-step, in entries of the table of 1000 sigmas.
      substep_bias: move the end of the trajectory randomly by up to half a sub-step, drawn per example.
      shift: time shift of the table.

    Returns:
      [count, K + 1] float32, descending.
    """
    key_first, key_bias = jax.random.split(key)
    first = jax.random.randint(key_first, (count,), *FIRST_INDEX_RANGE)
    half = int(substep_size * MAX_BIAS)
    bias = jax.random.randint(key_bias, (count,), -half, half) if substep_bias and half else jnp.zeros_like(first)
    last = jnp.minimum(first + substep_size * substeps + bias, flow.TRAINING_STEPS - 1)
    indices = first[:, None] + (last - first)[:, None] * jnp.arange(substeps + 1)[None] // substeps
    return jnp.asarray(flow.training_sigmas(shift), jnp.float32)[indices]


def directions(
    z: jax.Array,
    z_hr: jax.Array,
    noise: jax.Array,
    sigmas: jax.Array,
    networks: Networks,
    substep_weights: tuple[float, ...] = (1.0,),
) -> Directions:
    """g_VSD and g_TSM, summed over the sub-steps, without a gradient.

    Both latents are noised with the same noise. From one sub-step to the next the student's latent moves with the
    regularizer's velocity, and the HR latent with the teacher's.

    Args:
      z: the student's latent, [B, h, w, C] float32.
      z_hr: the HR latent, like z.
      noise: standard normal, like z.
      sigmas: [B, K + 1] float32, see `draw_sigmas`.
      networks: teacher and regularizer, called at each sub-step.
      substep_weights: w, weights of the K sub-steps.

    Raises:
      ValueError: the number of weights is not the number of sub-steps.
    """
    if sigmas.shape[1] != len(substep_weights) + 1:
        raise ValueError(
            f"sigmas are those of {sigmas.shape[1] - 1} sub-steps, but there are {len(substep_weights)} weights: pass "
            "one weight per sub-step"
        )
    z, z_hr = jax.lax.stop_gradient((z, z_hr))

    def substep(state: Any, inputs: Any) -> tuple[Any, None]:
        x, x_hr, variational, matching = state
        sigma, next_sigma, weight = inputs
        velocities = networks(x, x_hr, sigma)
        factor = (weight * jnp.square(sigma))[:, None, None, None]
        step = (sigma - next_sigma)[:, None, None, None]
        moved = x - step * velocities.regulariser, x_hr - step * velocities.teacher_hr
        variational += factor * (velocities.teacher - velocities.regulariser)
        matching += factor * (velocities.teacher - velocities.teacher_hr)
        return (*moved, variational, matching), None

    start = flow.forward(z, sigmas[:, 0], noise), flow.forward(z_hr, sigmas[:, 0], noise)
    steps = sigmas[:, :-1].T, sigmas[:, 1:].T, jnp.asarray(substep_weights, jnp.float32)
    state, _ = jax.lax.scan(substep, (*start, jnp.zeros_like(z), jnp.zeros_like(z)), steps)
    return Directions(*jax.lax.stop_gradient(state[2:]))


def tsd_error(z: jax.Array, direction: jax.Array) -> jax.Array:
    """L_TSD = ½ |z − stop_gradient(z − g)|²: its gradient with respect to z is g, over the number of latent entries.

    Args:
      z: the student's latent, [B, h, w, C] float32.
      direction: g, like z, see `Directions.combined`.

    Returns:
      [B] float32, half the mean square of the direction.
    """
    target = jax.lax.stop_gradient(z - direction)
    return 0.5 * jnp.square(z - target).mean(axis=(1, 2, 3))
