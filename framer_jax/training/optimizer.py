"""Optimisers of a recipe's updates: an optax transform and a learning rate that is a function of the step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from framer_jax.recipes.base import Recipe
from framer_jax.training.settings import TrainingSettings

NO_DECAY = ("bias", "scale")
"""Names of parameters that are never decayed, whatever their rank (layers stacked by a scan have one more axis)."""


class Optimizer(NamedTuple):
    """How one update turns its gradient into a change of the parameters.

    Attributes:
      transform: gradient to direction, without the learning rate.
      learning_rate: int32 step (of the run, not of the update) to float32.
      clip_norm: largest global norm of the gradient, or None.
    """

    transform: optax.GradientTransformation
    learning_rate: Callable[[jax.Array], jax.Array]
    clip_norm: float | None


def make_optimizers(recipe: Recipe, settings: TrainingSettings) -> dict[str, Optimizer]:
    """One optimiser per update of the recipe, by name.

    Raises:
      ValueError: if two updates share a name, or `settings.updates` names one that the recipe lacks.
    """
    names = [update.name for update in recipe.updates]
    if len(set(names)) < len(names):
        raise ValueError(f"recipe {recipe.name!r} has two updates of one name: {', '.join(names)}")
    unknown = sorted(set(settings.updates) - set(names))
    if unknown:
        raise ValueError(f"training setting updates names {', '.join(unknown)}: recipe has {', '.join(names)}")
    return {name: make_optimizer(settings.for_update(name)) for name in names}


def make_optimizer(settings: TrainingSettings) -> Optimizer:
    """AdamW (Loshchilov and Hutter 2019, decay multiplied by the learning rate as optax has it)."""
    parts = [optax.scale_by_adam(b1=settings.b1, b2=settings.b2, eps=settings.epsilon)]
    if settings.weight_decay:
        parts.append(optax.add_decayed_weights(settings.weight_decay, mask=decay_mask))
    return Optimizer(_promoting(optax.chain(*parts)), learning_rate_schedule(settings), settings.clip_norm)


def _promoting(transform: optax.GradientTransformation) -> optax.GradientTransformation:
    """Optax's Adam raises a float to an int32 power, which strict promotion (our tests') forbids."""

    def update(gradient: Any, state: Any, params: Any = None) -> Any:
        with jax.numpy_dtype_promotion("standard"):
            return transform.update(gradient, state, params)

    return optax.GradientTransformation(transform.init, update)


def decay_mask(params: Any) -> Any:
    """True for the parameters that weight decay shrinks: two or more axes, and no bias or scale by name."""

    def decayed(path: tuple[Any, ...], leaf: jax.Array) -> bool:
        name = jax.tree_util.keystr(path[-1:], simple=True)
        return leaf.ndim > 1 and name not in NO_DECAY

    return jax.tree_util.tree_map_with_path(decayed, params)


def learning_rate_schedule(settings: TrainingSettings) -> Callable[[jax.Array], jax.Array]:
    """Linear warm-up, then constant or half a cosine down to the final rate at `settings.steps`."""
    peak, final, warmup = settings.learning_rate, settings.final_learning_rate, settings.warmup_steps

    def rate(step: jax.Array) -> jax.Array:
        made = jnp.asarray(step, jnp.float32)
        value = jnp.float32(peak)
        if settings.schedule == "cosine":
            progress = jnp.clip((made - warmup) / max(settings.steps - warmup, 1), 0.0, 1.0)
            value = final + (peak - final) * 0.5 * (1.0 + jnp.cos(jnp.pi * progress))
        return value * jnp.minimum((made + 1.0) / warmup, 1.0) if warmup else value

    return rate


def clip_by_norm(gradient: Any, norm: jax.Array, largest: float | None) -> Any:
    """Scale a gradient of global norm `norm` down to `largest`; unchanged if it is smaller or `largest` is None."""
    if largest is None:
        return gradient
    factor = largest / jnp.maximum(norm, largest)
    return jax.tree.map(lambda leaf: leaf * factor, gradient)
