"""ResShift: a short diffusion chain from the LR latent to the HR latent.

Yue, Wang and Loy, "ResShift: Efficient Diffusion Model for Image Super-resolution by Residual Shifting" (NeurIPS 2023):
the network predicts x_0 and the loss is the latent MSE, Eq. 8 without its weight.
"""

from __future__ import annotations

from dataclasses import dataclass

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from framer_jax.diffusion import resshift as process
from framer_jax.diffusion.noise import NoiseField, window
from framer_jax.diffusion.samplers import resshift_ancestral
from framer_jax.recipes.base import Batch, Carry, Frozen, Loss, Params, Recipe, Update
from framer_jax.recipes.latent_space import LatentSpace, encode_pair, enlarge, from_model_range, to_model_range


@dataclass(frozen=True)
class ResShiftSettings:
    """The process and the objective; the defaults are the paper's 15-step model.

    Attributes:
      scale: enlargement.
      steps, kappa, min_noise_level, etas_end, power: see framer_jax.diffusion.resshift.make_schedule.
      sampling_steps: respaced steps of `sample`, None for all.
      residual: run the chain on x_0 - y, so that the network sees only what the LR image lacks and predicts it.
        (The chain of the paper, seen from y; small networks then need not learn to copy y.)
      last_step_probability: share of training examples at index T-1, which decides the one-step `mean`; the others
        are uniform over 0 … T-1.
      channel_weight_power: weigh the squared error of latent channel c by channel_scale[c] ** power, scaled to mean 1:
        0 is the latent MSE of the paper, 2 the pixel MSE of an orthonormal codec.
    """

    scale: int = 4
    steps: int = 15
    kappa: float = 2.0
    min_noise_level: float = 0.04
    etas_end: float = 0.99
    power: float = 0.3
    sampling_steps: int | None = None
    residual: bool = False
    last_step_probability: float = 0.0
    channel_weight_power: float = 0.0


def channel_weights(space: LatentSpace, power: float) -> np.ndarray:
    """[C] float32 loss weights of mean 1."""
    weights = space.channel_scale.astype(np.float64) ** power
    return (weights / weights.mean()).astype(np.float32)


def resshift(denoiser: nn.Module, space: LatentSpace, settings: ResShiftSettings) -> Recipe:
    """The recipe.

    Args:
      denoiser: (x [B, h, w, C], t [B], condition [B, h, w, 3]) → (x_0 estimate, taps); group 'denoiser'.
      space: the latents; its grid must be that of the LR image.
      settings: see ResShiftSettings.
    """
    schedule = process.make_schedule(
        settings.steps, settings.kappa, settings.min_noise_level, settings.etas_end, settings.power
    )
    sampling = process.make_schedule(
        settings.steps,
        settings.kappa,
        settings.min_noise_level,
        settings.etas_end,
        settings.power,
        settings.sampling_steps,
    )
    ratio = space.latents_per_lr_pixel(settings.scale)
    weights = channel_weights(space, settings.channel_weight_power)

    def predict(
        params: Params, table: process.Schedule, x: jax.Array, index: jax.Array, condition: jax.Array
    ) -> tuple[jax.Array, tuple[jax.Array, ...]]:
        scaled = x / process.at(table.input_std, index, x)
        told = jnp.asarray(table.timestep_map, jnp.float32)[index]
        return denoiser.apply({"params": params["denoiser"]}, scaled, told, condition)  # type: ignore[return-value]

    def init(key: jax.Array, batch: Batch) -> Params:
        _, height, width, _ = batch["lr"].shape
        latent = jnp.zeros((1, int(height * ratio), int(width * ratio), space.channels), jnp.float32)
        condition = jnp.zeros((1, height, width, 3), jnp.float32)
        return {"denoiser": denoiser.init(key, latent, jnp.zeros((1,), jnp.float32), condition)["params"]}

    def loss(params: Params, frozen: Frozen, carry: Carry, batch: Batch, key: jax.Array, step: jax.Array) -> Loss:
        z_hr, z_lr, condition = encode_pair(space, frozen, batch, settings.scale)
        x0, y = (z_hr - z_lr, jnp.zeros_like(z_lr)) if settings.residual else (z_hr, z_lr)
        key_last, key_index, key_noise = jax.random.split(key, 3)
        count = x0.shape[0]
        index = jax.random.randint(key_index, (count,), 0, schedule.steps, jnp.int32)
        is_last = jax.random.uniform(key_last, (count,), jnp.float32) < settings.last_step_probability
        index = jnp.where(is_last, jnp.int32(schedule.steps - 1), index)
        x = process.forward(schedule, x0, y, index, jax.random.normal(key_noise, x0.shape, jnp.float32))
        prediction, taps = predict(params, schedule, x, index, condition)
        error = jnp.square(prediction - x0)  # [B, h, w, C]
        values = (error * jnp.asarray(weights)[None, None, None, :]).mean(axis=(1, 2, 3))
        return Loss(values, {"latent_mse": error.mean(axis=(1, 2, 3))}, taps, carry)

    def start(frozen: Frozen, lr: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """(z_lr, the y of the chain, the condition)."""
        condition = to_model_range(lr)
        z_lr = space.encode(frozen, enlarge(condition, settings.scale))
        return z_lr, jnp.zeros_like(z_lr) if settings.residual else z_lr, condition

    def finish(frozen: Frozen, x0: jax.Array, z_lr: jax.Array) -> jax.Array:
        return from_model_range(space.decode(frozen, x0 + z_lr if settings.residual else x0))

    def sample(params: Params, frozen: Frozen, lr: jax.Array, noise: NoiseField) -> jax.Array:
        z_lr, y, condition = start(frozen, lr)

        def denoise(x: jax.Array, index: jax.Array) -> jax.Array:
            return predict(params, sampling, x, jnp.full((x.shape[0],), index), condition)[0]

        shape = (y.shape[1], y.shape[2], y.shape[3])
        x0 = resshift_ancestral(sampling, denoise, y, lambda draw: window(noise, draw, shape, ratio))
        return finish(frozen, x0, z_lr)

    def mean(params: Params, frozen: Frozen, lr: jax.Array, noise: NoiseField) -> jax.Array:
        z_lr, y, condition = start(frozen, lr)
        x = process.prior(schedule, y, window(noise, 0, (y.shape[1], y.shape[2], y.shape[3]), ratio))
        last = jnp.full((x.shape[0],), schedule.steps - 1, jnp.int32)
        return finish(frozen, predict(params, schedule, x, last, condition)[0], z_lr)

    return Recipe(
        name="resshift",
        scale=settings.scale,
        init=init,
        updates=(Update("denoiser", ("denoiser",), loss),),
        sample=sample,
        mean=mean,
        lr_multiple=getattr(denoiser, "multiple", 1),
    )
