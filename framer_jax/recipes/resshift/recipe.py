"""ResShift: a short diffusion chain from the LR latent to the HR latent.

Yue, Wang and Loy, "ResShift: Efficient Diffusion Model for Image Super-resolution by Residual Shifting" (NeurIPS 2023):
the network predicts x_0 and the loss is the latent MSE, Eq. 8 without its weight. The journal version (v3: 4 steps)
adds the LPIPS distance of the decoded estimate to the HR image.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from framer_jax.diffusion import resshift as process
from framer_jax.diffusion.noise import NoiseField
from framer_jax.diffusion.samplers import resshift_ancestral, resshift_estimates
from framer_jax.losses.latent import channel_weights, latent_error, latent_mse
from framer_jax.models.denoiser import IMAGE, Denoiser, denoise
from framer_jax.recipes.base import (
    AuxiliaryLoss,
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
    add_auxiliary,
    auxiliary_frozen,
    timestep_index,
)
from framer_jax.recipes.components.latent_space import LatentSpace, LatentTask, to_model_range
from framer_jax.recipes.resshift.settings import ResShiftSettings

Predict = Callable[[Params, process.Schedule, jax.Array, jax.Array, jax.Array], tuple[jax.Array, tuple[jax.Array, ...]]]
"""(params, schedule, x, index [B], LR image) → (estimate of x_0, taps)."""


def predictor(denoiser: Denoiser) -> Predict:
    """The denoiser as ResShift calls it: the input divided by its standard deviation, the time the original index."""

    def predict(
        params: Params, schedule: process.Schedule, x: jax.Array, index: jax.Array, lr: jax.Array
    ) -> tuple[jax.Array, tuple[jax.Array, ...]]:
        scaled = x / process.at(schedule.input_std, index, x)
        time = jnp.asarray(schedule.timestep_map, jnp.float32)[index]
        return denoise(denoiser, params["denoiser"], scaled, time, {IMAGE: lr})

    return predict


def resshift(
    denoiser: Denoiser,
    space: LatentSpace,
    scale: int,
    settings: ResShiftSettings,
    auxiliary: tuple[AuxiliaryLoss, ...] = (),
) -> Recipe:
    """The recipe.

    Args:
      denoiser: (x [B, h, w, C], t [B], {'image': [B, h, w, 3]}) → (estimate of x_0, taps); group 'denoiser'.
      space: the latents; its grid must be that of the LR image.
      scale: upsampling factor.
      settings: see ResShiftSettings.
      auxiliary: further terms on the decoded estimate, such as LPIPS.
    """
    task = LatentTask(space, scale, settings.residual)
    predict = predictor(denoiser)
    sample, stepwise = _samplers(task, settings, predict)
    return Recipe(
        name="resshift",
        scale=scale,
        init=partial(task.init, denoiser),
        updates=(Update("denoiser", ("denoiser",), _loss(task, settings, predict, auxiliary)),),
        sample=sample,
        stepwise=stepwise,
        layer_taps=_layer_taps(task, settings, predict),
        mean=one_step_sampler(task, schedule_of(settings), predict, settings.centred_mean),
        lr_multiple=task.lr_multiple(denoiser),
        tap_kind=denoiser.taps,
        frozen={**space.frozen, **auxiliary_frozen(auxiliary)},
    )


def schedule_of(settings: ResShiftSettings, sampling_steps: int | None = None) -> process.Schedule:
    """The tables that settings describe."""
    s = settings
    return process.make_schedule(
        s.steps, s.kappa, s.min_noise_level, s.etas_end, s.power, sampling_steps, s.sqrt_eta_cap
    )


def _loss(
    task: LatentTask, settings: ResShiftSettings, predict: Predict, auxiliary: tuple[AuxiliaryLoss, ...]
) -> LossFunction:
    schedule = schedule_of(settings)
    weights = channel_weights(task.space.channel_scale, settings.channel_weight_power)

    def loss(params: Params, frozen: Frozen, state: State, batch: Batch, key: jax.Array, step: jax.Array) -> Loss:
        x0, y, lr = task.training_pair(frozen, batch)  # [B, h, w, C] twice, [B, H, W, 3]
        index, x = _noisy_latents(key, schedule, settings, x0, y)
        prediction, taps = predict(params, schedule, x, index, lr)
        values = latent_error(prediction, x0, weights)  # [B]
        metrics = {"latent_mse": latent_mse(prediction, x0)}
        if auxiliary:
            # Through the frozen decoder and, straight, through its quantizer. (The encoding of the LR image is the one
            # of the training pair: the compiler computes it once.)
            image = jnp.clip(task.decode(frozen, prediction, task.encode_lr(frozen, batch["lr"])[0]), 0.0, 1.0)
            reference = to_model_range(batch["hr"])
            values, metrics = add_auxiliary(auxiliary, frozen, values, metrics, to_model_range(image), reference)
        return Loss(values, metrics, taps, state)

    return loss


def _noisy_latents(
    key: jax.Array, schedule: process.Schedule, settings: ResShiftSettings, x0: jax.Array, y: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Draw (index [B], x_t [B, h, w, C]) of the forward process."""
    key_last, key_index, key_noise = jax.random.split(key, 3)
    key_centre = jax.random.fold_in(key_last, 1)
    count, last = x0.shape[0], schedule.steps - 1
    index = jax.random.randint(key_index, (count,), 0, schedule.steps, jnp.int32)
    is_last = jax.random.uniform(key_last, (count,), jnp.float32) < settings.last_step_probability
    index = jnp.where(is_last, jnp.int32(last), index)
    noise = jax.random.normal(key_noise, x0.shape, jnp.float32)
    x = process.forward(schedule, x0, y, index, noise)
    if settings.centred_probability:
        drawn = jax.random.uniform(key_centre, (count,), jnp.float32) < settings.centred_probability
        is_centred = drawn & (index == last)
        x = jnp.where(is_centred[:, None, None, None], y, x)
    return index, x


def _layer_taps(task: LatentTask, settings: ResShiftSettings, predict: Predict) -> LayerTaps:
    schedule = schedule_of(settings)

    def compute(params: Params, frozen: Frozen, batch: Batch, key: jax.Array, time: jax.Array) -> tuple[jax.Array, ...]:
        x0, y, lr = task.training_pair(frozen, batch)
        index = timestep_index(time, schedule.steps, x0.shape[0])
        x = process.forward(schedule, x0, y, index, jax.random.normal(key, x0.shape, jnp.float32))
        return predict(params, schedule, x, index, lr)[1]

    return LayerTaps(compute, schedule.steps)


def _samplers(task: LatentTask, settings: ResShiftSettings, predict: Predict) -> tuple[Sampler, StepwiseSampler | None]:
    """The sampler, and the same with its estimates if it has several steps.

    `mean_share` interpolates between the sample and the one-step mean, as Freirich, Michaeli and Meir, "A Theory of the
    Distortion-Perception Tradeoff in Wasserstein Space" (NeurIPS 2021), do between an image of perfect perceptual
    quality and the posterior mean. Latents are interpolated: in an orthonormal codec that is the same as pixels.
    """
    schedule = schedule_of(settings, settings.sampling_steps)
    one_step = _one_step_latent(task, schedule_of(settings), predict, settings.centred_mean)

    def encoded(frozen: Frozen, lr: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """(z_lr, the image that conditions the denoiser, y of the chain)."""
        z_lr, condition = task.encode_lr(frozen, lr)
        return z_lr, condition, _chain_end(task, z_lr)

    def chain(params: Params, condition: jax.Array, y: jax.Array, noise: NoiseField) -> tuple[Any, ...]:
        """The arguments of the sampler."""

        def denoise_at(x: jax.Array, index: jax.Array) -> jax.Array:
            return predict(params, schedule, x, jnp.full((x.shape[0],), index), condition)[0]

        def draw(number: jax.Array) -> jax.Array:
            return task.noise(y, noise, number)

        return schedule, denoise_at, y, draw

    def interpolated(params: Params, condition: jax.Array, y: jax.Array, noise: NoiseField, x0: jax.Array) -> jax.Array:
        if not settings.mean_share:
            return x0
        return x0 + settings.mean_share * (one_step(params, condition, y, noise) - x0)

    def sample(params: Params, frozen: Frozen, lr: jax.Array, noise: NoiseField) -> jax.Array:
        z_lr, condition, y = encoded(frozen, lr)
        x0 = resshift_ancestral(*chain(params, condition, y, noise))
        return task.decode(frozen, interpolated(params, condition, y, noise, x0), z_lr)

    def stepwise(params: Params, frozen: Frozen, lr: jax.Array, noise: NoiseField, every: int) -> jax.Array:
        z_lr, condition, y = encoded(frozen, lr)
        x0, estimates = resshift_estimates(*chain(params, condition, y, noise))
        x0 = interpolated(params, condition, y, noise, x0)
        return task.decode_with_previews(frozen, x0, z_lr, estimates, every)

    return sample, StepwiseSampler(schedule.steps, stepwise) if schedule.steps > 1 else None


def one_step_sampler(task: LatentTask, schedule: process.Schedule, predict: Predict, centred: bool) -> Sampler:
    """The one-network-call estimate, from the prior's mean (`centred`) or from one draw of the prior."""
    estimate = _one_step_latent(task, schedule, predict, centred)

    def mean(params: Params, frozen: Frozen, lr: jax.Array, noise: NoiseField) -> jax.Array:
        z_lr, condition = task.encode_lr(frozen, lr)
        return task.decode(frozen, estimate(params, condition, _chain_end(task, z_lr), noise), z_lr)

    return mean


def _chain_end(task: LatentTask, z_lr: jax.Array) -> jax.Array:
    """The mean of the chain's prior, y of Eq. 2: the latent of the LR image, or 0 for a chain of residuals."""
    return jnp.zeros_like(z_lr) if task.residual else z_lr


def _one_step_latent(
    task: LatentTask, schedule: process.Schedule, predict: Predict, centred: bool
) -> Callable[[Params, jax.Array, jax.Array, NoiseField], jax.Array]:
    """(params, LR image, y [B, h, w, C], noise) → the estimate of x_0 at the last index, [B, h, w, C]."""

    def estimate(params: Params, condition: jax.Array, y: jax.Array, noise: NoiseField) -> jax.Array:
        x = y if centred else process.prior(schedule, y, task.noise(y, noise))
        last = jnp.full((x.shape[0],), schedule.steps - 1, jnp.int32)
        return predict(params, schedule, x, last, condition)[0]

    return estimate
