"""FRAMER as a function from recipe to recipe.

"FRAMER: Frequency-Aligned Self-Distillation with Adaptive Modulation" (CVPR 2026, arXiv 2512.01390). The resulting
recipe has one more term in its loss and the *same* `sample`: inference is untouched by construction.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp

from framer_jax.knobs import nearest
from framer_jax.losses.framer import (
    VARIANTS,
    FramerSettings,
    draw_negatives,
    framer_loss,
    framer_total,
    teacher_index,
)
from framer_jax.losses.weight_schedule import weight_at
from framer_jax.recipes.base import Batch, Frozen, Loss, LossFunction, Params, Recipe, State, Update, with_outputs

HEADS = "framer_heads"
"""The parameter group of the training-only heads; no exported model has it."""

NO_FRAMER = "none"
"""The variant of configurations without FRAMER."""

_KEY = 0xF4A3E5  # folded into the loss key, so that the base's own draws are those of the plain recipe


def framer(recipe: Recipe, settings: FramerSettings, updates: tuple[str, ...] = ()) -> Recipe:
    """Add FRAMER's term to one or several updates of a recipe.

    Where the taps of a denoiser differ in shape (a U-Net's levels), every tap but the teacher gets a head, a 1x1
    convolution to the teacher's channels and a bilinear resize to its size, trained in the group 'framer_heads'. Where
    the taps agree in shape (a transformer's blocks), they are compared as they are. Several updates share one set of
    heads, so their taps must have the same shapes.

    Args:
      recipe: any recipe whose loss returns at least two taps.
      settings: framer_jax.losses.framer.paper() or released(), or changes of them.
      updates: names of the updates to extend; by default all that train the denoiser.

    Returns:
      The recipe with the extended loss. With objective 'none' it is the recipe itself.

    Raises:
      ValueError: no update of that name, or a variant that needs other taps than the recipe's; at `init`, a recipe with
        fewer than two taps, updates whose taps differ, or the teacher 'next' where taps differ in shape.
    """
    if settings.objective == "none":
        return recipe
    if settings.last_is_student and recipe.tap_kind != "prediction":
        raise ValueError(
            "framer: the variant 'released' (last_is_student) compares the blocks' predictions, and this recipe's taps "
            f"are {recipe.tap_kind}: set taps=prediction in the denoiser's section (dit and the transformers have it)"
        )
    names = [update.name for update in recipe.updates]
    chosen = updates or recipe.denoiser_updates or (names[0],)
    if unknown := [name for name in chosen if name not in names]:
        raise ValueError(f"recipe {recipe.name!r} has no update {unknown[0]!r}: choose from {', '.join(names)}")
    extended = tuple(_extended(update, settings) if update.name in chosen else update for update in recipe.updates)

    def init(key: jax.Array, batch: Batch) -> Params:
        params = recipe.init(key, batch)
        shapes = {
            update.name: _tap_shapes(recipe, update, params, batch)
            for update in recipe.updates
            if update.name in chosen
        }
        first = shapes[chosen[0]]
        for name, others in shapes.items():
            if others != first:
                raise ValueError(
                    f"FRAMER's updates share their heads, and the taps of {name!r} differ in shape from those of "
                    f"{chosen[0]!r}: choose updates of one denoiser"
                )
        check_taps(settings, len(first))
        if settings.teacher == "next" and len({shape[1:] for shape in first}) > 1:
            raise ValueError("framer.teacher 'next' compares neighbors, whose shapes differ here: use last or middle")
        heads = init_heads(jax.random.fold_in(key, _KEY), first, teacher_index(settings, len(first)))
        return {**params, HEADS: heads}

    return replace(recipe, name=f"{recipe.name}+framer", init=init, updates=extended)


def add_framer(recipe: Recipe, config: Mapping[str, Any]) -> Recipe:
    """Apply FRAMER as a configuration's `framer` section says; the variant 'none' returns the recipe itself.

    Knobs that are None keep the value of the variant.

    Raises:
      ValueError: an unknown variant, or a value that a knob does not take.
    """
    settings = framer_settings(config)
    return recipe if settings is None else framer(recipe, settings)


def framer_settings(config: Mapping[str, Any]) -> FramerSettings | None:
    """The settings of a configuration's `framer` section, None for the variant 'none'; errors as of `add_framer`."""
    variant = config["variant"]
    if variant == NO_FRAMER:
        return None
    if variant not in VARIANTS:
        raise ValueError(
            f"unknown variant of FRAMER, framer.variant {variant!r}{nearest(variant, (NO_FRAMER, *VARIANTS))}"
        )
    return VARIANTS[variant](
        **{name: value for name, value in config.items() if name != "variant" and value is not None}
    )


def check_taps(settings: FramerSettings, taps: int) -> None:
    """Check FRAMER's settings against the number of taps that a network has.

    Raises:
      ValueError: there are too few taps, or the teacher is beyond the last one.
    """
    if settings.objective == "none":
        return
    if taps < 2:
        raise ValueError(f"framer.variant: FRAMER needs at least two taps, and the network has {taps}: make it deeper")
    if settings.teacher == "middle" and settings.teacher_layer is not None and settings.teacher_layer >= taps:
        raise ValueError(
            f"framer.teacher_layer is {settings.teacher_layer}: the network has {taps} taps, so it must be a whole "
            f"number from 0 to {taps - 1}, or None"
        )


def _extended(update: Update, settings: FramerSettings) -> Update:
    return replace(update, groups=(*update.groups, HEADS), loss=_extended_loss(update.loss, settings))


def _extended_loss(inner: LossFunction, settings: FramerSettings) -> LossFunction:
    """The loss with FRAMER's term, lambda and diagnostics."""

    def loss(params: Params, frozen: Frozen, state: State, batch: Batch, key: jax.Array, step: jax.Array) -> Loss:
        base = inner(params, frozen, state, batch, key, step)
        taps = apply_heads(params[HEADS], base.taps, teacher_index(settings, len(base.taps)))
        if settings.repeats_last:
            taps = (*taps, taps[-1])
        negatives = draw_negatives(jax.random.fold_in(key, _KEY), len(taps) - 1, settings)
        term = framer_loss(taps, negatives, settings)
        weight = weight_at(settings.weight_schedule, step)
        weighted = weight * term.values  # [B]
        metrics = dict(base.metrics)
        metrics["base_loss"] = base.values
        metrics["framer_term"] = weighted
        metrics["framer_ratio"] = weighted.mean() / jnp.maximum(base.values.mean(), jnp.float32(1e-12))
        for name, per_layer in term.diagnostics.items():  # each [N] or [N, B]
            for layer in range(per_layer.shape[0]):
                metrics[f"framer_{name}/{layer}"] = per_layer[layer]
        return base._replace(values=framer_total(base.values, term.values, weight), metrics=metrics)

    return loss


def _tap_shapes(recipe: Recipe, update: Update, params: Params, batch: Batch) -> tuple[tuple[int, ...], ...]:
    """Shapes of the taps of an update, without computing anything; earlier updates hand their outputs to it."""

    def taps(params: Params, frozen: Frozen, batch: Batch) -> tuple[jax.Array, ...]:
        for other in recipe.updates:
            loss = other.loss(params, frozen, recipe.init_state(), batch, jax.random.key(0), jnp.int32(0))
            if other.name == update.name:
                return loss.taps
            batch = with_outputs(batch, loss.outputs)
        raise AssertionError("the update is one of the recipe's")

    return tuple(tap.shape for tap in jax.eval_shape(taps, params, recipe.frozen, batch))


def init_heads(key: jax.Array, shapes: tuple[tuple[int, ...], ...], teacher: int) -> Params:
    """Heads for taps of the given [B, H, W, C] shapes: none if all agree, else one for every tap but the teacher."""
    if len({shape[1:] for shape in shapes}) == 1:
        return {}
    channels = shapes[teacher][-1]
    initialize = jax.nn.initializers.lecun_normal()
    return {
        f"head_{i}": {
            "kernel": initialize(jax.random.fold_in(key, i), (shape[-1], channels), jnp.float32),
            "bias": jnp.zeros((channels,), jnp.float32),
        }
        for i, shape in enumerate(shapes)
        if i != teacher
    }


def apply_heads(heads: Params, taps: tuple[jax.Array, ...], teacher: int) -> tuple[jax.Array, ...]:
    """Map every tap to the [B, H, W, C] of tap number `teacher` (float32); without heads the taps are unchanged."""
    if not heads:
        return taps
    shape = taps[teacher].shape
    mapped_taps = []
    for i, tap in enumerate(taps):
        if i == teacher:
            mapped_taps.append(tap.astype(jnp.float32))
            continue
        head = heads[f"head_{i}"]
        mapped = jnp.einsum("bhwc,cd->bhwd", tap.astype(jnp.float32), head["kernel"]) + head["bias"][None, None, None]
        if mapped.shape[1:3] != shape[1:3]:
            mapped = jax.image.resize(mapped, shape, "linear", antialias=False)
        mapped_taps.append(mapped)
    return tuple(mapped_taps)
