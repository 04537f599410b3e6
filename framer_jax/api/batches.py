"""Batches of a user's own training loop: what they must hold, checked before anything is compiled."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from framer_jax.api.arguments import check_float_leaves, described, is_float
from framer_jax.images.arrays import OVERSHOOT, check_range
from framer_jax.inference.model import Model
from framer_jax.recipes.base import PIXELS, Batch, Recipe
from framer_jax.training.settings import TrainingSettings, check_batch


def check_arguments(recipe: Any, settings: Any, batch: Any, prepare: Any, initial_params: Any) -> None:
    """Check the kinds of the arguments of framer_jax.make_step.

    Raises:
      TypeError: one of another kind; the message says what to give.
      ValueError: weights that are not floats.
    """
    if isinstance(recipe, Model):
        raise TypeError("recipe is a model: give model.recipe, and model.params as initial_params")
    if not isinstance(recipe, Recipe):
        raise TypeError(f"recipe is {described(recipe)}: give a framer_jax.recipes.base.Recipe, such as model.recipe")
    if not isinstance(settings, TrainingSettings):
        raise TypeError(f"settings is {described(settings)}: give framer_jax.training.settings.TrainingSettings(…)")
    if prepare is not None and not callable(prepare):
        raise TypeError(f"prepare is {described(prepare)}: give a function from a batch to a batch, or None")
    if isinstance(initial_params, Model):
        raise TypeError("initial_params is a model: give model.params")
    if initial_params is not None:
        if not isinstance(initial_params, Mapping):
            raise TypeError(f"initial_params is {described(initial_params)}: give groups by name, such as model.params")
        check_float_leaves(initial_params, "initial_params")
    describe_batch(batch)
    if prepare is None:
        for name in PIXELS:
            if name in batch and not (str(batch[name].dtype) == "uint8" or is_float(batch[name])):
                raise ValueError(f"batch entry {name!r} is {batch[name].dtype}: give uint8, or floats in [0, 1]")
            if name in batch:
                _check_range(name, batch[name])


def _check_range(name: str, images: Any) -> None:
    """Refuse floats of another range than [0, 1], such as [0, 255]; abstract arrays have no values to check."""
    if not is_float(images) or not hasattr(images, "__array__"):
        return
    try:
        check_range(np.asarray(images, np.float32), OVERSHOOT)
    except ValueError as error:
        raise ValueError(f"batch entry {name!r}: {error}; other ranges need a function `prepare`") from error


def describe_batch(batch: Any) -> dict[str, str]:
    """Entry → dtype and shape as text.

    Raises:
      TypeError: no mapping, or an entry that is no array of numbers.
    """
    if not isinstance(batch, Mapping):
        raise TypeError(f"batch is {described(batch)}: give arrays by name, such as {{'hr': …, 'lr': …}}")
    descriptions = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(dict(batch), is_leaf=lambda leaf: leaf is None):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        if not hasattr(leaf, "shape") or not hasattr(leaf, "dtype") or str(leaf.dtype).startswith(("object", "<U")):
            raise TypeError(f"batch entry {name!r} is {described(leaf)}: give a NumPy or JAX array")
        if str(leaf.dtype).startswith("complex"):
            raise TypeError(f"batch entry {name!r} holds {leaf.dtype}: give real numbers")
        descriptions[name] = f"{leaf.dtype}{list(leaf.shape)}"
    return descriptions


def check_same_batch(batch: Any, example: Mapping[str, str]) -> None:
    """Raise a ValueError if a batch lacks an entry of the example, or has it in another shape or dtype."""
    descriptions = describe_batch(batch)
    for name, expected in example.items():
        if (given := descriptions.get(name)) != expected:
            was = "is missing" if given is None else f"is {given}"
            raise ValueError(f"batch entry {name!r} {was}: the example of make_step had {expected}")


def to_float_images(batch: Batch) -> Batch:
    """A batch with its images in float32: uint8 is divided by 255, floats are cast."""

    def convert(name: str, leaf: Any) -> Any:
        if leaf.dtype == jnp.uint8:
            return leaf.astype(jnp.float32) / 255
        return leaf.astype(jnp.float32) if name in PIXELS else leaf

    return {name: jax.tree.map(lambda leaf, name=name: convert(name, leaf), value) for name, value in batch.items()}


def prepared_shapes(
    recipe: Recipe, settings: TrainingSettings, devices: int, batch: Batch, prepare: Callable[[Any], Batch]
) -> Any:
    """Shapes of the prepared global batch.

    Raises:
      ValueError: entries with another number of examples, missing entries, or images of other shapes than the recipe's.
    """
    check_batch(settings, devices, jax.process_count())
    count = settings.global_batch // jax.process_count()
    shapes = jax.eval_shape(lambda tree: tree, dict(batch))
    for path, leaf in jax.tree_util.tree_leaves_with_path(shapes):
        if leaf.shape[:1] != (count,):
            name = jax.tree_util.keystr(path, simple=True, separator="/")
            raise ValueError(f"batch entry {name!r} has shape {leaf.shape}: it must have {count} examples")
    whole = jax.tree.map(lambda leaf: leaf.update(shape=(settings.global_batch, *leaf.shape[1:])), shapes)
    prepared = jax.eval_shape(prepare, whole)
    if missing := [entry for entry in recipe.batch_entries if entry not in prepared]:
        raise ValueError(f"the batch has no {', '.join(missing)}, which recipe {recipe.name!r} needs: add it")
    _check_images(recipe, prepared)
    return prepared


def _check_images(recipe: Recipe, prepared: Mapping[str, Any]) -> None:
    """Raise a ValueError if 'hr' and 'lr' are not images [B, H, W, 3] whose sides differ by the scale."""
    images = {name: prepared[name].shape for name in PIXELS if name in recipe.batch_entries}
    for name, shape in images.items():
        if len(shape) != 4 or shape[3] != 3:
            hint = ", not [B, 3, H, W]" if len(shape) == 4 and shape[1] == 3 else ""
            raise ValueError(f"batch entry {name!r} has shape {shape}: give images [B, H, W, 3]{hint}")
    if len(images) == len(PIXELS):
        hr, lr = (images[name][1:3] for name in PIXELS)
        if hr != tuple(recipe.scale * side for side in lr):
            raise ValueError(
                f"batch entries 'hr' {images['hr']} and 'lr' {images['lr']}: the sides of 'hr' must be {recipe.scale} "
                "times those of 'lr'"
            )
