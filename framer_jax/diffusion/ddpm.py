"""The variance-preserving process of denoising diffusion models: schedule tables, forward process, predictions, steps.

Ho, Jain and Abbeel, "Denoising Diffusion Probabilistic Models" (NeurIPS 2020); Song, Meng and Ermon, "Denoising
Diffusion Implicit Models" (ICLR 2021); Salimans and Ho, "Progressive Distillation for Fast Sampling of Diffusion
Models" (ICLR 2022), for v; Lin et al., "Common Diffusion Noise Schedules and Sample Steps are Flawed" (WACV 2024), for
zero terminal SNR. x_t = √ā_t x_0 + √(1 - ā_t) ε. Times are indices 0 … T-1 (the papers' t minus one), and also what
the network of Stable Diffusion takes. Stable Diffusion 2.1 has `scaled_linear_schedule()`, and predicts ε (base) or v.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from framer_jax.diffusion.resshift import at

PREDICTIONS = ("epsilon", "v", "x0")
"""What a network may predict: the noise ε, v = √ā ε - √(1 - ā) x_0, or x_0."""

SPACINGS = ("leading", "trailing", "linspace")
"""How the times of a sampler are chosen from the T times, in the words of diffusers."""


@dataclass(frozen=True)
class Schedule:
    """Tables of length T, float64 NumPy arrays; the functions below cast the entries that they use to float32.

    Attributes:
      betas: β_t = 1 - ā_t / ā_{t-1}, with ā = 1 before the first.
      alphas_cumprod: ā_t = Π (1 - β), descending.
    """

    betas: np.ndarray
    alphas_cumprod: np.ndarray

    @property
    def steps(self) -> int:
        """The number of times T."""
        return len(self.betas)

    @property
    def signal(self) -> np.ndarray:
        """√ā_t, the factor of x_0 in x_t."""
        return np.asarray(np.sqrt(self.alphas_cumprod))

    @property
    def sigma(self) -> np.ndarray:
        """√(1 - ā_t), the factor of the noise in x_t."""
        return np.asarray(np.sqrt(1.0 - self.alphas_cumprod))


def scaled_linear_schedule(
    steps: int = 1000, beta_start: float = 0.00085, beta_end: float = 0.012, zero_terminal_snr: bool = False
) -> Schedule:
    """The schedule of Stable Diffusion, whose √β is linear in time; the defaults are those of versions 1 and 2.

    Args:
      steps: T, at least 2.
      beta_start: β at the first time.
      beta_end: β at the last time.
      zero_terminal_snr: shift and scale √ā so that it ends at 0 and its first entry stays (Lin et al., Algorithm 1).

    Raises:
      ValueError: fewer than two times, or betas that do not ascend within (0, 1).
    """
    _check_steps(steps)
    if not 0.0 < beta_start <= beta_end < 1.0:
        raise ValueError(
            f"beta_start and beta_end are {beta_start} and {beta_end}: they must ascend between 0 and 1, both excluded"
        )
    betas = np.linspace(beta_start**0.5, beta_end**0.5, steps) ** 2
    alphas_cumprod = np.cumprod(1.0 - betas)
    if zero_terminal_snr:
        signal = np.sqrt(alphas_cumprod)
        alphas_cumprod = (signal[0] * (signal - signal[-1]) / (signal[0] - signal[-1])) ** 2
        betas = 1.0 - alphas_cumprod / np.append(1.0, alphas_cumprod[:-1])
    return Schedule(betas, alphas_cumprod)


def cosine_schedule(steps: int = 1000, offset: float = 0.008, largest_beta: float = 0.999) -> Schedule:
    """The cosine schedule: ā_t = f(t) / f(0) with f(t) = cos²(π/2 (t/T + s) / (1 + s)), up to a largest β.

    Nichol and Dhariwal, "Improved Denoising Diffusion Probabilistic Models" (ICML 2021), Eq. 17.

    Args:
      steps: T, at least 2.
      offset: s.
      largest_beta: bound of β, which the last times reach.

    Raises:
      ValueError: fewer than two times.
    """
    _check_steps(steps)
    level = np.cos((np.arange(steps + 1) / steps + offset) / (1.0 + offset) * np.pi / 2) ** 2
    betas = np.minimum(1.0 - level[1:] / level[:-1], largest_beta)
    return Schedule(betas, np.cumprod(1.0 - betas))


def _check_steps(steps: int) -> None:
    if steps < 2:
        raise ValueError(f"steps is {steps}: a diffusion process needs at least 2")


def forward(schedule: Schedule, x0: jax.Array, t: jax.Array, noise: jax.Array) -> jax.Array:
    """Draw x_t from q(x_t | x_0) (Ho et al., Eq. 4): x0 and noise [B, H, W, C] float32, t int32 (a scalar or [B])."""
    return at(schedule.signal, t, x0) * x0 + at(schedule.sigma, t, x0) * noise


def training_target(
    schedule: Schedule, x0: jax.Array, t: jax.Array, noise: jax.Array, prediction: str = "epsilon"
) -> jax.Array:
    """What a network is trained to predict at x_t: ε, v = √ā ε - √(1 - ā) x_0, or x_0.

    Args:
      schedule: schedule tables.
      x0: the clean latent, [B, H, W, C] float32.
      t: int32, a scalar or [B].
      noise: ε, like x0.
      prediction: one of `PREDICTIONS`.

    Raises:
      ValueError: another prediction.
    """
    _check_prediction(schedule, prediction)
    if prediction == "v":
        return at(schedule.signal, t, x0) * noise - at(schedule.sigma, t, x0) * x0
    return noise if prediction == "epsilon" else x0


def predicted_x0(
    schedule: Schedule, x: jax.Array, t: jax.Array, output: jax.Array, prediction: str = "epsilon"
) -> jax.Array:
    """The clean latent that x_t and a network's output imply.

    Args:
      schedule: schedule tables.
      x: x_t, [B, H, W, C] float32.
      t: int32, a scalar or [B].
      output: the network's, like x.
      prediction: what the network predicts, one of `PREDICTIONS`.

    Raises:
      ValueError: another prediction; or ε on a schedule with zero terminal SNR, where x_t holds nothing of x_0.
    """
    _check_prediction(schedule, prediction)
    signal, sigma = at(schedule.signal, t, x), at(schedule.sigma, t, x)
    if prediction == "epsilon":
        return (x - sigma * output) / signal
    return signal * x - sigma * output if prediction == "v" else output


def predicted_noise(
    schedule: Schedule, x: jax.Array, t: jax.Array, output: jax.Array, prediction: str = "epsilon"
) -> jax.Array:
    """The noise ε that x_t and a network's output imply; arguments and errors as of `predicted_x0`."""
    _check_prediction(schedule, prediction)
    signal, sigma = at(schedule.signal, t, x), at(schedule.sigma, t, x)
    if prediction == "x0":
        return (x - signal * output) / sigma
    return signal * output + sigma * x if prediction == "v" else output


def one_step_x0(schedule: Schedule, x: jax.Array, output: jax.Array, prediction: str = "epsilon") -> jax.Array:
    """The clean latent from one call of the network at the last time, as in OSEDiff; see `predicted_x0`.

    Wu et al., "One-Step Effective Diffusion Network for Real-World Image Super-Resolution" (NeurIPS 2024): x is the LR
    latent, without noise. Errors of ε are multiplied by √((1 - ā) / ā) of the last time, 14.6 in Stable Diffusion.
    """
    return predicted_x0(schedule, x, jnp.int32(schedule.steps - 1), output, prediction)


def _check_prediction(schedule: Schedule, prediction: str) -> None:
    if prediction not in PREDICTIONS:
        raise ValueError(f"prediction is {prediction!r}: it must be one of {', '.join(PREDICTIONS)}")
    if prediction == "epsilon" and schedule.alphas_cumprod[-1] == 0.0:
        raise ValueError(
            "prediction is 'epsilon' on a schedule with zero terminal SNR: the noise of its last time says nothing of "
            "x_0; use a network that predicts v, or zero_terminal_snr=False"
        )


@dataclass(frozen=True)
class Grid:
    """The steps of a sampler: NumPy arrays of length S, the noisiest first.

    Attributes:
      times: int64, what the network takes, descending.
      alphas_cumprod: ā at these times, float64.
      alphas_cumprod_prev: ā after each step.
    """

    times: np.ndarray
    alphas_cumprod: np.ndarray
    alphas_cumprod_prev: np.ndarray

    @property
    def steps(self) -> int:
        """The number of steps S."""
        return len(self.times)


def sampling_times(schedule: Schedule, steps: int, spacing: str = "leading", offset: int = 0) -> np.ndarray:
    """The times of a sampler as diffusers chooses them, [steps] int64, descending.

    Args:
      schedule: schedule tables, with T times.
      steps: from 1 to T.
      spacing: 'leading': multiples of T // steps, which leave out the noisiest times; 'trailing': every T / steps
        from the last time down, which Lin et al. recommend; 'linspace': from the last time to the first.
      offset: added to the times of 'leading'; 1 in the released schedulers of Stable Diffusion.

    Raises:
      ValueError: another spacing, or times out of range.
    """
    if not 1 <= steps <= schedule.steps:
        raise ValueError(f"steps is {steps}: it must be from 1 to the schedule's {schedule.steps} times")
    if spacing not in SPACINGS:
        raise ValueError(f"spacing is {spacing!r}: it must be one of {', '.join(SPACINGS)}")
    if spacing == "trailing":
        return np.asarray(np.round(schedule.steps - np.arange(steps) * (schedule.steps / steps)), np.int64) - 1
    if spacing == "linspace":
        return np.round(np.linspace(0, schedule.steps - 1, steps)[::-1]).astype(np.int64)
    stride = schedule.steps // steps
    if not 0 <= offset < schedule.steps - (steps - 1) * stride:
        raise ValueError(
            f"offset is {offset}: with {steps} leading steps of {schedule.steps} times it must be from 0 to "
            f"{schedule.steps - (steps - 1) * stride - 1}"
        )
    return np.arange(steps, dtype=np.int64)[::-1] * stride + offset


def ddim_grid(
    schedule: Schedule, steps: int, spacing: str = "leading", offset: int = 1, ends_clean: bool = False
) -> Grid:
    """The steps of diffusers' DDIM scheduler with the settings of Stable Diffusion.

    Every step goes back by T // steps, also where that is not the next of the times.

    Args:
      schedule: schedule tables.
      steps: see `sampling_times`.
      spacing: see `sampling_times`.
      offset: see `sampling_times`; only for 'leading'.
      ends_clean: whether the last step leads to ā = 1, or to that of the first time ('set_alpha_to_one' of diffusers,
        False in Stable Diffusion).

    Raises:
      ValueError: see `sampling_times`.
    """
    times = sampling_times(schedule, steps, spacing, offset)
    final = 1.0 if ends_clean else schedule.alphas_cumprod[0]
    previous = times - schedule.steps // steps
    after = np.where(previous >= 0, schedule.alphas_cumprod[np.maximum(previous, 0)], final)
    return Grid(times, schedule.alphas_cumprod[times], after)


def ddpm_grid(schedule: Schedule, steps: int | None = None, spacing: str = "leading", offset: int = 0) -> Grid:
    """Steps from each of the times to the next, and from the last to ā = 1; arguments and errors: `sampling_times`.

    `steps` None stands for all T times. Diffusers' DDPM scheduler takes these steps, with an offset of 1 in Stable
    Diffusion.
    """
    times = sampling_times(schedule, schedule.steps if steps is None else steps, spacing, offset)
    levels = schedule.alphas_cumprod[times]
    return Grid(times, levels, np.append(levels[1:], 1.0))


def step_coefficients(grid: Grid, eta: float = 0.0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Weights of a step: those of x_0 and x_t in the mean, and the standard deviation (Song et al., Eq. 12 and 16).

    Args:
      grid: the steps.
      eta: η, 0 for DDIM, which keeps the noise of x_t, and 1 for the posterior of DDPM (Ho et al., Eq. 7).

    Returns:
      float64 [S] each.

    Raises:
      ValueError: η is not between 0 and 1.
    """
    if not 0.0 <= eta <= 1.0:
        raise ValueError(f"eta is {eta}: it must be from 0 (DDIM) to 1 (DDPM)")
    level, after = grid.alphas_cumprod, grid.alphas_cumprod_prev
    variance = eta**2 * (1.0 - after) / (1.0 - level) * (1.0 - level / after)
    # With η = 1 and ā near 0 the difference is near 0, and rounding must not make it negative.
    noise_kept = np.sqrt(np.maximum(1.0 - after - variance, 0.0) / (1.0 - level))
    return np.sqrt(after) - noise_kept * np.sqrt(level), noise_kept, np.sqrt(variance)


def ddim_step(
    grid: Grid, x: jax.Array, x0: jax.Array, number: jax.Array, eta: float = 0.0, noise: jax.Array | None = None
) -> jax.Array:
    """The latent after a step, from x_t and the estimate of x_0.

    Args:
      grid: the steps.
      x: x_t, [B, H, W, C] float32.
      x0: the estimate, like x.
      number: position in the grid, from 0 (the noisiest), int32, a scalar or [B].
      eta: see `step_coefficients`.
      noise: standard normal, like x; None only with η = 0.

    Raises:
      ValueError: η above 0 without noise, or out of range.
    """
    if eta and noise is None:
        raise ValueError(f"eta is {eta}: such a step adds noise; pass `noise`, or eta 0")
    weight_x0, weight_x, deviation = (at(table, number, x) for table in step_coefficients(grid, eta))
    mean = weight_x0 * x0 + weight_x * x
    return mean if noise is None else mean + deviation * noise
