"""Rectified flow, conditioned on the LR image.

The objective of Stable Diffusion 3 (Esser et al., 2024), on the same latents and denoisers as the small ResShift: the
network predicts the velocity from noise to what the LR image lacks.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from framer_jax.diffusion import flow as process
from framer_jax.diffusion.noise import NoiseField
from framer_jax.diffusion.samplers import flow_estimates, flow_euler
from framer_jax.losses.flow_matching import loss_weight, prediction_taps_to_clean, velocity_error
from framer_jax.models.denoiser import IMAGE, Denoiser, denoise
from framer_jax.recipes.base import (
    Batch,
    Frozen,
    LayerTaps,
    Loss,
    LossFunction,
    Params,
    Recipe,
    Sampler,
    State,
    StepwiseSampler,
    Update,
)
from framer_jax.recipes.components.latent_space import LatentSpace, LatentTask
from framer_jax.recipes.rectified_flow.settings import RectifiedFlowSettings

Predict = Callable[[Params, jax.Array, jax.Array, jax.Array], tuple[jax.Array, tuple[jax.Array, ...]]]
"""(params, x, sigma [B], LR image) → (velocity, taps)."""


def rectified_flow(denoiser: Denoiser, space: LatentSpace, scale: int, settings: RectifiedFlowSettings) -> Recipe:
    """The recipe.

    Args:
      denoiser: (x [B, h, w, C], t [B], {'image': [B, h, w, 3]}) → (velocity, taps); group 'denoiser'.
      space: the latents; its grid must be that of the LR image.
      scale: upsampling factor.
      settings: see RectifiedFlowSettings.
    """
    task = LatentTask(space, scale, settings.residual)

    def predict(
        params: Params, x: jax.Array, sigma: jax.Array, lr: jax.Array
    ) -> tuple[jax.Array, tuple[jax.Array, ...]]:
        return denoise(denoiser, params["denoiser"], x, sigma * process.TRAINING_STEPS, {IMAGE: lr})

    return Recipe(
        name="rectified_flow",
        scale=scale,
        init=partial(task.init, denoiser),
        updates=(Update("denoiser", ("denoiser",), _loss(task, settings, predict, denoiser.taps)),),
        **_samplers(task, settings, predict)._asdict(),
        layer_taps=_layer_taps(task, predict, denoiser.taps),
        lr_multiple=task.lr_multiple(denoiser),
        tap_kind=denoiser.taps,
        frozen=space.frozen,
    )


def _loss(task: LatentTask, settings: RectifiedFlowSettings, predict: Predict, tap_kind: str) -> LossFunction:
    def loss(params: Params, frozen: Frozen, state: State, batch: Batch, key: jax.Array, step: jax.Array) -> Loss:
        x0, _, lr = task.training_pair(frozen, batch)  # [B, h, w, C], [B, H, W, 3]
        key_start, key_sigma, key_noise = jax.random.split(key, 3)
        count = x0.shape[0]
        sigma = process.draw_sigma(key_sigma, count, settings.timestep_sampling, settings.shift)
        at_start = jax.random.uniform(key_start, (count,), jnp.float32) < settings.start_probability
        sigma = jnp.where(at_start, jnp.float32(1), sigma)
        noise = jax.random.normal(key_noise, x0.shape, jnp.float32)
        x = process.forward(x0, sigma, noise)
        prediction, taps = predict(params, x, sigma, lr)
        error = velocity_error(prediction, x0, noise)  # [B]
        # Compare what the blocks predict of the clean latent, not of the noise that they share.
        taps = prediction_taps_to_clean(taps, x, sigma, tap_kind)
        values = loss_weight(sigma, settings.weighting) * error
        return Loss(values, {"velocity_mse": error}, taps, state)

    return loss


def _layer_taps(task: LatentTask, predict: Predict, tap_kind: str) -> LayerTaps:
    def compute(params: Params, frozen: Frozen, batch: Batch, key: jax.Array, time: jax.Array) -> tuple[jax.Array, ...]:
        x0, _, lr = task.training_pair(frozen, batch)
        sigma = jnp.full((x0.shape[0],), time)
        x = process.forward(x0, sigma, jax.random.normal(key, x0.shape, jnp.float32))
        return prediction_taps_to_clean(predict(params, x, sigma, lr)[1], x, sigma, tap_kind)

    return LayerTaps(compute, timesteps=0)


class Samplers(NamedTuple):
    """A recipe's samplers, see framer_jax.recipes.base.Recipe."""

    sample: Sampler
    mean: Sampler
    stepwise: StepwiseSampler | None


def _samplers(task: LatentTask, settings: RectifiedFlowSettings, predict: Predict) -> Samplers:
    sigmas = process.sampling_sigmas(settings.sampling_steps, settings.shift)

    def prepared(params: Params, frozen: Frozen, lr: jax.Array, noise: NoiseField) -> tuple[jax.Array, tuple[Any, ...]]:
        """(z_lr, the arguments of the sampler)."""
        z_lr, condition = task.encode_lr(frozen, lr)

        def velocity(x: jax.Array, sigma: jax.Array) -> jax.Array:
            return predict(params, x, jnp.full((x.shape[0],), sigma), condition)[0]

        return z_lr, (sigmas, velocity, task.noise(z_lr, noise))

    def sample(params: Params, frozen: Frozen, lr: jax.Array, noise: NoiseField) -> jax.Array:
        z_lr, arguments = prepared(params, frozen, lr, noise)
        return task.decode(frozen, flow_euler(*arguments), z_lr)

    def stepwise(params: Params, frozen: Frozen, lr: jax.Array, noise: NoiseField, every: int) -> jax.Array:
        z_lr, arguments = prepared(params, frozen, lr, noise)
        x0, estimates = flow_estimates(*arguments)
        return task.decode_with_previews(frozen, x0, z_lr, estimates, every)

    def mean(params: Params, frozen: Frozen, lr: jax.Array, noise: NoiseField) -> jax.Array:
        z_lr, condition = task.encode_lr(frozen, lr)
        x, sigma = task.noise(z_lr, noise), jnp.ones((lr.shape[0],), jnp.float32)
        x0 = process.x0_from_velocity(x, predict(params, x, sigma, condition)[0], sigma)
        return task.decode(frozen, x0, z_lr)

    steps = settings.sampling_steps
    return Samplers(sample, mean, StepwiseSampler(steps, stepwise) if steps > 1 else None)
