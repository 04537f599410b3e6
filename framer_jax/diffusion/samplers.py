"""Samplers: plain functions that call `denoise(x, t)`, independent of the model and without parameters."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from framer_jax.diffusion import ddpm, resshift

Draw = Callable[[jax.Array], jax.Array]
"""Number of a noise draw (int32 scalar, 0 for the initial noise) → standard normal noise of the latent's shape."""


def resshift_ancestral(
    schedule: resshift.Schedule, denoise: Callable[[jax.Array, jax.Array], jax.Array], y: jax.Array, draw: Draw
) -> jax.Array:
    """The T-step ancestral sampler of ResShift: the last of the estimates of `resshift_estimates`."""
    return _ancestral(schedule, denoise, y, draw, keep=False)[0]


def resshift_estimates(
    schedule: resshift.Schedule, denoise: Callable[[jax.Array, jax.Array], jax.Array], y: jax.Array, draw: Draw
) -> tuple[jax.Array, jax.Array]:
    """The T-step ancestral sampler of ResShift, and what it estimated on its way.

    Args:
      schedule: schedule tables, possibly respaced.
      denoise: (x [B, H, W, C], index int32 scalar) → estimate of x_0; it scales its input and maps the index itself.
      y: [B, H, W, C] float32 LR latent.
      draw: noise source; draw 0 is the noise of the prior, draw k that of step k.

    Returns:
      [B, H, W, C] float32, the final estimate of x_0; and those of the steps before it, [T - 1, B, H, W, C].
    """
    x0, estimates = _ancestral(schedule, denoise, y, draw, keep=True)
    assert estimates is not None
    return x0, estimates


def _ancestral(
    schedule: resshift.Schedule,
    denoise: Callable[[jax.Array, jax.Array], jax.Array],
    y: jax.Array,
    draw: Draw,
    keep: bool,
) -> tuple[jax.Array, jax.Array | None]:
    x = resshift.prior(schedule, y, draw(jnp.int32(0)))

    def step(x: jax.Array, number: jax.Array) -> tuple[jax.Array, jax.Array | None]:
        index = jnp.int32(schedule.steps - 1) - number
        x0 = denoise(x, index)
        return resshift.posterior_step(schedule, x, x0, index, draw(number + 1)), x0 if keep else None

    # The last step (index 0) returns the estimate itself; outside the scan, no noise of weight zero is drawn for it.
    x, estimates = jax.lax.scan(step, x, jnp.arange(schedule.steps - 1, dtype=jnp.int32))
    return denoise(x, jnp.int32(0)), estimates


def resshift_deterministic(
    schedule: resshift.Schedule, denoise: Callable[[jax.Array, jax.Array], jax.Array], y: jax.Array, start: jax.Array
) -> jax.Array:
    """SinSR's deterministic sampler of a ResShift model: the only noise is that of the initial latent.

    Args:
      schedule: schedule tables, possibly respaced.
      denoise: see `resshift_ancestral`.
      y: [B, H, W, C] float32 LR latent.
      start: initial latent, x at the last index (framer_jax.diffusion.resshift.prior), [B, H, W, C] float32.

    Returns:
      [B, H, W, C] float32, the final estimate of x_0.
    """

    def step(x: jax.Array, index: jax.Array) -> tuple[jax.Array, None]:
        return resshift.deterministic_step(schedule, x, denoise(x, index), y, index), None

    x, _ = jax.lax.scan(step, start, jnp.arange(schedule.steps - 1, 0, -1, dtype=jnp.int32))
    return denoise(x, jnp.int32(0))


def ddim(
    grid: ddpm.Grid,
    denoise: Callable[[jax.Array, jax.Array], jax.Array],
    start: jax.Array,
    eta: float = 0.0,
    draw: Draw | None = None,
) -> jax.Array:
    """Steps of a variance-preserving process: DDIM's deterministic ones, or with η = 1 the ancestral ones of DDPM.

    Args:
      grid: the steps (framer_jax.diffusion.ddpm.ddim_grid or ddpm_grid).
      denoise: (x [B, H, W, C], t int32 scalar) → estimate of x_0 (framer_jax.diffusion.ddpm.predicted_x0).
      start: initial latent, x at the first of the grid's times, [B, H, W, C] float32.
      eta: share of the noise that is drawn anew, see framer_jax.diffusion.ddpm.step_coefficients.
      draw: noise source, for η above 0; draw k is that of step k, counted from 1.

    Returns:
      [B, H, W, C] float32, x after the last step.

    Raises:
      ValueError: η above 0 without a noise source.
    """
    return _ddim(grid, denoise, start, eta, draw, keep=False)[0]


def ddim_estimates(
    grid: ddpm.Grid,
    denoise: Callable[[jax.Array, jax.Array], jax.Array],
    start: jax.Array,
    eta: float = 0.0,
    draw: Draw | None = None,
) -> tuple[jax.Array, jax.Array]:
    """As `ddim`, and the estimates of x_0 in all steps but the last, [steps - 1, B, H, W, C]."""
    x, estimates = _ddim(grid, denoise, start, eta, draw, keep=True)
    assert estimates is not None
    return x, estimates[:-1]


def _ddim(
    grid: ddpm.Grid,
    denoise: Callable[[jax.Array, jax.Array], jax.Array],
    start: jax.Array,
    eta: float,
    draw: Draw | None,
    keep: bool,
) -> tuple[jax.Array, jax.Array | None]:
    def step(x: jax.Array, number: jax.Array) -> tuple[jax.Array, jax.Array | None]:
        x0 = denoise(x, times[number])
        noise = draw(number + 1) if eta and draw is not None else None
        return ddpm.ddim_step(grid, x, x0, number, eta, noise), x0 if keep else None

    times = jnp.asarray(grid.times, jnp.int32)
    return jax.lax.scan(step, start, jnp.arange(grid.steps, dtype=jnp.int32))


def flow_euler(
    sigmas: np.ndarray, velocity: Callable[[jax.Array, jax.Array], jax.Array], start: jax.Array
) -> jax.Array:
    """Euler steps along a rectified flow.

    Args:
      sigmas: [steps + 1], descending (framer_jax.diffusion.flow.sampling_sigmas).
      velocity: (x [B, H, W, C], sigma float32 scalar) → velocity.
      start: initial latent, x at sigmas[0], [B, H, W, C] float32.

    Returns:
      [B, H, W, C] float32, x at sigmas[-1].
    """
    return _euler(sigmas, velocity, start, keep=False)[0]


def flow_estimates(
    sigmas: np.ndarray, velocity: Callable[[jax.Array, jax.Array], jax.Array], start: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """As `flow_euler`, and the estimates of the clean latent in all steps but the last, [steps - 1, B, H, W, C]."""
    x, estimates = _euler(sigmas, velocity, start, keep=True)
    assert estimates is not None
    return x, estimates[:-1]


def _euler(
    sigmas: np.ndarray, velocity: Callable[[jax.Array, jax.Array], jax.Array], start: jax.Array, keep: bool
) -> tuple[jax.Array, jax.Array | None]:
    table = jnp.asarray(sigmas, jnp.float32)

    def step(x: jax.Array, pair: jax.Array) -> tuple[jax.Array, jax.Array | None]:
        v = velocity(x, pair[0])
        return x + (pair[1] - pair[0]) * v, x - pair[0] * v if keep else None

    return jax.lax.scan(step, start, jnp.stack([table[:-1], table[1:]], axis=1))
