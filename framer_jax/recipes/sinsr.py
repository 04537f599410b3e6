"""SinSR: a ResShift model of many steps distilled into one step.

Wang et al., "SinSR: Diffusion-Based Image Super-Resolution in a Single Step" (CVPR 2024), Section 3 and Algorithm 1, in
the reading of the released code: all three terms are errors of latents, none is weighed. The teacher's deterministic
chain makes x_0 a function of the noise; the student S learns that function (distillation), its inverse, and to give
back the HR latent from the inverse of it (consistency).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import flax.linen as nn
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
from framer_jax.recipes.base import (
    Batch,
    Frozen,
    Loss,
    LossFunction,
    Params,
    Precompute,
    Recipe,
    State,
    Update,
)
from framer_jax.recipes.latent_space import LatentSpace, LatentTask
from framer_jax.recipes.resshift import (
    Predict,
    ResShiftSettings,
    one_step,
    predictor,
    schedule_of,
)

TEACHER = "teacher"
"""The entry of `frozen` that the teacher's groups have."""

ENDS = ("chain_start", "chain_end")
"""The entries of a batch that bring a precomputed chain of the teacher, see `chain_ends`."""


@dataclass(frozen=True)
class SinSRSettings:
    """The objective.

    Attributes:
      distillation_weight: of |S(x_T, T-1) - x0_T|², x0_T the end of the teacher's chain from x_T.
      inverse_weight: of |S(x0_T, 0) - x_T|².
      consistency_weight: of |S(S(z_hr, 0), T-1) - z_hr|², without a gradient through the inner S.
    """

    distillation_weight: float = 1.0
    inverse_weight: float = 1.0
    consistency_weight: float = 1.0


Student = Callable[[jax.Array, jax.Array], tuple[jax.Array, tuple[jax.Array, ...]]]
"""(latent [B, h, w, C], index [B]) → (its estimate, taps)."""


def student_schedule(schedule: process.Schedule) -> process.Schedule:
    """The teacher's tables as the student is called with them.

    Every input is divided by the deviation of the last index, clean latents too: index 0, which asks for the inverse,
    is only what the time embedding is told.
    """
    return replace(schedule, input_std=np.full_like(schedule.input_std, schedule.input_std[-1]))


def chain_ends(
    schedule: process.Schedule, teacher: Callable[[jax.Array, jax.Array], jax.Array], y: jax.Array, noise: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """The teacher's deterministic chain: (x_T, x0_T), [B, h, w, C] float32 each, no gradient through it.

    Args:
      schedule: of the chain.
      teacher: (x, index int32 scalar) → estimate of x_0, as framer_jax.diffusion.samplers.resshift_deterministic asks.
      y: LR latent, [B, h, w, C] float32.
      noise: standard normal, of the same shape.
    """
    start = process.prior(schedule, y, noise)
    return start, jax.lax.stop_gradient(resshift_deterministic(schedule, teacher, y, start))


def distillation_terms(
    schedule: process.Schedule,
    student: Student,
    clean: jax.Array,
    ends: tuple[jax.Array, jax.Array],
    weights: np.ndarray,
) -> tuple[OneStepTerms, tuple[jax.Array, ...]]:
    """The three terms.

    Args:
      schedule: of the teacher's chain.
      student: divides its input as `student_schedule` says.
      clean: HR latent, [B, h, w, C] float32.
      ends: see `chain_ends`.
      weights: [C] of the channels' squared errors.
    """
    start, end = ends
    first = jnp.zeros((clean.shape[0],), jnp.int32)
    last = jnp.full_like(first, schedule.steps - 1)
    found, taps = student(start, last)
    inverse, _ = student(end, first)
    start_of_clean = jax.lax.stop_gradient(student(clean, first)[0])
    again, _ = student(start_of_clean, last)
    terms = OneStepTerms(
        distillation_error(found, end, weights),
        inverse_error(inverse, start, weights),
        consistency_error(again, clean, weights),
    )
    return terms, taps


def sinsr(
    denoiser: nn.Module,
    space: LatentSpace,
    chain: ResShiftSettings,
    settings: SinSRSettings,
    teacher: Params | None,
) -> Recipe:
    """The recipe. Its `sample` is one network call; it has no `mean`, for the student learns a sample, not a mean.

    Args:
      denoiser: as of framer_jax.recipes.resshift.resshift; teacher and student are this module.
      space: the latents.
      chain: what the teacher was trained with. Of its objective only channel_weight_power counts here.
      settings: see SinSRSettings.
      teacher: the groups of a trained ResShift recipe, from which the student starts too; None where nothing will be
        trained.
    """
    task = LatentTask(space, chain.scale, chain.residual)
    predict, schedule = predictor(denoiser), schedule_of(chain)
    return Recipe(
        name="sinsr",
        scale=chain.scale,
        init=partial(task.init, denoiser),
        updates=(Update("denoiser", ("denoiser",), _loss(task, chain, settings, predict)),),
        sample=one_step(task, student_schedule(schedule), predict, centred=False),
        lr_multiple=task.lr_multiple(denoiser),
        tap_kind=getattr(denoiser, "taps", "hidden"),
        frozen={**space.frozen, **({TEACHER: teacher} if teacher else {})},
        initial_params=teacher or {},
        precompute=_precompute(task, schedule, predict),
    )


def _teacher(
    schedule: process.Schedule, predict: Predict, frozen: Frozen, condition: jax.Array
) -> Callable[[jax.Array, jax.Array], jax.Array]:
    if TEACHER not in frozen:
        raise ValueError(
            "SinSR learns from a teacher, and this recipe was built without: build it for the purpose 'training', "
            "with the teacher's path in recipe.sinsr.teacher"
        )
    return lambda x, index: predict(frozen[TEACHER], schedule, x, jnp.full((x.shape[0],), index), condition)[0]


def _precompute(task: LatentTask, schedule: process.Schedule, predict: Predict) -> Precompute:
    def precompute(frozen: Frozen, batch: Batch, noise: NoiseField) -> dict[str, jax.Array]:
        z_lr, condition = task.enlarged(frozen, batch["lr"])
        y = jnp.zeros_like(z_lr) if task.residual else z_lr
        ends = chain_ends(schedule, _teacher(schedule, predict, frozen, condition), y, task.noise(y, noise))
        return dict(zip(ENDS, ends, strict=True))

    return precompute


def _loss(task: LatentTask, chain: ResShiftSettings, settings: SinSRSettings, predict: Predict) -> LossFunction:
    schedule = schedule_of(chain)
    fixed = student_schedule(schedule)
    weights = channel_weights(task.space.channel_scale, chain.channel_weight_power)

    def loss(params: Params, frozen: Frozen, state: State, batch: Batch, key: jax.Array, step: jax.Array) -> Loss:
        clean, y, condition = task.training_pair(frozen, batch)  # [B, h, w, C] twice, [B, H, W, 3]

        def student(x: jax.Array, index: jax.Array) -> tuple[jax.Array, tuple[jax.Array, ...]]:
            return predict(params, fixed, x, index, condition)

        if ENDS[0] in batch:
            ends = batch[ENDS[0]], batch[ENDS[1]]
        else:
            noise = jax.random.normal(key, clean.shape, jnp.float32)
            ends = chain_ends(schedule, _teacher(schedule, predict, frozen, condition), y, noise)
        terms, taps = distillation_terms(schedule, student, clean, ends, weights)
        term_weights = settings.distillation_weight, settings.inverse_weight, settings.consistency_weight
        return Loss(one_step_distillation(terms, term_weights), terms._asdict(), taps, state)

    return loss
