"""DTKD: a diffusion teacher's texture in a network of one pass, by a wavelet loss whose weight rises.

Park and Song, "DTKD" (Electronics 15(10) 1986, 2026): L = |S(x) - y|_1 + lambda(t) L_DWT(S(x), T(x)), where lambda
rises linearly from 0 over all iterations. The text states neither its last value nor the wavelet's family, border or
norm: they are settings. With transform 'pixel' the second term is the pixel-L1 distillation that it was compared with.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import flax.linen as nn
import jax
import jax.numpy as jnp

from framer_jax.diffusion.noise import NoiseField, noise_field
from framer_jax.losses.wavelet_kd import WaveletKdSettings, wavelet_kd
from framer_jax.recipes.base import Batch, Frozen, Loss, LossFunction, Params, Precompute, Recipe, State
from framer_jax.recipes.swinir import pixel_error, predictor
from framer_jax.recipes.teacher import TEACHER, Teacher, pictures, taught, taught_student

SCHEDULES = ("linear", "cosine", "constant")

_KEY = 0xD7D  # folded into the loss key, so that the student's own draws are those of the recipe without a teacher


@dataclass(frozen=True)
class Rise:
    """lambda(t).

    Attributes:
      weight: lambda at the end; 0 leaves the teacher out of training.
      schedule: 'linear' from 0; 'cosine', from 0 along half a wave; 'constant'.
      steps: T, over which it rises; afterwards it stays.

    Raises:
      ValueError: an unknown schedule, a negative weight, fewer than one step.
    """

    weight: float = 1.0
    schedule: str = "linear"
    steps: int = 1

    def __post_init__(self) -> None:
        if self.schedule not in SCHEDULES:
            raise ValueError(f"recipe.dtkd.schedule is {self.schedule!r}: choose one of {', '.join(SCHEDULES)}")
        if not 0 <= self.weight < math.inf:
            raise ValueError(f"recipe.dtkd.weight is {self.weight}: it must be a number of at least 0")
        if self.steps < 1:
            raise ValueError(f"recipe.dtkd.ramp_steps is {self.steps}: it must be at least 1")


def weight_at(step: jax.Array, rise: Rise) -> jax.Array:
    """Lambda after `step` (int32) steps, a float32 scalar: 0 at step 0 and half at T/2, unless it is constant."""
    done = jnp.clip(step.astype(jnp.float32) / rise.steps, 0.0, 1.0)
    share = {"linear": done, "cosine": 0.5 - 0.5 * jnp.cos(jnp.pi * done), "constant": jnp.ones_like(done)}
    return jnp.float32(rise.weight) * share[rise.schedule]


def dtkd(student: nn.Module, scale: int, rise: Rise, settings: WaveletKdSettings, teacher: Teacher | None) -> Recipe:
    """The recipe. `sample` and `mean` are one pass of the student; training with weight 0 is the recipe 'swinir'.

    Args:
      student: as of framer_jax.recipes.swinir.swinir; group 'student'.
      scale: its enlargement.
      rise: lambda.
      settings: of the loss.
      teacher: None where nothing will be trained.
    """
    precompute = _precompute(teacher) if teacher else None
    return taught_student("dtkd", student, scale, _loss(student, rise, settings, teacher), teacher, precompute)


def _precompute(teacher: Teacher) -> Precompute:
    def precompute(frozen: Frozen, batch: Batch, noise: NoiseField) -> dict[str, jax.Array]:
        return {TEACHER: pictures(teacher, frozen, batch["lr"], noise, teacher.samples)}

    return precompute


def _loss(student: nn.Module, rise: Rise, settings: WaveletKdSettings, teacher: Teacher | None) -> LossFunction:
    predict = predictor(student)

    def loss(params: Params, frozen: Frozen, state: State, batch: Batch, key: jax.Array, step: jax.Array) -> Loss:
        prediction, taps = predict(params, batch["lr"], key)  # [B, sH, sW, 3]
        values, metrics = pixel_error(prediction, batch["hr"])
        if not rise.weight:
            return Loss(values, metrics, taps, state)
        key_noise, key_sample = jax.random.split(jax.random.fold_in(key, _KEY))
        noise = noise_field(key_noise, prediction.shape[0])
        found = taught(teacher, frozen, batch, batch["lr"], noise, key_sample)  # [B, K, sH, sW, 3]
        distance = jax.vmap(lambda picture: wavelet_kd(prediction, picture, settings), in_axes=1)(found)  # [K, B]
        weight = weight_at(step, rise)
        groups = {f"teacher_{name}": value.mean(axis=0) for name, value in distance.groups.items()}
        metrics |= {**groups, "teacher_weight": weight, "teacher_term": weight * distance.values.mean(axis=0)}
        return Loss(values + metrics["teacher_term"], metrics, taps, state)

    return loss
