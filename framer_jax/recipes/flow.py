"""Rectified flow, conditioned on the LR image.

The objective of Stable Diffusion 3 (Esser et al., 2024), on the same latents and denoisers as the small ResShift: the
network predicts the velocity from noise to what the LR image lacks.
"""

from __future__ import annotations

from dataclasses import dataclass

import flax.linen as nn
import jax
import jax.numpy as jnp

from framer_jax.diffusion import flow as process
from framer_jax.diffusion.noise import NoiseField, window
from framer_jax.diffusion.samplers import flow_euler
from framer_jax.recipes.base import Batch, Carry, Frozen, Loss, Params, Recipe, Update
from framer_jax.recipes.latent_space import LatentSpace, encode_pair, enlarge, from_model_range, to_model_range


@dataclass(frozen=True)
class FlowSettings:
    """The process and the objective.

    Attributes:
      scale: enlargement.
      shift: time shift of training and sampling.
      sampling_steps: Euler steps of `sample`.
      density: of training times, see framer_jax.diffusion.flow.draw_sigma.
      weighting: of the velocity error, see framer_jax.diffusion.flow.loss_weight.
      residual: the clean end of the flow is z_hr - z_lr, not z_hr.
      start_probability: share of training examples at σ = 1, which decides the one-step `mean`.
    """

    scale: int = 4
    shift: float = 3.0
    sampling_steps: int = 8
    density: str = "logit_normal"
    weighting: str = "none"
    residual: bool = True
    start_probability: float = 0.0


def flow(denoiser: nn.Module, space: LatentSpace, settings: FlowSettings) -> Recipe:
    """The recipe.

    Args:
      denoiser: (x [B, h, w, C], t [B], condition [B, h, w, 3]) → (velocity, taps); group 'denoiser'.
      space: the latents; its grid must be that of the LR image.
      settings: see FlowSettings.
    """
    sigmas = process.sampling_sigmas(settings.sampling_steps, settings.shift)
    ratio = space.latents_per_lr_pixel(settings.scale)
    taps_are_predictions = getattr(denoiser, "taps", "hidden") == "prediction"

    def predict(
        params: Params, x: jax.Array, sigma: jax.Array, condition: jax.Array
    ) -> tuple[jax.Array, tuple[jax.Array, ...]]:
        time = sigma * process.TRAINING_STEPS
        return denoiser.apply({"params": params["denoiser"]}, x, time, condition)  # type: ignore[return-value]

    def init(key: jax.Array, batch: Batch) -> Params:
        _, height, width, _ = batch["lr"].shape
        latent = jnp.zeros((1, int(height * ratio), int(width * ratio), space.channels), jnp.float32)
        condition = jnp.zeros((1, height, width, 3), jnp.float32)
        return {"denoiser": denoiser.init(key, latent, jnp.zeros((1,), jnp.float32), condition)["params"]}

    def loss(params: Params, frozen: Frozen, carry: Carry, batch: Batch, key: jax.Array, step: jax.Array) -> Loss:
        z_hr, z_lr, condition = encode_pair(space, frozen, batch, settings.scale)
        x0 = z_hr - z_lr if settings.residual else z_hr
        key_start, key_sigma, key_noise = jax.random.split(key, 3)
        count = x0.shape[0]
        sigma = process.draw_sigma(key_sigma, count, settings.density, settings.shift)
        at_start = jax.random.uniform(key_start, (count,), jnp.float32) < settings.start_probability
        sigma = jnp.where(at_start, jnp.float32(1), sigma)
        noise = jax.random.normal(key_noise, x0.shape, jnp.float32)
        x = process.forward(x0, sigma, noise)
        prediction, taps = predict(params, x, sigma, condition)
        error = jnp.square(prediction - process.velocity(x0, noise)).mean(axis=(1, 2, 3))  # [B]
        if taps_are_predictions:  # compare what the blocks say of the clean latent, not of the noise they share
            taps = tuple(process.clean(x, tap, sigma) for tap in taps)
        values = process.loss_weight(sigma, settings.weighting) * error
        return Loss(values, {"velocity_mse": error}, taps, carry)

    def start(frozen: Frozen, lr: jax.Array, noise: NoiseField) -> tuple[jax.Array, jax.Array, jax.Array]:
        """(z_lr, the noise that the flow starts from, the condition)."""
        condition = to_model_range(lr)
        z_lr = space.encode(frozen, enlarge(condition, settings.scale))
        return z_lr, window(noise, 0, (z_lr.shape[1], z_lr.shape[2], z_lr.shape[3]), ratio), condition

    def finish(frozen: Frozen, x0: jax.Array, z_lr: jax.Array) -> jax.Array:
        return from_model_range(space.decode(frozen, x0 + z_lr if settings.residual else x0))

    def sample(params: Params, frozen: Frozen, lr: jax.Array, noise: NoiseField) -> jax.Array:
        z_lr, x, condition = start(frozen, lr, noise)

        def velocity(x: jax.Array, sigma: jax.Array) -> jax.Array:
            return predict(params, x, jnp.full((x.shape[0],), sigma), condition)[0]

        return finish(frozen, flow_euler(sigmas, velocity, x), z_lr)

    def mean(params: Params, frozen: Frozen, lr: jax.Array, noise: NoiseField) -> jax.Array:
        z_lr, x, condition = start(frozen, lr, noise)
        sigma = jnp.ones((x.shape[0],), jnp.float32)
        return finish(frozen, process.clean(x, predict(params, x, sigma, condition)[0], sigma), z_lr)

    return Recipe(
        name="flow",
        scale=settings.scale,
        init=init,
        updates=(Update("denoiser", ("denoiser",), loss),),
        sample=sample,
        mean=mean,
        lr_multiple=getattr(denoiser, "multiple", 1),
    )
