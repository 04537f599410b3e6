"""The residual-shifting process of ResShift: schedule tables, forward process, prior and posterior.

Yue, Wang and Loy, "ResShift: Efficient Diffusion Model for Image Super-resolution by Residual Shifting" (NeurIPS 2023).
The chain goes from the HR latent x_0 to the LR latent y plus noise: x_t = x_0 + η_t (y - x_0) + κ √η_t n. Times are
indices 0 … T-1 (the paper's t minus one).
"""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

SINSR_SQRT_ETA_CAP = 0.001**0.5
"""Largest √η at the first index in SinSR's code; it matters for chains that begin noisier, as ResShift v3's."""


@dataclass(frozen=True)
class Schedule:
    """Tables of length T, float64 NumPy arrays; the functions below cast the entries that they use to float32.

    Attributes:
      kappa: noise level κ.
      sqrt_etas, etas, etas_prev: √η_t, η_t and η_{t-1} (0 before the first).
      alpha: η_t - η_{t-1}.
      posterior_variance: κ² η_{t-1} / η_t · α_t, zero at index 0.
      posterior_variance_clipped: the same with entry 0 replaced by entry 1; posterior_log_variance_clipped: its log.
      posterior_mean_coef1, posterior_mean_coef2: weights of x_t and of x_0 in the posterior mean; their sum is 1.
      input_std: √(η_t κ² + 1), the divisor of the network's input.
      timestep_map: the network's time input at each step (after respacing, a subset of the trained 0 … T-1).
    """

    kappa: float
    sqrt_etas: np.ndarray
    etas: np.ndarray
    etas_prev: np.ndarray
    alpha: np.ndarray
    posterior_variance: np.ndarray
    posterior_variance_clipped: np.ndarray
    posterior_log_variance_clipped: np.ndarray
    posterior_mean_coef1: np.ndarray
    posterior_mean_coef2: np.ndarray
    input_std: np.ndarray
    timestep_map: np.ndarray

    @property
    def steps(self) -> int:
        """The number of steps T."""
        return len(self.sqrt_etas)


def first_sqrt_eta(kappa: float, min_noise_level: float, sqrt_eta_cap: float | None = None) -> float:
    """√η at the first index, where a chain starts; arguments as of `make_schedule`."""
    return min(min_noise_level / kappa, min_noise_level, *(() if sqrt_eta_cap is None else (sqrt_eta_cap,)))


def make_schedule(
    steps: int = 15,
    kappa: float = 2.0,
    min_noise_level: float = 0.04,
    etas_end: float = 0.99,
    power: float = 0.3,
    sampling_steps: int | None = None,
    sqrt_eta_cap: float | None = None,
) -> Schedule:
    """The geometric schedule with warped time of Section 3.2.

    Args:
      steps: T of the trained chain, at least 2.
      kappa: κ.
      min_noise_level: κ √η at the first index (before the cap below).
      etas_end: √η (sic, not η) at the last index.
      power: exponent of the time warp.
      sampling_steps: number of sampling steps, spaced evenly over the T indices from 0; None for all T.
      sqrt_eta_cap: largest √η at the first index, see `SINSR_SQRT_ETA_CAP`; None for no cap.

    Raises:
      ValueError: a number of steps out of range.
    """
    if steps < 2:
        raise ValueError(f"steps is {steps}: a ResShift chain needs at least 2")
    first = first_sqrt_eta(kappa, min_noise_level, sqrt_eta_cap)
    warped = np.linspace(0.0, 1.0, steps) ** power * (steps - 1)
    sqrt_etas = first * np.exp(np.log(etas_end / first) / (steps - 1)) ** warped
    indices = np.arange(steps)
    if sampling_steps is not None:
        if not 2 <= sampling_steps <= steps:
            raise ValueError(f"sampling_steps is {sampling_steps}: it must be from 2 to the chain's {steps} steps")
        indices = np.asarray([int(steps / sampling_steps * i) for i in range(sampling_steps)])
    return _tables(sqrt_etas[indices], indices, kappa)


def _tables(sqrt_etas: np.ndarray, timestep_map: np.ndarray, kappa: float) -> Schedule:
    etas = sqrt_etas**2
    etas_prev = np.append(0.0, etas[:-1])
    alpha = etas - etas_prev
    variance = kappa**2 * etas_prev / etas * alpha
    clipped = np.append(variance[1], variance[1:])
    return Schedule(
        kappa=kappa,
        sqrt_etas=sqrt_etas,
        etas=etas,
        etas_prev=etas_prev,
        alpha=alpha,
        posterior_variance=variance,
        posterior_variance_clipped=clipped,
        posterior_log_variance_clipped=np.log(clipped),
        posterior_mean_coef1=etas_prev / etas,
        posterior_mean_coef2=alpha / etas,
        input_std=np.sqrt(etas * kappa**2 + 1.0),
        timestep_map=timestep_map,
    )


def at(table: np.ndarray, index: jax.Array, like: jax.Array) -> jax.Array:
    """Entries of a table as float32, broadcastable against `like`: index [B] (or a scalar) → [B, 1, …]."""
    values = jnp.asarray(table, jnp.float32)[index]
    return values.reshape(values.shape + (1,) * (like.ndim - values.ndim))


def forward(schedule: Schedule, x0: jax.Array, y: jax.Array, index: jax.Array, noise: jax.Array) -> jax.Array:
    """Draw x_t from q(x_t | x_0, y), Eq. 2: all [B, H, W, C] float32, index [B] int32."""
    return x0 + at(schedule.etas, index, x0) * (y - x0) + schedule.kappa * at(schedule.sqrt_etas, index, x0) * noise


def prior(schedule: Schedule, y: jax.Array, noise: jax.Array) -> jax.Array:
    """Draw x_T ≈ y + κ √η_T n, from which sampling starts."""
    return y + jnp.float32(schedule.kappa * schedule.sqrt_etas[-1]) * noise


def posterior_step(schedule: Schedule, x: jax.Array, x0: jax.Array, index: jax.Array, noise: jax.Array) -> jax.Array:
    """Draw x_{t-1} from q(x_{t-1} | x_t, x_0), Eq. 5; `index` is one int32 scalar, and index 0 adds no noise."""
    mean = at(schedule.posterior_mean_coef1, index, x) * x + at(schedule.posterior_mean_coef2, index, x) * x0
    standard_deviation = np.where(
        np.arange(schedule.steps) > 0, np.exp(0.5 * schedule.posterior_log_variance_clipped), 0.0
    )
    return mean + at(standard_deviation, index, x) * noise


def deterministic_coefficients(schedule: Schedule) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Weights of SinSR's deterministic step x_{t-1} = k x_0 + m x_t + j y, which keeps the noise of x_t.

    Wang et al., "SinSR: Diffusion-Based Image Super-Resolution in a Single Step" (CVPR 2024), Eq. 5 to 7.

    Returns:
      k, m and j, float64 [T] each; their sum is 1, and index 0 gives x_0 itself.
    """
    m = np.sqrt(schedule.etas_prev / schedule.etas)
    j = schedule.etas_prev - np.sqrt(schedule.etas_prev * schedule.etas)
    return 1.0 - m - j, m, j


def deterministic_step(schedule: Schedule, x: jax.Array, x0: jax.Array, y: jax.Array, index: jax.Array) -> jax.Array:
    """x_{t-1} from x_t, the estimate of x_0 and y: all [B, H, W, C] float32, `index` int32 (a scalar or [B])."""
    k, m, j = (at(table, index, x) for table in deterministic_coefficients(schedule))
    return k * x0 + m * x + j * y
