"""Optimisers of a recipe's updates: an optax transform and a learning rate that depends on the step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from framer_jax.recipes.base import Recipe
from framer_jax.training.settings import TrainingSettings

NO_DECAY = ("bias", "scale")
"""Names of parameters without weight decay, whatever their rank (layers stacked by a scan have one more axis)."""


class Optimizer(NamedTuple):
    """How one update turns its gradient into a change of the parameters.

    Attributes:
      transform: gradient → direction, without the learning rate.
      learning_rate: int32 step (of the run, not of the update) → float32.
      clip_norm: maximum global norm of the gradient; None: no clipping.
    """

    transform: optax.GradientTransformation
    learning_rate: Callable[[jax.Array], jax.Array]
    clip_norm: float | None


def make_optimizers(recipe: Recipe, settings: TrainingSettings) -> dict[str, Optimizer]:
    """One optimiser for each update of the recipe, by the update's name.

    Raises:
      ValueError: two updates have the same name, or `settings.updates` names one that the recipe does not have.
    """
    names = [update.name for update in recipe.updates]
    if len(set(names)) < len(names):
        raise ValueError(f"recipe {recipe.name!r} has two updates of the same name: {', '.join(names)}")
    unknown = sorted(set(settings.updates) - set(names))
    if unknown:
        raise ValueError(
            f"training.updates names {', '.join(unknown)}: recipe {recipe.name!r} has the updates {', '.join(names)}"
        )
    return {name: make_optimizer(settings.for_update(name)) for name in names}


def make_optimizer(settings: TrainingSettings) -> Optimizer:
    """AdamW (Loshchilov and Hutter 2019); the decay is multiplied by the learning rate, as in optax."""
    parts = [
        optax.scale_by_adam(b1=settings.b1, b2=settings.b2, eps=settings.epsilon, mu_dtype=settings.first_moment_dtype)
    ]
    if settings.weight_decay:
        parts.append(optax.add_decayed_weights(settings.weight_decay, mask=decay_mask))
    transform = _with_standard_promotion(optax.chain(*parts))
    return Optimizer(transform, learning_rate_schedule(settings), settings.clip_norm)


def _with_standard_promotion(transform: optax.GradientTransformation) -> optax.GradientTransformation:
    """Allow optax's Adam to raise a float to an int32 power, which strict type promotion (in our tests) forbids."""

    def update(gradient: Any, state: Any, params: Any = None) -> Any:
        with jax.numpy_dtype_promotion("standard"):
            return transform.update(gradient, state, params)

    return optax.GradientTransformation(transform.init, update)


def decay_mask(params: Any) -> Any:
    """True for the parameters that weight decay applies to: at least two axes, and not named as a bias or scale."""

    def is_decayed(path: tuple[Any, ...], leaf: jax.Array) -> bool:
        name = jax.tree_util.keystr(path[-1:], simple=True)
        return leaf.ndim > 1 and name not in NO_DECAY

    return jax.tree_util.tree_map_with_path(is_decayed, params)


def learning_rate_schedule(settings: TrainingSettings) -> Callable[[jax.Array], jax.Array]:
    """Linear warm-up, then a constant rate, half a cosine down to the final rate at `settings.steps`, or a staircase.

    The staircase counts from step 0, and the cosine from the end of the warm-up.
    """
    peak, final, warmup = settings.learning_rate, settings.final_learning_rate, settings.warmup_steps

    def learning_rate(step: jax.Array) -> jax.Array:
        position = jnp.asarray(step, jnp.float32)
        rate = jnp.float32(peak)
        if settings.schedule == "cosine":
            progress = jnp.clip((position - warmup) / max(settings.steps - warmup, 1), 0.0, 1.0)
            rate = final + (peak - final) * 0.5 * (1.0 + jnp.cos(jnp.pi * progress))
        if settings.schedule == "staircase":
            stairs = jnp.asarray(step, jnp.int32) // settings.decay_every
            rate = peak * jnp.float32(settings.decay_factor) ** stairs.astype(jnp.float32)
        return rate * jnp.minimum((position + 1.0) / warmup, 1.0) if warmup else rate

    return learning_rate


def clip_by_norm(gradient: Any, norm: jax.Array, max_norm: float | None) -> Any:
    """Scale a gradient whose global norm is `norm` down to `max_norm`; unchanged if smaller or `max_norm` is None."""
    if max_norm is None:
        return gradient
    factor = max_norm / jnp.maximum(norm, max_norm)
    return jax.tree.map(lambda leaf: leaf * factor, gradient)
