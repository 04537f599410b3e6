"""Rectified flow as in Stable Diffusion 3: tables of sigmas, forward process, velocities, timestep sampling.

Esser et al., "Scaling Rectified Flow Transformers for High-Resolution Image Synthesis" (2024), Sections 2, 3.1 and 5.3.
x_σ = (1 - σ) x_0 + σ ε, and the network predicts the velocity v = ε - x_0. Its time input is 1000 σ.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

TRAINING_STEPS = 1000
"""Number of discrete times of the reference scheduler, and the factor from σ to the network's time input."""

TIMESTEP_SAMPLINGS = ("logit_normal", "mode", "cosmap", "uniform")
"""The densities of Section 3.1 from which training times are drawn."""


def shift_sigma(sigma: np.ndarray | float, shift: float) -> np.ndarray:
    """The resolution-dependent time shift of Section 5.3.2: s σ / (1 + (s - 1) σ)."""
    return np.asarray(shift * sigma / (1.0 + (shift - 1.0) * sigma))


def training_sigmas(shift: float = 3.0) -> np.ndarray:
    """The table that training sigmas are drawn from, [1000] float64, descending from 1."""
    return shift_sigma(np.linspace(1.0, TRAINING_STEPS, TRAINING_STEPS)[::-1] / TRAINING_STEPS, shift)


def sampling_sigmas(steps: int, shift: float = 3.0) -> np.ndarray:
    """The sigmas of a sampler with `steps` steps, [steps + 1] float64, descending from 1 to 0.

    The reference spaces the *shifted* training range evenly and shifts it a second time; published samplers rely on it.

    Raises:
      ValueError: fewer than one step.
    """
    if steps < 1:
        raise ValueError(f"a flow sampler needs at least 1 step, not {steps}")
    table = training_sigmas(shift)
    return np.append(shift_sigma(np.linspace(table[0], table[-1], steps), shift), 0.0)


def forward(x0: jax.Array, sigma: jax.Array, noise: jax.Array) -> jax.Array:
    """The noisy latent x_σ for x0 and noise [B, H, W, C] float32 and sigma [B]."""
    sigma = sigma[:, None, None, None]
    return (1.0 - sigma) * x0 + sigma * noise


def velocity(x0: jax.Array, noise: jax.Array) -> jax.Array:
    """The velocity ε - x_0, which the network is trained to predict."""
    return noise - x0


def x0_from_velocity(x: jax.Array, velocity_prediction: jax.Array, sigma: jax.Array) -> jax.Array:
    """The clean latent x_0 that x_σ and a predicted velocity imply; sigma [B]."""
    return x - sigma[:, None, None, None] * velocity_prediction


def draw_sigma(
    key: jax.Array,
    count: int,
    timestep_sampling: str = "logit_normal",
    shift: float = 3.0,
    *,
    logit_mean: float = 0.0,
    logit_std: float = 1.0,
    mode_scale: float = 1.29,
) -> jax.Array:
    """Draw [count] float32 training sigmas from the shifted table.

    Args:
      key: one PRNG key.
      count: number of sigmas.
      timestep_sampling: density of the position in the table, one of `TIMESTEP_SAMPLINGS`.
      shift: time shift of the table.
      logit_mean: see `draw_position`.
      logit_std: see `draw_position`.
      mode_scale: see `draw_position`.

    Raises:
      ValueError: an unknown timestep sampling.
    """
    u = draw_position(key, count, timestep_sampling, logit_mean=logit_mean, logit_std=logit_std, mode_scale=mode_scale)
    index = jnp.clip((u * TRAINING_STEPS).astype(jnp.int32), 0, TRAINING_STEPS - 1)
    return jnp.asarray(training_sigmas(shift), jnp.float32)[index]


def draw_position(
    key: jax.Array,
    count: int,
    timestep_sampling: str,
    *,
    logit_mean: float = 0.0,
    logit_std: float = 1.0,
    mode_scale: float = 1.29,
) -> jax.Array:
    """Draw [count] float32 positions in [0, 1] in the table of sigmas, where 0 is its noisy end (Section 3.1).

    Args:
      key: one PRNG key.
      count: number of positions.
      timestep_sampling: their density, one of `TIMESTEP_SAMPLINGS`.
      logit_mean: mean of the logit, for 'logit_normal'.
      logit_std: standard deviation of the logit, for 'logit_normal'.
      mode_scale: s of 'mode', from -1 (favors both ends) over 0 (uniform) to 2 / (π - 2) (favors the middle).

    Raises:
      ValueError: an unknown timestep sampling.
    """
    if timestep_sampling == "logit_normal":
        return jax.nn.sigmoid(logit_mean + logit_std * jax.random.normal(key, (count,), jnp.float32))
    u = jax.random.uniform(key, (count,), jnp.float32)
    if timestep_sampling == "uniform":
        return u
    angle = jnp.float32(np.pi / 2) * u
    if timestep_sampling == "mode":
        return 1.0 - u - mode_scale * (jnp.cos(angle) ** 2 - 1.0 + u)
    if timestep_sampling == "cosmap":
        return 1.0 - 1.0 / (jnp.tan(angle) + 1.0)
    raise ValueError(f"timestep_sampling is {timestep_sampling!r}: it must be one of {', '.join(TIMESTEP_SAMPLINGS)}")
