"""The objective of denoising diffusion models: the error of the predicted noise, or of what takes its place.

Ho, Jain and Abbeel, "Denoising Diffusion Probabilistic Models" (NeurIPS 2020).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from framer_jax.diffusion import ddpm


def denoising_error(
    schedule: ddpm.Schedule,
    output: jax.Array,
    x0: jax.Array,
    t: jax.Array,
    noise: jax.Array,
    prediction: str = "epsilon",
) -> jax.Array:
    """|ε_θ(x_t, t) − ε|², Ho et al., Eq. 14 (L_simple): the mean over an example's entries.

    Args:
      schedule: schedule tables.
      output: the network's, at x_t (framer_jax.diffusion.ddpm.forward), [B, h, w, C].
      x0: the clean latent, like output.
      t: [B] int32.
      noise: ε, like output.
      prediction: what the network predicts; v or x_0 then takes the place of ε.

    Returns:
      [B] float32.

    Raises:
      ValueError: see framer_jax.diffusion.ddpm.training_target.
    """
    target = ddpm.training_target(schedule, x0, t, noise, prediction)
    return jnp.square(output.astype(jnp.float32) - target).mean(axis=(1, 2, 3))
