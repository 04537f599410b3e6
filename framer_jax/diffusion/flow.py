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


def draw_sigma(key: jax.Array, count: int, density: str = "logit_normal", shift: float = 3.0) -> jax.Array:
    """Draw [count] float32 training sigmas from the shifted table.

    Args:
      key: one PRNG key.
      count: how many.
      density: of the table position u: 'logit_normal' (mean 0, scale 1), 'mode' (scale 1.29), 'cosmap' or 'uniform'.
      shift: of the table.

    Raises:
      ValueError: another density.
    """
    if density == "logit_normal":
        u = jax.nn.sigmoid(jax.random.normal(key, (count,), jnp.float32))
    else:
        u = jax.random.uniform(key, (count,), jnp.float32)
        if density == "mode":
            u = 1.0 - u - 1.29 * (jnp.cos(jnp.float32(np.pi / 2) * u) ** 2 - 1.0 + u)
        elif density == "cosmap":
            u = 1.0 - 1.0 / (jnp.tan(jnp.float32(np.pi / 2) * u) + 1.0)
        elif density != "uniform":
            raise ValueError(f"unknown density {density!r}: choose logit_normal, mode, cosmap or uniform")
    index = jnp.clip((u * TRAINING_STEPS).astype(jnp.int32), 0, TRAINING_STEPS - 1)
    return jnp.asarray(training_sigmas(shift), jnp.float32)[index]


def loss_weight(sigma: jax.Array, scheme: str = "none") -> jax.Array:
    """The SD3 loss weights of σ, [B] float32: 'none' and 'logit_normal' (1), 'sigma_sqrt' (σ^-2), 'cosmap'.

    Raises:
      ValueError: another scheme.
    """
    if scheme in ("none", "logit_normal"):
        return jnp.ones_like(sigma)
    if scheme == "sigma_sqrt":
        return sigma**-2.0
    if scheme == "cosmap":
        return 2.0 / (jnp.float32(np.pi) * (1.0 - 2.0 * sigma + 2.0 * sigma**2))
    raise ValueError(f"unknown loss weighting {scheme!r}: choose none, sigma_sqrt, logit_normal or cosmap")
