"""Networks that map an LR image to an HR image in one pass: their parameters, sampler and recipe."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp

from framer_jax.diffusion.noise import NoiseField
from framer_jax.models.denoiser import OnePassNetwork, upscale_once
from framer_jax.recipes.base import (
    PIXELS,
    Batch,
    Frozen,
    LossFunction,
    Params,
    Precompute,
    Recipe,
    Sampler,
    Update,
)

STUDENT = "student"
"""The group of a one-pass network."""

Predict = Callable[[Params, jax.Array, jax.Array | None], tuple[jax.Array, tuple[jax.Array, ...]]]
"""(params, LR image [B, H, W, 3] in [0, 1], key of stochastic depth or None) → (image near [0, 1], taps)."""


def predictor(student: OnePassNetwork) -> Predict:
    """The student as recipes call it."""

    def predict(params: Params, lr: jax.Array, key: jax.Array | None = None) -> tuple[jax.Array, tuple[jax.Array, ...]]:
        return upscale_once(student, params[STUDENT], lr, key)

    return predict


def init_student(student: OnePassNetwork, key: jax.Array, batch: Batch) -> Params:
    """Parameters of the group 'student'."""
    return {STUDENT: student.init(key, jnp.zeros((1, *batch["lr"].shape[1:]), jnp.float32))["params"]}


def one_pass_sampler(student: OnePassNetwork) -> Sampler:
    """The sampler: one forward pass, which needs no noise and drops nothing."""
    predict = predictor(student)

    def sample(params: Params, frozen: Frozen, lr: jax.Array, noise: NoiseField) -> jax.Array:
        return predict(params, lr, None)[0]

    return sample


def one_pass_recipe(
    name: str,
    student: OnePassNetwork,
    scale: int,
    loss: LossFunction,
    frozen: Frozen | None = None,
    precompute: Precompute | None = None,
    precomputed_images: tuple[str, ...] = (),
    batch_entries: tuple[str, ...] = PIXELS,
) -> Recipe:
    """The recipe of a one-pass network; `sample` and `mean` are the same forward pass.

    Args:
      name: name of the recipe.
      student: (LR image [B, H, W, 3] in [0, 1] of any size, key or None) → (image, taps); group 'student'.
      scale: its upsampling factor.
      loss: loss of its one update.
      frozen: what the loss needs of frozen weights.
      precompute: what can be computed once and written to disk.
      precomputed_images: the entries of it that are images.
      batch_entries: the entries of its batches.
    """
    sample = one_pass_sampler(student)
    return Recipe(
        name=name,
        scale=scale,
        init=partial(init_student, student),
        updates=(Update(STUDENT, (STUDENT,), loss),),
        sample=sample,
        mean=sample,
        exported=(STUDENT,),
        frozen=frozen or {},
        precompute=precompute,
        precomputed_images=precomputed_images,
        batch_entries=batch_entries,
    )
