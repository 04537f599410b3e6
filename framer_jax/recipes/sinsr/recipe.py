"""SinSR: a ResShift model of many steps distilled into one step.

Wang et al., "SinSR: Diffusion-Based Image Super-Resolution in a Single Step" (CVPR 2024), Section 3 and Algorithm 1, in
the variant of the released code: all three terms are errors of latents, with weight 1. The teacher's deterministic
chain makes x_0 a function of the noise; the student S learns that function (distillation), its inverse, and to
reproduce the HR latent from the inverse of it (consistency).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from framer_jax.diffusion import resshift as process
from framer_jax.diffusion.noise import NoiseField
from framer_jax.diffusion.samplers import resshift_deterministic
from framer_jax.losses.latent import channel_weights
from framer_jax.losses.one_step_distillation import (
    OneStepTerms,
    consistency_error,
    distillation_error,
    inverse_error,
    one_step_distillation,
)
from framer_jax.models.denoiser import Denoiser
from framer_jax.recipes.base import (
    PIXELS,
    AuxiliaryLoss,
    Batch,
    Frozen,
    LayerTaps,
    Loss,
    LossFunction,
    Params,
    Precompute,
    Recipe,
    State,
    Update,
    add_auxiliary,
    auxiliary_frozen,
)
from framer_jax.recipes.components.latent_space import LatentSpace, LatentTask, to_model_range
from framer_jax.recipes.resshift.recipe import Predict, one_step_sampler, predictor, schedule_of
from framer_jax.recipes.resshift.settings import ResShiftSettings
from framer_jax.recipes.sinsr.settings import SinSRSettings

TEACHER = "teacher"
"""The entry of `frozen` with the teacher's groups."""

TRAJECTORY_ENTRIES = ("chain_start", "chain_end")
"""The batch entries of a precomputed trajectory of the teacher, see `trajectory_endpoints`."""

Student = Callable[[jax.Array, jax.Array], tuple[jax.Array, tuple[jax.Array, ...]]]
"""(latent [B, h, w, C], index [B]) → (estimate, taps)."""


class Distillation(NamedTuple):
    """What the student's four calls in a training step give.

    Attributes:
      terms: the three terms of the loss.
      taps: the taps of the student's one step.
      one_step: the student's output from the prior's noise, [B, h, w, C] float32.
      consistency: its output from the noise that it predicts for the HR latent, [B, h, w, C] float32.
    """

    terms: OneStepTerms
    taps: tuple[jax.Array, ...]
    one_step: jax.Array
    consistency: jax.Array


class PredictionLoss(NamedTuple):
    """A further term on one of the student's outputs.

    Attributes:
      prediction: the output, 'one_step' or 'consistency' (`Distillation`).
      domain: 'latent' or 'image': whether the loss compares clean latents, or decoded images in [-1, 1].
      loss: the loss.
    """

    prediction: str
    domain: str
    loss: AuxiliaryLoss


def student_schedule(schedule: process.Schedule) -> process.Schedule:
    """The teacher's tables as the student uses them.

    Every input is divided by the standard deviation of the last index, clean latents too: index 0, which asks for the
    inverse, only enters the time embedding.
    """
    return replace(schedule, input_std=np.full_like(schedule.input_std, schedule.input_std[-1]))


def trajectory_endpoints(
    schedule: process.Schedule, teacher: Callable[[jax.Array, jax.Array], jax.Array], y: jax.Array, noise: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """The ends (x_T, x0_T) of the teacher's deterministic trajectory, [B, h, w, C] float32 each, without gradient.

    Args:
      schedule: schedule of the chain.
      teacher: (x, index int32 scalar) → estimate of x_0, as of framer_jax.diffusion.samplers.resshift_deterministic.
      y: LR latent, [B, h, w, C] float32.
      noise: standard normal, of the same shape.
    """
    start = process.prior(schedule, y, noise)
    return start, jax.lax.stop_gradient(resshift_deterministic(schedule, teacher, y, start))


def distillation_terms(
    schedule: process.Schedule,
    student: Student,
    z_hr: jax.Array,
    endpoints: tuple[jax.Array, jax.Array],
    weights: np.ndarray,
    consistency_gradient: str = "outer",
) -> Distillation:
    """The three terms of the loss, and the outputs that further terms compare.

    Args:
      schedule: schedule of the teacher's chain.
      student: divides its input as `student_schedule` says.
      z_hr: HR latent, [B, h, w, C] float32.
      endpoints: see `trajectory_endpoints`.
      weights: [C] weights of the channels' squared errors.
      consistency_gradient: one of framer_jax.recipes.sinsr.settings.CONSISTENCY_GRADIENTS.
    """
    start, end = endpoints
    first = jnp.zeros((z_hr.shape[0],), jnp.int32)
    last = jnp.full_like(first, schedule.steps - 1)
    one_step, taps = student(start, last)
    inverse, _ = student(end, first)
    inverse_of_hr, _ = student(z_hr, first)
    if consistency_gradient == "outer":
        inverse_of_hr = jax.lax.stop_gradient(inverse_of_hr)
    reconstruction, _ = student(inverse_of_hr, last)
    terms = OneStepTerms(
        distillation_error(one_step, end, weights),
        inverse_error(inverse, start, weights),
        consistency_error(reconstruction, z_hr, weights),
    )
    return Distillation(terms, taps, one_step, reconstruction)


def sinsr(
    denoiser: Denoiser,
    space: LatentSpace,
    scale: int,
    chain: ResShiftSettings,
    settings: SinSRSettings,
    teacher: Params | None,
    precomputed: bool = False,
    further: tuple[PredictionLoss, ...] = (),
) -> Recipe:
    """The recipe. Its `sample` is one network call; it has no `mean`, for the student learns a sample, not a mean.

    Args:
      denoiser: as of framer_jax.recipes.resshift.recipe.resshift; teacher and student are this module.
      space: the latents.
      scale: upsampling factor.
      chain: the teacher's chain. Of its objective only channel_weight_power matters here.
      settings: see SinSRSettings.
      teacher: the groups of a trained ResShift recipe, from which the student starts too; None where nothing will be
        trained.
      precomputed: batches bring the teacher's trajectories.
      further: terms that are added to the loss.
    """
    task = LatentTask(space, scale, chain.residual)
    predict, schedule = predictor(denoiser), schedule_of(chain)
    return Recipe(
        name="sinsr",
        scale=scale,
        init=partial(task.init, denoiser),
        updates=(Update("denoiser", ("denoiser",), _loss(task, chain, settings, predict, precomputed, further)),),
        sample=one_step_sampler(task, student_schedule(schedule), predict, centred=False),
        layer_taps=_layer_taps(task, student_schedule(schedule), predict),
        lr_multiple=task.lr_multiple(denoiser),
        tap_kind=denoiser.taps,
        frozen={
            **space.frozen,
            **({TEACHER: teacher} if teacher else {}),
            **auxiliary_frozen(tuple(term.loss for term in further)),
        },
        initial_params=teacher or {},
        precompute=_precompute(task, schedule, predict),
        batch_entries=(*PIXELS, *TRAJECTORY_ENTRIES) if precomputed else PIXELS,
    )


def _teacher(
    schedule: process.Schedule, predict: Predict, frozen: Frozen, condition: jax.Array
) -> Callable[[jax.Array, jax.Array], jax.Array]:
    if TEACHER not in frozen:
        raise ValueError(
            "SinSR learns from a teacher, and this recipe was built without one: build it for the purpose 'training', "
            "with the teacher's path in recipe.sinsr.teacher_checkpoint"
        )
    return lambda x, index: predict(frozen[TEACHER], schedule, x, jnp.full((x.shape[0],), index), condition)[0]


def _precompute(task: LatentTask, schedule: process.Schedule, predict: Predict) -> Precompute:
    def precompute(frozen: Frozen, batch: Batch, noise: NoiseField) -> dict[str, jax.Array]:
        z_lr, condition = task.encode_lr(frozen, batch["lr"])
        y = jnp.zeros_like(z_lr) if task.residual else z_lr
        teacher = _teacher(schedule, predict, frozen, condition)
        endpoints = trajectory_endpoints(schedule, teacher, y, task.noise(y, noise))
        return dict(zip(TRAJECTORY_ENTRIES, endpoints, strict=True))

    return precompute


def _layer_taps(task: LatentTask, schedule: process.Schedule, predict: Predict) -> LayerTaps:
    """The taps of the student's one step."""

    def compute(params: Params, frozen: Frozen, batch: Batch, key: jax.Array, time: jax.Array) -> tuple[jax.Array, ...]:
        z_lr, condition = task.encode_lr(frozen, batch["lr"])
        y = jnp.zeros_like(z_lr) if task.residual else z_lr
        start = process.prior(schedule, y, jax.random.normal(key, y.shape, jnp.float32))
        last = jnp.full((y.shape[0],), schedule.steps - 1, jnp.int32)
        return predict(params, schedule, start, last, condition)[1]

    return LayerTaps(compute, timesteps=1)


def _loss(
    task: LatentTask,
    chain: ResShiftSettings,
    settings: SinSRSettings,
    predict: Predict,
    precomputed: bool,
    further: tuple[PredictionLoss, ...],
) -> LossFunction:
    schedule = schedule_of(chain)
    fixed = student_schedule(schedule)
    weights = channel_weights(task.space.channel_scale, chain.channel_weight_power)

    def loss(params: Params, frozen: Frozen, state: State, batch: Batch, key: jax.Array, step: jax.Array) -> Loss:
        z_hr, z_lr, condition = task.encode_pair(frozen, batch)  # [B, h, w, C] twice, [B, H, W, 3]
        clean, y = task.ends(z_hr, z_lr)

        def student(x: jax.Array, index: jax.Array) -> tuple[jax.Array, tuple[jax.Array, ...]]:
            return predict(params, fixed, x, index, condition)

        if precomputed:
            endpoints = batch[TRAJECTORY_ENTRIES[0]], batch[TRAJECTORY_ENTRIES[1]]
        else:
            noise = jax.random.normal(key, clean.shape, jnp.float32)
            endpoints = trajectory_endpoints(schedule, _teacher(schedule, predict, frozen, condition), y, noise)
        made = distillation_terms(schedule, student, clean, endpoints, weights, settings.consistency_gradient)
        values, metrics = one_step_distillation(made.terms, settings.weights), made.terms._asdict()
        if further:
            references = {"latent": z_hr, "image": to_model_range(batch["hr"])}
            values, metrics = add_further(task, further, frozen, values, metrics, made, z_lr, references)
        return Loss(values, metrics, made.taps, state)

    return loss


def add_further(
    task: LatentTask,
    further: tuple[PredictionLoss, ...],
    frozen: Frozen,
    values: jax.Array,
    metrics: dict[str, jax.Array],
    made: Distillation,
    z_lr: jax.Array,
    references: dict[str, jax.Array],
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Loss values [B] and metrics with the further terms; each output is decoded once, if any term asks for it."""
    compared = {}
    for prediction, domain in dict.fromkeys((term.prediction, term.domain) for term in further):
        latent = task.clean_latent(getattr(made, prediction), z_lr)  # [B, h, w, C]
        compared[prediction, domain] = latent if domain == "latent" else task.space.decode(frozen, latent)
    for term in further:
        pair = compared[term.prediction, term.domain], references[term.domain]
        values, metrics = add_auxiliary((term.loss,), frozen, values, metrics, *pair)
    return values, metrics
