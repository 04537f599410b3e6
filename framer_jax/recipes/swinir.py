"""SwinIR trained on pixels alone: the L1 distance to the HR image.

Liang et al., "SwinIR: Image Restoration Using Swin Transformer" (ICCV Workshops 2021), Eq. 7. The baseline of every way
to teach such a student more, and the part that they share.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp

from framer_jax.diffusion.noise import NoiseField
from framer_jax.losses.pixel import pixel_errors
from framer_jax.recipes.base import Batch, Frozen, Loss, LossFunction, Params, Recipe, Sampler, State, Update

STUDENT = "student"
"""The group of a one-pass network that maps LR images to HR images."""

Predict = Callable[[Params, jax.Array, jax.Array | None], tuple[jax.Array, tuple[jax.Array, ...]]]
"""(params, LR image [B, H, W, 3] in [0, 1], key of stochastic depth or None) → (picture near [0, 1], taps)."""


def predictor(student: nn.Module) -> Predict:
    """The student as its recipes call it."""

    def predict(params: Params, lr: jax.Array, key: jax.Array | None = None) -> tuple[jax.Array, tuple[jax.Array, ...]]:
        return student.apply({"params": params[STUDENT]}, lr, key)  # type: ignore[return-value]

    return predict


def init(student: nn.Module, key: jax.Array, batch: Batch) -> Params:
    """Parameters of the group 'student'."""
    return {STUDENT: student.init(key, jnp.zeros((1, *batch["lr"].shape[1:]), jnp.float32))["params"]}


def one_pass(student: nn.Module) -> Sampler:
    """The sampler: one forward pass, which needs no noise and drops nothing."""
    predict = predictor(student)

    def sample(params: Params, frozen: Frozen, lr: jax.Array, noise: NoiseField) -> jax.Array:
        return predict(params, lr, None)[0]

    return sample


def swinir(student: nn.Module, scale: int) -> Recipe:
    """The recipe. `sample` and `mean` are the same forward pass.

    Args:
      student: (LR image [B, H, W, 3] in [0, 1] of any size, key or None) → (picture, taps); group 'student'.
      scale: its enlargement.
    """
    sample = one_pass(student)
    return Recipe(
        name="swinir",
        scale=scale,
        init=partial(init, student),
        updates=(Update(STUDENT, (STUDENT,), _loss(student)),),
        sample=sample,
        mean=sample,
        exported=(STUDENT,),
    )


def _loss(student: nn.Module) -> LossFunction:
    predict = predictor(student)

    def loss(params: Params, frozen: Frozen, state: State, batch: Batch, key: jax.Array, step: jax.Array) -> Loss:
        prediction, taps = predict(params, batch["lr"], key)
        metrics = pixel_errors(prediction, batch["hr"])
        return Loss(metrics["pixel_l1"], metrics, taps, state)

    return loss
