"""Supervised training on pixels alone: the L1 distance to the HR image.

Liang et al., "SwinIR: Image Restoration Using Swin Transformer" (ICCV Workshops 2021), Eq. 7. The baseline of all
methods that distill a teacher into such a network.
"""

from __future__ import annotations

import jax

from framer_jax.losses.pixel import pixel_errors
from framer_jax.models.denoiser import OnePassNetwork
from framer_jax.recipes.base import Batch, Frozen, Loss, LossFunction, Params, Recipe, State
from framer_jax.recipes.components.one_pass import one_pass_recipe, predictor, references


def supervised_l1(student: OnePassNetwork, scale: int) -> Recipe:
    """The recipe; arguments as of framer_jax.recipes.components.one_pass.one_pass_recipe."""
    return one_pass_recipe("supervised_l1", student, scale, _loss(student))


def _loss(student: OnePassNetwork) -> LossFunction:
    predict, reference = predictor(student), references(student)

    def loss(params: Params, frozen: Frozen, state: State, batch: Batch, key: jax.Array, step: jax.Array) -> Loss:
        prediction, taps = predict(params, batch["lr"], key)  # [B, sH, sW, 3]
        errors = pixel_errors(prediction, reference(batch["hr"]))
        return Loss(errors["pixel_l1"], errors, taps, state)

    return loss
