"""Rectified flow as Stable Diffusion 3 uses it: sigma tables, forward process, time densities, loss weights.

Esser et al., "Scaling Rectified Flow Transformers for High-Resolution Image Synthesis" (2024), Sections 2, 3.1 and 5.3.
x_σ = (1 - σ) x_0 + σ ε, and the network predicts the velocity v = ε - x_0. The network is told 1000 σ.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

TRAINING_STEPS = 1000
"""Discrete times of the reference scheduler; also the factor from σ to the time that the network is told."""


def shift_sigma(sigma: np.ndarray | float, shift: float) -> np.ndarray:
    """The resolution-dependent time shift of Section 5.3.2: s σ / (1 + (s - 1) σ)."""
    return np.asarray(shift * sigma / (1.0 + (shift - 1.0) * sigma))


def training_sigmas(shift: float = 3.0) -> np.ndarray:
    """[1000] float64, descending from 1: what training draws from."""
    return shift_sigma(np.linspace(1.0, TRAINING_STEPS, TRAINING_STEPS)[::-1] / TRAINING_STEPS, shift)


def sampling_sigmas(steps: int, shift: float = 3.0) -> np.ndarray:
    """[steps + 1] float64, descending from 1 to 0.

    The reference spaces the *shifted* training range evenly and shifts once more; published samplers rely on it.

    Raises:
      ValueError: fewer than one step.
    """
    if steps < 1:
        raise ValueError(f"a flow sampler needs at least 1 step, not {steps}")
    ends = training_sigmas(shift)
    return np.append(shift_sigma(np.linspace(ends[0], ends[-1], steps), shift), 0.0)


def forward(x0: jax.Array, sigma: jax.Array, noise: jax.Array) -> jax.Array:
    """x_σ for x0 and noise [B, H, W, C] float32 and sigma [B]."""
    sigma = sigma[:, None, None, None]
    return (1.0 - sigma) * x0 + sigma * noise


def velocity(x0: jax.Array, noise: jax.Array) -> jax.Array:
    """The target of the network."""
    return noise - x0


def clean(x: jax.Array, velocity_prediction: jax.Array, sigma: jax.Array) -> jax.Array:
    """x_0 from x_σ and a predicted velocity; sigma [B]."""
    return x - sigma[:, None, None, None] * velocity_prediction


def guide(unconditional: jax.Array, conditional: jax.Array, scale: jax.Array | float) -> jax.Array:
    """Classifier-free guidance (Ho and Salimans, 2022): two predictions of one shape to one.

    Args:
      unconditional: of the empty or the negative prompt, scale 0.
      conditional: of the prompt, scale 1.
      scale: how far to go from the first to the second, usually beyond it; a scalar, may be traced.
    """
    return unconditional + scale * (conditional - unconditional)


def start_from(z_lr: jax.Array, noise: jax.Array, sigmas: np.ndarray) -> jax.Array:
    """Where sampling starts with an LR latent: x at sigmas[0], with z_lr as the clean latent.

    At σ = 1, where a whole table starts, it is the noise alone; a table without its first entries starts from the LR.

    Args:
      z_lr: [B, H, W, C] float32, normalised as the denoiser's latents.
      noise: like z_lr.
      sigmas: descending, see `sampling_sigmas`.
    """
    return forward(z_lr, jnp.full((z_lr.shape[0],), float(sigmas[0]), jnp.float32), noise)


def draw_sigma(
    key: jax.Array,
    count: int,
    density: str = "logit_normal",
    shift: float = 3.0,
    *,
    mean: float = 0.0,
    spread: float = 1.0,
    mode_scale: float = 1.29,
) -> jax.Array:
    """Draw [count] float32 training sigmas from the shifted table.

    Args:
      key: one PRNG key.
      count: how many.
      density: of the table position, see `draw_position`.
      shift: of the table.
      mean: of `draw_position`.
      spread: of `draw_position`.
      mode_scale: of `draw_position`.

    Raises:
      ValueError: another density.
    """
    u = draw_position(key, count, density, mean=mean, spread=spread, mode_scale=mode_scale)
    index = jnp.clip((u * TRAINING_STEPS).astype(jnp.int32), 0, TRAINING_STEPS - 1)
    return jnp.asarray(training_sigmas(shift), jnp.float32)[index]


def draw_position(
    key: jax.Array, count: int, density: str, *, mean: float = 0.0, spread: float = 1.0, mode_scale: float = 1.29
) -> jax.Array:
    """Draw [count] float32 positions in [0, 1] in the table of sigmas, 0 its noisy end (Section 3.1).

    Args:
      key: one PRNG key.
      count: how many.
      density: 'logit_normal', 'mode', 'cosmap' or 'uniform'.
      mean: of the logit of 'logit_normal'.
      spread: standard deviation of the same.
      mode_scale: s of 'mode', from -1 (ends) over 0 (uniform) to 2 / (π - 2) (middle).

    Raises:
      ValueError: another density.
    """
    if density == "logit_normal":
        return jax.nn.sigmoid(mean + spread * jax.random.normal(key, (count,), jnp.float32))
    u = jax.random.uniform(key, (count,), jnp.float32)
    if density == "uniform":
        return u
    angle = jnp.float32(np.pi / 2) * u
    if density == "mode":
        return 1.0 - u - mode_scale * (jnp.cos(angle) ** 2 - 1.0 + u)
    if density == "cosmap":
        return 1.0 - 1.0 / (jnp.tan(angle) + 1.0)
    raise ValueError(f"unknown density {density!r}: choose logit_normal, mode, cosmap or uniform")
