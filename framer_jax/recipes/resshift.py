"""ResShift: a short diffusion chain from the LR latent to the HR latent.

Yue, Wang and Loy, "ResShift: Efficient Diffusion Model for Image Super-resolution by Residual Shifting" (NeurIPS 2023):
the network predicts x_0 and the loss is the latent MSE, Eq. 8 without its weight. The journal version (v3: 4 steps)
adds the LPIPS distance of the decoded estimate to the HR image.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp

from framer_jax.diffusion import resshift as process
from framer_jax.diffusion.noise import NoiseField
from framer_jax.diffusion.samplers import resshift_ancestral
from framer_jax.losses.latent import channel_weights, latent_error, latent_mse
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
from framer_jax.recipes.latent_space import LatentSpace, LatentTask, to_model_range
from framer_jax.recipes.perceptual import Perceptual


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
      centred_probability: share of the examples at that index that start from the centre of the prior, x_T = y, and
        so teach the one-step `mean` what it is asked for. (The noise of the others hides the trace of x_0 in x_T.)
      centred_mean: the one-step `mean` starts from the centre of the prior, x_T = y without noise, and so does not
        depend on the seed; otherwise from one draw of the prior.
      channel_weight_power: weigh the squared error of latent channel c by channel_scale[c] ** power, scaled to mean 1:
        0 is the latent MSE of the paper, 2 the pixel MSE of an orthonormal codec.
      perceptual_weight: of the perceptual distance (v3: 1); 0 leaves it out.
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
    centred_probability: float = 0.0
    centred_mean: bool = False
    channel_weight_power: float = 0.0
    perceptual_weight: float = 0.0


Predict = Callable[[Params, process.Schedule, jax.Array, jax.Array, jax.Array], tuple[jax.Array, tuple[jax.Array, ...]]]
"""(params, schedule, x, index [B], LR image) → (estimate of x_0, taps)."""


def predictor(denoiser: nn.Module) -> Predict:
    """The denoiser as ResShift calls it: its input divided by its deviation, its time the raw index."""

    def predict(
        params: Params, schedule: process.Schedule, x: jax.Array, index: jax.Array, condition: jax.Array
    ) -> tuple[jax.Array, tuple[jax.Array, ...]]:
        scaled = x / process.at(schedule.input_std, index, x)
        told = jnp.asarray(schedule.timestep_map, jnp.float32)[index]
        return denoiser.apply({"params": params["denoiser"]}, scaled, told, condition)  # type: ignore[return-value]

    return predict


def resshift(
    denoiser: nn.Module, space: LatentSpace, settings: ResShiftSettings, perceptual: Perceptual | None = None
) -> Recipe:
    """The recipe.

    Args:
      denoiser: (x [B, h, w, C], t [B], condition [B, h, w, 3]) → (x_0 estimate, taps); group 'denoiser'.
      space: the latents; its grid must be that of the LR image.
      settings: see ResShiftSettings.
      perceptual: the distance that settings.perceptual_weight weighs; without it the loss leaves it out.
    """
    task = LatentTask(space, settings.scale, settings.residual)
    predict = predictor(denoiser)
    return Recipe(
        name="resshift",
        scale=settings.scale,
        init=partial(task.init, denoiser),
        updates=(Update("denoiser", ("denoiser",), _loss(task, settings, predict, perceptual)),),
        sample=_sampler(task, settings, predict),
        mean=one_step(task, schedule_of(settings), predict, settings.centred_mean),
        lr_multiple=task.lr_multiple(denoiser),
        tap_kind=getattr(denoiser, "taps", "hidden"),
        frozen={**space.frozen, **(perceptual.frozen if perceptual else {})},
    )


def schedule_of(settings: ResShiftSettings, sampling_steps: int | None = None) -> process.Schedule:
    """The tables that settings describe."""
    s = settings
    return process.make_schedule(s.steps, s.kappa, s.min_noise_level, s.etas_end, s.power, sampling_steps)


def _loss(
    task: LatentTask, settings: ResShiftSettings, predict: Predict, perceptual: Perceptual | None
) -> LossFunction:
    schedule = schedule_of(settings)
    weights = channel_weights(task.space.channel_scale, settings.channel_weight_power)

    def loss(params: Params, frozen: Frozen, state: State, batch: Batch, key: jax.Array, step: jax.Array) -> Loss:
        x0, y, condition = task.training_pair(frozen, batch)  # [B, h, w, C] twice, [B, H, W, 3]
        key_last, key_index, key_noise = jax.random.split(key, 3)
        key_centre = jax.random.fold_in(key_last, 1)
        count = x0.shape[0]
        index = jax.random.randint(key_index, (count,), 0, schedule.steps, jnp.int32)
        is_last = jax.random.uniform(key_last, (count,), jnp.float32) < settings.last_step_probability
        index = jnp.where(is_last, jnp.int32(schedule.steps - 1), index)
        noise = jax.random.normal(key_noise, x0.shape, jnp.float32)
        x = process.forward(schedule, x0, y, index, noise)
        if settings.centred_probability:
            drawn = jax.random.uniform(key_centre, (count,), jnp.float32) < settings.centred_probability
            centred = drawn & (index == schedule.steps - 1)
            x = jnp.where(centred[:, None, None, None], y, x)
        prediction, taps = predict(params, schedule, x, index, condition)
        values = latent_error(prediction, x0, weights)  # [B]
        metrics = {"latent_mse": latent_mse(prediction, x0)}
        if perceptual is not None:
            # Through the frozen decoder and, straight, through its quantiser. (The encoding of the LR image is the one
            # of the training pair: the compiler computes it once.)
            picture = jnp.clip(task.picture(frozen, prediction, task.enlarged(frozen, batch["lr"])[0]), 0.0, 1.0)
            distance = perceptual.distance(frozen, to_model_range(picture), to_model_range(batch["hr"]))
            values = values + jnp.float32(settings.perceptual_weight) * distance
            metrics["perceptual"] = distance
        return Loss(values, metrics, taps, state)

    return loss


def _sampler(task: LatentTask, settings: ResShiftSettings, predict: Predict) -> Sampler:
    schedule = schedule_of(settings, settings.sampling_steps)

    def sample(params: Params, frozen: Frozen, lr: jax.Array, noise: NoiseField) -> jax.Array:
        z_lr, condition = task.enlarged(frozen, lr)
        y = jnp.zeros_like(z_lr) if task.residual else z_lr

        def denoise(x: jax.Array, index: jax.Array) -> jax.Array:
            return predict(params, schedule, x, jnp.full((x.shape[0],), index), condition)[0]

        def draw(number: jax.Array) -> jax.Array:
            return task.noise(y, noise, number)

        return task.picture(frozen, resshift_ancestral(schedule, denoise, y, draw), z_lr)

    return sample


def one_step(task: LatentTask, schedule: process.Schedule, predict: Predict, centred: bool) -> Sampler:
    """The estimate of x_0 at the last index as a picture: one network call.

    Args:
      task: gives the latents.
      schedule: tables.
      predict: the denoiser.
      centred: from the centre of the prior, x_T = y, instead of a draw of it.
    """

    def mean(params: Params, frozen: Frozen, lr: jax.Array, noise: NoiseField) -> jax.Array:
        z_lr, condition = task.enlarged(frozen, lr)
        x = jnp.zeros_like(z_lr) if task.residual else z_lr
        if not centred:
            x = process.prior(schedule, x, task.noise(x, noise))
        last = jnp.full((x.shape[0],), schedule.steps - 1, jnp.int32)
        return task.picture(frozen, predict(params, schedule, x, last, condition)[0], z_lr)

    return mean
