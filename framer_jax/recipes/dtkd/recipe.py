"""DTKD: a diffusion teacher distilled into a one-pass network by a wavelet loss whose weight grows.

Park and Song, "DTKD" (Electronics 15(10) 1986, 2026): L = |S(x) - y|_1 + lambda(t) L_DWT(S(x), T(x)), where lambda
grows linearly from 0 over all iterations. The text states neither its final value nor the wavelet's family, padding or
norm: they are settings. With transform 'pixel' the second term is the pixel-L1 distillation that it was compared with.
"""

from __future__ import annotations

import jax

from framer_jax.diffusion.noise import NoiseField, noise_field
from framer_jax.losses.pixel import pixel_errors
from framer_jax.losses.wavelet_kd import dtkd_total, mean_wavelet_kd
from framer_jax.losses.weight_schedule import weight_at
from framer_jax.models.denoiser import OnePassNetwork
from framer_jax.recipes.base import PIXELS, Batch, Frozen, Loss, LossFunction, Params, Precompute, Recipe, State
from framer_jax.recipes.components.one_pass import one_pass_recipe, predictor, references
from framer_jax.recipes.components.teacher import TEACHER, Teacher, teacher_outputs, teacher_targets
from framer_jax.recipes.dtkd.settings import DtkdSettings

_KEY = 0xD7D  # folded into the loss key, so that the student's own draws are those of the method without a teacher


def dtkd(
    student: OnePassNetwork, scale: int, settings: DtkdSettings, teacher: Teacher | None, precomputed: bool = False
) -> Recipe:
    """The recipe. Training with weight 0 is supervised L1 training.

    Args:
      student: as of framer_jax.recipes.components.one_pass.one_pass_recipe; group 'student'.
      scale: its upsampling factor.
      settings: see DtkdSettings.
      teacher: None where nothing will be trained.
      precomputed: batches bring the teacher's outputs.
    """
    return one_pass_recipe(
        "dtkd",
        student,
        scale,
        _loss(student, settings, teacher, precomputed),
        teacher.frozen if teacher else {},
        _precompute(teacher) if teacher else None,
        (TEACHER,),
        (*PIXELS, TEACHER) if precomputed and settings.weight else PIXELS,
    )


def _precompute(teacher: Teacher) -> Precompute:
    def precompute(frozen: Frozen, batch: Batch, noise: NoiseField) -> dict[str, jax.Array]:
        return {TEACHER: teacher_outputs(teacher, frozen, batch["lr"], noise, teacher.settings.samples)}

    return precompute


def _loss(student: OnePassNetwork, settings: DtkdSettings, teacher: Teacher | None, precomputed: bool) -> LossFunction:
    predict, reference = predictor(student), references(student)

    def loss(params: Params, frozen: Frozen, state: State, batch: Batch, key: jax.Array, step: jax.Array) -> Loss:
        prediction, taps = predict(params, batch["lr"], key)  # [B, sH, sW, 3]
        metrics = pixel_errors(prediction, reference(batch["hr"]))
        if not settings.weight:
            return Loss(metrics["pixel_l1"], metrics, taps, state)
        key_noise, key_sample = jax.random.split(jax.random.fold_in(key, _KEY))
        noise = noise_field(key_noise, prediction.shape[0])
        targets = teacher_targets(teacher, frozen, batch, batch["lr"], noise, key_sample, precomputed)
        distance = mean_wavelet_kd(prediction, reference(targets), settings)  # targets [B, K, sH, sW, 3] → values [B]
        weight = weight_at(settings.weight_schedule, step)
        metrics |= {f"teacher_{name}": value for name, value in distance.groups.items()}
        metrics |= {"teacher_weight": weight, "teacher_term": weight * distance.values}
        return Loss(dtkd_total(metrics["pixel_l1"], distance.values, weight), metrics, taps, state)

    return loss
