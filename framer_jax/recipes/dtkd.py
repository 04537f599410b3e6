"""DTKD: a diffusion teacher's texture in a network of one pass, by a wavelet loss whose weight rises.

Park and Song, "DTKD" (Electronics 15(10) 1986, 2026): L = |S(x) - y|_1 + lambda(t) L_DWT(S(x), T(x)), where lambda
rises linearly from 0 over all iterations. The text states neither its last value nor the wavelet's family, border or
norm: they are settings. With transform 'pixel' the second term is the pixel-L1 distillation that it was compared with.
"""

from __future__ import annotations

import flax.linen as nn
import jax

from framer_jax.diffusion.noise import NoiseField, noise_field
from framer_jax.losses.pixel import pixel_errors
from framer_jax.losses.wavelet_kd import WaveletKdSettings, dtkd_total, mean_wavelet_kd
from framer_jax.losses.weight_schedule import WeightSchedule, weight_at
from framer_jax.recipes.base import Batch, Frozen, Loss, LossFunction, Params, Precompute, Recipe, State
from framer_jax.recipes.swinir import predictor
from framer_jax.recipes.teacher import TEACHER, Teacher, pictures, taught, taught_student

_KEY = 0xD7D  # folded into the loss key, so that the student's own draws are those of the recipe without a teacher


def dtkd(
    student: nn.Module, scale: int, schedule: WeightSchedule, settings: WaveletKdSettings, teacher: Teacher | None
) -> Recipe:
    """The recipe. `sample` and `mean` are one pass of the student; training with weight 0 is the recipe 'swinir'.

    Args:
      student: as of framer_jax.recipes.swinir.swinir; group 'student'.
      scale: its enlargement.
      schedule: lambda.
      settings: of the loss.
      teacher: None where nothing will be trained.
    """
    precompute = _precompute(teacher) if teacher else None
    return taught_student("dtkd", student, scale, _loss(student, schedule, settings, teacher), teacher, precompute)


def _precompute(teacher: Teacher) -> Precompute:
    def precompute(frozen: Frozen, batch: Batch, noise: NoiseField) -> dict[str, jax.Array]:
        return {TEACHER: pictures(teacher, frozen, batch["lr"], noise, teacher.samples)}

    return precompute


def _loss(
    student: nn.Module, schedule: WeightSchedule, settings: WaveletKdSettings, teacher: Teacher | None
) -> LossFunction:
    predict = predictor(student)

    def loss(params: Params, frozen: Frozen, state: State, batch: Batch, key: jax.Array, step: jax.Array) -> Loss:
        prediction, taps = predict(params, batch["lr"], key)  # [B, sH, sW, 3]
        metrics = pixel_errors(prediction, batch["hr"])
        if not schedule.weight:
            return Loss(metrics["pixel_l1"], metrics, taps, state)
        key_noise, key_sample = jax.random.split(jax.random.fold_in(key, _KEY))
        noise = noise_field(key_noise, prediction.shape[0])
        found = taught(teacher, frozen, batch, batch["lr"], noise, key_sample)  # [B, K, sH, sW, 3]
        distance = mean_wavelet_kd(prediction, found, settings)
        weight = weight_at(schedule, step)
        groups = {f"teacher_{name}": value for name, value in distance.groups.items()}
        metrics |= {**groups, "teacher_weight": weight, "teacher_term": weight * distance.values}
        return Loss(dtkd_total(metrics["pixel_l1"], distance.values, weight), metrics, taps, state)

    return loss
