"""Rectified flow, conditioned on the LR image.

The objective of Stable Diffusion 3 (Esser et al., 2024), on the same latents and denoisers as the small ResShift: the
network predicts the velocity from noise to what the LR image lacks.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp

from framer_jax.diffusion import flow as process
from framer_jax.diffusion.noise import NoiseField
from framer_jax.diffusion.samplers import flow_euler
from framer_jax.losses.flow_matching import loss_weight, prediction_taps_to_clean, velocity_error
from framer_jax.recipes.base import (
    Batch,
    Frozen,
    Loss,
    LossFunction,
    Params,
    Recipe,
    Sampler,
    State,
    Update,
)
from framer_jax.recipes.latent_space import LatentSpace, LatentTask


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


Predict = Callable[[Params, jax.Array, jax.Array, jax.Array], tuple[jax.Array, tuple[jax.Array, ...]]]
"""(params, x, sigma [B], LR image) → (velocity, taps)."""


def flow(denoiser: nn.Module, space: LatentSpace, settings: FlowSettings) -> Recipe:
    """The recipe.

    Args:
      denoiser: (x [B, h, w, C], t [B], condition [B, h, w, 3]) → (velocity, taps); group 'denoiser'.
      space: the latents; its grid must be that of the LR image.
      settings: see FlowSettings.
    """
    task = LatentTask(space, settings.scale, settings.residual)
    tap_kind = getattr(denoiser, "taps", "hidden")

    def predict(
        params: Params, x: jax.Array, sigma: jax.Array, condition: jax.Array
    ) -> tuple[jax.Array, tuple[jax.Array, ...]]:
        time = sigma * process.TRAINING_STEPS
        return denoiser.apply({"params": params["denoiser"]}, x, time, condition)  # type: ignore[return-value]

    sample, mean = _samplers(task, settings, predict)
    return Recipe(
        name="flow",
        scale=settings.scale,
        init=partial(task.init, denoiser),
        updates=(Update("denoiser", ("denoiser",), _loss(task, settings, predict, tap_kind)),),
        sample=sample,
        mean=mean,
        lr_multiple=task.lr_multiple(denoiser),
        tap_kind=tap_kind,
        frozen=space.frozen,
    )


def _loss(task: LatentTask, settings: FlowSettings, predict: Predict, tap_kind: str) -> LossFunction:
    def loss(params: Params, frozen: Frozen, state: State, batch: Batch, key: jax.Array, step: jax.Array) -> Loss:
        x0, _, condition = task.training_pair(frozen, batch)  # [B, h, w, C], [B, H, W, 3]
        key_start, key_sigma, key_noise = jax.random.split(key, 3)
        count = x0.shape[0]
        sigma = process.draw_sigma(key_sigma, count, settings.density, settings.shift)
        at_start = jax.random.uniform(key_start, (count,), jnp.float32) < settings.start_probability
        sigma = jnp.where(at_start, jnp.float32(1), sigma)
        noise = jax.random.normal(key_noise, x0.shape, jnp.float32)
        x = process.forward(x0, sigma, noise)
        prediction, taps = predict(params, x, sigma, condition)
        error = velocity_error(prediction, x0, noise)  # [B]
        taps = prediction_taps_to_clean(taps, x, sigma, tap_kind)
        values = loss_weight(sigma, settings.weighting) * error
        return Loss(values, {"velocity_mse": error}, taps, state)

    return loss


def _samplers(task: LatentTask, settings: FlowSettings, predict: Predict) -> tuple[Sampler, Sampler]:
    sigmas = process.sampling_sigmas(settings.sampling_steps, settings.shift)

    def sample(params: Params, frozen: Frozen, lr: jax.Array, noise: NoiseField) -> jax.Array:
        z_lr, condition = task.enlarged(frozen, lr)

        def velocity(x: jax.Array, sigma: jax.Array) -> jax.Array:
            return predict(params, x, jnp.full((x.shape[0],), sigma), condition)[0]

        return task.picture(frozen, flow_euler(sigmas, velocity, task.noise(z_lr, noise)), z_lr)

    def mean(params: Params, frozen: Frozen, lr: jax.Array, noise: NoiseField) -> jax.Array:
        z_lr, condition = task.enlarged(frozen, lr)
        x, sigma = task.noise(z_lr, noise), jnp.ones((lr.shape[0],), jnp.float32)
        return task.picture(frozen, process.clean(x, predict(params, x, sigma, condition)[0], sigma), z_lr)

    return sample, mean
