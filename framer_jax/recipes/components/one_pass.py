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
    LayerTaps,
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
"""(params, LR image [B, H, W, 3] in [0, 1], key of stochastic depth or None) → (image near [0, 1], taps).

The image is [B, sH, sW, 3]."""


def predictor(student: OnePassNetwork) -> Predict:
    """The student as recipes call it.

    A network of gray images sees the luma (ITU-R BT.601, as its training data), and its image has three equal channels.
    """
    gray = image_channels(student) == 1

    def predict(params: Params, lr: jax.Array, key: jax.Array | None = None) -> tuple[jax.Array, tuple[jax.Array, ...]]:
        image, taps = upscale_once(student, params[STUDENT], luma(lr) if gray else lr, key)
        return jnp.repeat(image, 3, axis=-1) if gray else image, taps

    return predict


def references(student: OnePassNetwork) -> Callable[[jax.Array], jax.Array]:
    """(images [..., 3]) → what the student's images are compared with, in the same shape.

    That is the luma in three equal channels for a network of gray images, which has no color to learn, and otherwise
    the images themselves.
    """
    gray = image_channels(student) == 1
    return lambda images: jnp.repeat(luma(images), 3, axis=-1) if gray else images


def image_channels(student: OnePassNetwork) -> int:
    """Channels of a network's images: 1 for networks of gray images, which say so, otherwise 3."""
    return int(getattr(student, "image_channels", 3))


def init_student(student: OnePassNetwork, key: jax.Array, batch: Batch) -> Params:
    """Parameters of the group 'student'."""
    shape = (1, *batch["lr"].shape[1:3], image_channels(student))
    return {STUDENT: student.init(key, jnp.zeros(shape, jnp.float32))["params"]}


def one_pass_sampler(student: OnePassNetwork) -> Sampler:
    """The sampler: one forward pass, which needs no noise and drops nothing."""
    predict = predictor(student)

    def sample(params: Params, frozen: Frozen, lr: jax.Array, noise: NoiseField) -> jax.Array:
        return predict(params, lr, None)[0]

    return sample


def one_pass_taps(student: OnePassNetwork) -> LayerTaps:
    """The taps of the forward pass of `one_pass_sampler`."""
    predict = predictor(student)

    def compute(params: Params, frozen: Frozen, batch: Batch, key: jax.Array, time: jax.Array) -> tuple[jax.Array, ...]:
        return predict(params, batch["lr"], None)[1]

    return LayerTaps(compute, timesteps=1)


def luma(image: jax.Array) -> jax.Array:
    """[..., 3] → [..., 1]: .299 R + .587 G + .114 B, written so that gray images keep their values exactly."""
    red, green, blue = jnp.split(image, 3, axis=-1)
    return green + 0.299 * (red - green) + 0.114 * (blue - green)


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
        layer_taps=one_pass_taps(student),
        exported=(STUDENT,),
        frozen=frozen or {},
        precompute=precompute,
        precomputed_images=precomputed_images,
        batch_entries=batch_entries,
        window=int(getattr(student, "window", 1)),
    )
