"""Score distillation: the scores of frozen and trained diffusion models pull the latent of a one-step student.

Every member of the family gives a direction g, a constant, and the loss is c |z − stop_gradient(z − g)|²: its gradient
with respect to the student's latent z is 2 c g, over the number of entries.

- Classifier score distillation (CSD): Yu et al., "Text-to-3D with Classifier Score Distillation" (ICLR 2024), as Sun et
  al., "Pixel-level and Semantic-level Adjustable Super-resolution: A Dual-LoRA Approach" (PiSA-SR, CVPR 2025), use it:
  from the teacher's estimate for the negative prompt to its guided one.
- Variational score distillation (VSD): Wang et al., "ProlificDreamer" (NeurIPS 2023), as Wu et al., "One-Step Effective
  Diffusion Network for Real-World Image Super-Resolution" (OSEDiff, NeurIPS 2024), use it: from the estimate of a
  regularizer, a network that is trained on the student's latents, to the teacher's guided one.
- Target score distillation (TSD): Dong et al., "TSD-SR: One-Step Diffusion with Target Score Distillation for
  Real-World Image Super-Resolution" (CVPR 2025): VSD, and target-score matching (TSM), against the teacher's own score
  of the HR latent. With several sub-steps along the trajectories it is the paper's distribution-aware sampling module
  (DASM). The released trainer computes this loss without a gradient, so it trains nothing there. Here it has one.

CSD and VSD are on the variance-preserving process of framer_jax.diffusion.ddpm, TSD is on rectified flow.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from framer_jax.diffusion import ddpm, flow
from framer_jax.diffusion.guidance import classifier_free_guidance
from framer_jax.losses.denoising import denoising_error

CSD_TIMES = (20, 500)
"""Range of the times of CSD in PiSA-SR; the upper end is excluded."""

VSD_TIMES = (20, 980)
"""Range of the times of VSD in OSEDiff; the upper end is excluded."""

REGULARISER_TIMES = (0, 1000)
"""Range of the times with which OSEDiff trains its regularizer: all of them."""

TSD_SCALE = 0.5
"""The factor c of TSD in the released code of TSD-SR; that of CSD and VSD, in PiSA-SR's and OSEDiff's, is 1."""

SMALLEST_DISTANCE = 1e-8
"""Lower bound of the distance by which a direction is divided."""

FIRST_INDEX_RANGE = (50, 950)
"""Range of TSD's first sub-step, in entries of the table of sigmas; the upper end is excluded."""

MAX_BIAS = 0.5
"""Largest bias of the trajectory's end, as a fraction of a sub-step."""


def distillation_error(z: jax.Array, direction: jax.Array, scale: float) -> jax.Array:
    """The loss of every member of the family: c |z − stop_gradient(z − g)|².

    Args:
      z: the student's latent, [B, h, w, C] float32.
      direction: g, like z, a constant.
      scale: c, 1 for CSD and VSD, `TSD_SCALE` for TSD.

    Returns:
      [B] float32, c times the mean square of the direction.
    """
    target = jax.lax.stop_gradient(z - direction)
    return scale * jnp.square(z - target).mean(axis=(1, 2, 3))


class TeacherOutputs(NamedTuple):
    """What the frozen network predicts for the noisy latent of the student; [B, h, w, C] each.

    Attributes:
      unconditional: for the negative prompt.
      conditional: for the prompt of the image.
    """

    unconditional: jax.Array
    conditional: jax.Array


def draw_times(key: jax.Array, count: int, times: tuple[int, int]) -> jax.Array:
    """Draw [count] int32 times, uniformly from `CSD_TIMES`, `VSD_TIMES` or another range; its end is excluded."""
    return jax.random.randint(key, (count,), *times)


def csd_direction(
    schedule: ddpm.Schedule,
    z: jax.Array,
    x: jax.Array,
    t: jax.Array,
    teacher: TeacherOutputs,
    guidance: float,
    prediction: str = "epsilon",
) -> jax.Array:
    """g_CSD = (x̂_0(negative prompt) − x̂_0(guided)) / mean|z − x̂_0(guided)|, without a gradient.

    The division, by the mean over an example's entries, is that of the released code: gradients of all times have about
    the same size.

    Args:
      schedule: schedule tables.
      z: the student's latent, [B, h, w, C] float32.
      x: z at time t, like z (framer_jax.diffusion.ddpm.forward).
      t: [B] int32, see `draw_times`.
      teacher: the frozen network's outputs at x and t.
      guidance: scale of classifier-free guidance, 7.5 in PiSA-SR.
      prediction: what the network predicts, one of framer_jax.diffusion.ddpm.PREDICTIONS.

    Returns:
      [B, h, w, C] float32.

    Raises:
      ValueError: see framer_jax.diffusion.ddpm.predicted_x0.
    """
    return _direction(schedule, (z, x, t), teacher, teacher.unconditional, guidance, prediction)


def vsd_direction(
    schedule: ddpm.Schedule,
    z: jax.Array,
    x: jax.Array,
    t: jax.Array,
    teacher: TeacherOutputs,
    regulariser: jax.Array,
    guidance: float,
    prediction: str = "epsilon",
) -> jax.Array:
    """g_VSD = (x̂_0(regularizer) − x̂_0(guided teacher)) / mean|z − x̂_0(guided teacher)|, without a gradient.

    Args:
      schedule: as of `csd_direction`, as are the following unless said otherwise.
      z: the student's latent.
      x: z at time t.
      t: times.
      teacher: the frozen network's outputs.
      regulariser: what the regularizer predicts for the prompt of the image, without guidance, [B, h, w, C].
      guidance: scale of the teacher's classifier-free guidance, 7.5 in OSEDiff.
      prediction: what both networks predict.

    Returns:
      [B, h, w, C] float32.

    Raises:
      ValueError: see framer_jax.diffusion.ddpm.predicted_x0.
    """
    return _direction(schedule, (z, x, t), teacher, regulariser, guidance, prediction)


def _direction(
    schedule: ddpm.Schedule,
    latents: tuple[jax.Array, jax.Array, jax.Array],
    teacher: TeacherOutputs,
    other: jax.Array,
    guidance: float,
    prediction: str,
) -> jax.Array:
    """From the teacher's guided estimate of the clean latent to that of another output; latents: z, x and t."""
    z, x, t = latents
    unconditional, conditional, other = (output.astype(jnp.float32) for output in (*teacher, other))
    guided = classifier_free_guidance(unconditional, conditional, guidance)
    real, fake = (ddpm.predicted_x0(schedule, x, t, output, prediction) for output in (guided, other))
    distance = jnp.abs(z - real).mean(axis=(1, 2, 3), keepdims=True)  # [B, 1, 1, 1]
    return jax.lax.stop_gradient((fake - real) / jnp.maximum(distance, SMALLEST_DISTANCE))


def regulariser_error(
    schedule: ddpm.Schedule,
    output: jax.Array,
    z: jax.Array,
    t: jax.Array,
    noise: jax.Array,
    prediction: str = "epsilon",
) -> jax.Array:
    """L_diff = |ε_R(x_t) − ε|², the diffusion loss with which VSD's regularizer is trained on the student's latents.

    Args:
      schedule: schedule tables.
      output: the regularizer's, at z noised to time t, [B, h, w, C].
      z: the student's latent, like output; a constant.
      t: [B] int32.
      noise: ε, like output.
      prediction: what the network predicts; v or x_0 then takes the place of ε.

    Returns:
      [B] float32.

    Raises:
      ValueError: see framer_jax.diffusion.ddpm.training_target.
    """
    return denoising_error(schedule, output, jax.lax.stop_gradient(z), t, noise, prediction)


class Velocities(NamedTuple):
    """Velocities that the networks of TSD predict at one sub-step, after guidance; [B, h, w, C] float32 each.

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


class TsdDirections(NamedTuple):
    """Directions of TSD: gradients with respect to the student's latent; [B, h, w, C] float32 each.

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


def tsd_directions(
    z: jax.Array,
    z_hr: jax.Array,
    noise: jax.Array,
    sigmas: jax.Array,
    networks: Networks,
    substep_weights: tuple[float, ...] = (1.0,),
) -> TsdDirections:
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
    return TsdDirections(*jax.lax.stop_gradient(state[2:]))
