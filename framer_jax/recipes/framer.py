"""FRAMER as a function from recipe to recipe.

"FRAMER: Frequency-Aligned Self-Distillation with Adaptive Modulation" (CVPR 2026, arXiv 2512.01390). The recipe that
comes out has one more term in its loss and the *same* `sample`: inference is untouched by construction.
"""

from __future__ import annotations

from dataclasses import replace

import jax
import jax.numpy as jnp

from framer_jax.losses.framer import FramerSettings, draw_negatives, framer_loss, framer_total, teacher_index
from framer_jax.losses.weight_schedule import weight_at
from framer_jax.recipes.base import Batch, Frozen, Loss, LossFunction, Params, Recipe, State

HEADS = "framer_heads"
"""The parameter group of the training-only heads; no exported model has it."""

_KEY = 0xF4A3E5  # folded into the loss key, so that the base's own draws are those of the plain recipe


def framer(recipe: Recipe, settings: FramerSettings, update: str | None = None) -> Recipe:
    """Add FRAMER's term to one update of a recipe.

    Where the taps of a denoiser differ in shape (a U-Net's levels), every tap but the teacher gets a head, a 1x1
    convolution to the teacher's channels and a bilinear resize to its size, trained in the group 'framer_heads'. Where
    they agree (a transformer's blocks), taps are compared as they are.

    Args:
      recipe: any recipe whose loss gives back at least two taps.
      settings: framer_jax.losses.framer.paper() or released(), or changes of them.
      update: name of the update that trains the denoiser; the first one by default.

    Returns:
      The recipe with the longer loss. With objective 'none' it is the recipe itself.

    Raises:
      ValueError: no update of that name, a reading that needs other taps than the recipe's; at `init`, a recipe with
        fewer than two taps, or the teacher 'next' where taps differ in shape.
    """
    if settings.objective == "none":
        return recipe
    if settings.last_is_student and recipe.tap_kind != "prediction":
        raise ValueError(
            "framer: the released reading (last_is_student) compares the blocks' predictions; this recipe's taps are "
            f"{recipe.tap_kind}: use recipe.denoiser.name=dit with recipe.denoiser.dit.taps=prediction"
        )
    names = [item.name for item in recipe.updates]
    chosen = update or names[0]
    if chosen not in names:
        raise ValueError(f"recipe {recipe.name!r} has no update {chosen!r}: choose one of {', '.join(names)}")
    index = names.index(chosen)
    inner = recipe.updates[index]

    def init(key: jax.Array, batch: Batch) -> Params:
        params = recipe.init(key, batch)
        shapes = _tap_shapes(recipe, inner.loss, params, batch)
        if len(shapes) < 2:
            raise ValueError(f"FRAMER needs at least two taps; recipe {recipe.name!r} gives {len(shapes)}")
        if settings.teacher == "next" and len({shape[1:] for shape in shapes}) > 1:
            raise ValueError("framer.teacher 'next' compares neighbours, whose shapes differ here: use last or middle")
        return {
            **params,
            HEADS: init_heads(jax.random.fold_in(key, _KEY), shapes, teacher_index(settings, len(shapes))),
        }

    longer = replace(inner, groups=(*inner.groups, HEADS), loss=_longer_loss(inner.loss, settings))
    updates = (*recipe.updates[:index], longer, *recipe.updates[index + 1 :])
    return replace(recipe, name=f"{recipe.name}+framer", init=init, updates=updates)


def _longer_loss(inner: LossFunction, settings: FramerSettings) -> LossFunction:
    """The loss with FRAMER's term, lambda and diagnostics."""

    def loss(params: Params, frozen: Frozen, state: State, batch: Batch, key: jax.Array, step: jax.Array) -> Loss:
        base = inner(params, frozen, state, batch, key, step)
        taps = apply_heads(params[HEADS], base.taps, teacher_index(settings, len(base.taps)))
        if settings.last_is_student:
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


def _tap_shapes(recipe: Recipe, loss: LossFunction, params: Params, batch: Batch) -> tuple[tuple[int, ...], ...]:
    """Shapes of the taps, without computing anything."""

    def taps(params: Params, frozen: Frozen, batch: Batch) -> tuple[jax.Array, ...]:
        return loss(params, frozen, recipe.init_state(), batch, jax.random.key(0), jnp.int32(0)).taps

    return tuple(tap.shape for tap in jax.eval_shape(taps, params, recipe.frozen, batch))


def init_heads(key: jax.Array, shapes: tuple[tuple[int, ...], ...], teacher: int) -> Params:
    """Heads for taps of the given [B, H, W, C] shapes: none if all agree, else one for every tap but the teacher."""
    if len({shape[1:] for shape in shapes}) == 1:
        return {}
    channels = shapes[teacher][-1]
    initialise = jax.nn.initializers.lecun_normal()
    return {
        f"head_{i}": {
            "kernel": initialise(jax.random.fold_in(key, i), (shape[-1], channels), jnp.float32),
            "bias": jnp.zeros((channels,), jnp.float32),
        }
        for i, shape in enumerate(shapes)
        if i != teacher
    }


def apply_heads(heads: Params, taps: tuple[jax.Array, ...], teacher: int) -> tuple[jax.Array, ...]:
    """Map every tap to the [B, H, W, C] of tap number `teacher` (float32); without heads they come back as they are."""
    if not heads:
        return taps
    shape = taps[teacher].shape
    found = []
    for i, tap in enumerate(taps):
        if i == teacher:
            found.append(tap.astype(jnp.float32))
            continue
        head = heads[f"head_{i}"]
        mapped = jnp.einsum("bhwc,cd->bhwd", tap.astype(jnp.float32), head["kernel"]) + head["bias"][None, None, None]
        if mapped.shape[1:3] != shape[1:3]:
            mapped = jax.image.resize(mapped, shape, "linear", antialias=False)
        found.append(mapped)
    return tuple(found)
