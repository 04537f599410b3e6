"""Target-score distillation: a one-step student is moved to where a diffusion teacher's score points.

Dong et al., "TSD-SR: One-Step Diffusion with Target Score Distillation for Real-World Image Super-Resolution" (CVPR
2025): variational score distillation (VSD), against a network that follows the student, and target-score matching
(TSM), against the teacher's own score of the real latent. With several sub-steps along the trajectories it is the
paper's distribution-aware sampling (DASM).

The released trainer computes this loss without a gradient, so it trains nothing there. Here it has one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from framer_jax.diffusion import flow

TABLE_ENDS = (50, 950)
"""Indices of the table of sigmas between which the first sub-step is drawn; the second is not reached."""

LARGEST_BIAS = 0.5
"""Of the sub-steps' common end, in sub-steps."""


class Velocities(NamedTuple):
    """What the networks say at one sub-step, after guidance; [B, h, w, C] float32 each.

    Attributes:
      teacher: of the student's noisy latent.
      teacher_hr: the teacher's of the real noisy latent.
      regulariser: of the student's noisy latent, from the network that follows the student.
    """

    teacher: jax.Array
    teacher_hr: jax.Array
    regulariser: jax.Array


Networks = Callable[[jax.Array, jax.Array, jax.Array], Velocities]
"""(noisy student latent, noisy real latent, sigma [B]) → velocities."""


class Directions(NamedTuple):
    """Where to move *from*: the student's latent minus a direction is better. [B, h, w, C] float32 each.

    Attributes:
      variational: of VSD.
      matching: of TSM.
    """

    variational: jax.Array
    matching: jax.Array

    def mixed(self, share: float) -> jax.Array:
        """`share` of the first, the rest of the second; the paper's lambda."""
        return share * self.variational + (1.0 - share) * self.matching


def draw_sigmas(
    key: jax.Array, count: int, substeps: int = 1, size: int = 50, biased: bool = True, shift: float = 3.0
) -> jax.Array:
    """Sigmas of an example's sub-steps, and one more where the last would lead: [count, substeps + 1] float32.

    Args:
      key: one PRNG key.
      count: examples.
      substeps: at least 1.
      size: of one, in entries of the table of 1000.
      biased: whether their common end is moved by up to half a sub-step, drawn for each example.
      shift: of the table.
    """
    key_first, key_bias = jax.random.split(key)
    first = jax.random.randint(key_first, (count,), *TABLE_ENDS)
    half = int(size * LARGEST_BIAS)
    bias = jax.random.randint(key_bias, (count,), -half, half) if biased and half else jnp.zeros_like(first)
    last = jnp.minimum(first + size * substeps + bias, flow.TRAINING_STEPS - 1)
    places = first[:, None] + (last - first)[:, None] * jnp.arange(substeps + 1)[None] // substeps
    return jnp.asarray(flow.training_sigmas(shift), jnp.float32)[places]


def directions(
    z: jax.Array,
    z_hr: jax.Array,
    noise: jax.Array,
    sigmas: jax.Array,
    networks: Networks,
    weights: tuple[float, ...] = (1.0,),
) -> Directions:
    """The two directions, summed over sub-steps, without a gradient.

    Both latents share their noise. From one sub-step to the next the student's goes with the regulariser's velocity,
    the real one with the teacher's.

    Args:
      z: [B, h, w, C] float32, what the student made.
      z_hr: like z, the real latent.
      noise: like z, standard normal.
      sigmas: [B, K + 1] float32, see `draw_sigmas`.
      networks: what is asked at each of them.
      weights: of the K sub-steps.

    Raises:
      ValueError: another number of weights than of sub-steps.
    """
    if sigmas.shape[1] != len(weights) + 1:
        raise ValueError(f"sigmas of {sigmas.shape[1] - 1} sub-steps, and {len(weights)} weights: give one for each")
    z, z_hr = jax.lax.stop_gradient((z, z_hr))

    def substep(state: Any, now: Any) -> tuple[Any, None]:
        x, x_hr, variational, matching = state
        sigma, following, weight = now
        found = networks(x, x_hr, sigma)
        factor = (weight * jnp.square(sigma))[:, None, None, None]
        step = (sigma - following)[:, None, None, None]
        moved = x - step * found.regulariser, x_hr - step * found.teacher_hr
        variational += factor * (found.teacher - found.regulariser)
        matching += factor * (found.teacher - found.teacher_hr)
        return (*moved, variational, matching), None

    start = flow.forward(z, sigmas[:, 0], noise), flow.forward(z_hr, sigmas[:, 0], noise)
    steps = sigmas[:, :-1].T, sigmas[:, 1:].T, jnp.asarray(weights, jnp.float32)
    state, _ = jax.lax.scan(substep, (*start, jnp.zeros_like(z), jnp.zeros_like(z)), steps)
    return Directions(*jax.lax.stop_gradient(state[2:]))


def distillation_error(z: jax.Array, direction: jax.Array) -> jax.Array:
    """A loss whose gradient with respect to z is the direction, divided by the numbers of a latent.

    Args:
      z: [B, h, w, C] float32.
      direction: like z.

    Returns:
      [B] float32, half the mean square of the direction.
    """
    target = jax.lax.stop_gradient(z - direction)
    return 0.5 * jnp.square(z - target).mean(axis=(1, 2, 3))
