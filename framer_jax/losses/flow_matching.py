"""Losses of rectified flows, as Stable Diffusion 3 and DiT4SR use them.

Esser et al., "Scaling Rectified Flow Transformers for High-Resolution Image Synthesis" (2024), Sections 2 and 3.1. The
process is in framer_jax.diffusion.flow: x_σ = (1 − σ) x_0 + σ ε, and the network predicts v = ε − x_0.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from framer_jax.diffusion import flow

LOSS_WEIGHTINGS = ("none", "sigma_sqrt", "logit_normal", "cosmap")


def velocity_error(prediction: jax.Array, x0: jax.Array, noise: jax.Array) -> jax.Array:
    """Conditional flow matching (Section 2): the mean squared error of the velocity, |v̂ − (ε − x_0)|².

    Args:
      prediction: v̂, [B, h, w, C] float32.
      x0: the clean latent, of the same shape.
      noise: ε, of the same shape.

    Returns:
      [B] float32, before `loss_weight`.
    """
    return jnp.square(prediction - flow.velocity(x0, noise)).mean(axis=(1, 2, 3))


def preconditioned_error(x: jax.Array, velocity_prediction: jax.Array, x0: jax.Array, sigma: jax.Array) -> jax.Array:
    """Mean squared error of the clean latent that a velocity implies, |x_σ − σ v̂ − x_0|²: σ² times the velocity's.

    The objective of DiT4SR, which the Stable Diffusion 3 training of diffusers calls preconditioned outputs.

    Args:
      x: x_σ, [B, h, w, C] float32.
      velocity_prediction: v̂, like x.
      x0: the clean latent, like x.
      sigma: [B] float32.

    Returns:
      [B] float32, before `loss_weight`.
    """
    return jnp.square(flow.x0_from_velocity(x, velocity_prediction, sigma) - x0).mean(axis=(1, 2, 3))


def loss_weight(sigma: jax.Array, scheme: str = "none") -> jax.Array:
    """The loss weights of Stable Diffusion 3 (Section 3.1), [B] float32.

    They are 1 for 'none' and 'logit_normal', σ⁻² for 'sigma_sqrt', and 2 / (π (1 − 2σ + 2σ²)) for 'cosmap'.

    Args:
      sigma: [B] float32.
      scheme: one of `LOSS_WEIGHTINGS`.

    Raises:
      ValueError: another scheme.
    """
    if scheme in ("none", "logit_normal"):
        return jnp.ones_like(sigma)
    if scheme == "sigma_sqrt":
        return sigma**-2.0
    if scheme == "cosmap":
        return 2.0 / (jnp.float32(np.pi) * (1.0 - 2.0 * sigma + 2.0 * sigma**2))
    raise ValueError(f"loss weighting is {scheme!r}: choose one of {', '.join(LOSS_WEIGHTINGS)}")


def prediction_taps_to_clean(
    taps: tuple[jax.Array, ...], x: jax.Array, sigma: jax.Array, tap_kind: str
) -> tuple[jax.Array, ...]:
    """The taps as FRAMER compares them: velocities become estimates of the clean latent, x̂₀⁽ⁱ⁾ = x_σ − σ v⁽ⁱ⁾.

    Velocities of all blocks share the noise, clean latents do not; the released FRAMER-D code compares the latter.

    Args:
      taps: one map per block, [B, h, w, C] each.
      x: x_σ, [B, h, w, C] float32.
      sigma: [B] float32.
      tap_kind: 'prediction' where the taps are velocities (`Recipe.tap_kind`); other taps ('hidden') are unchanged.
    """
    if tap_kind != "prediction":
        return taps
    return tuple(flow.x0_from_velocity(x, tap, sigma) for tap in taps)
