"""The training step of a configuration as shapes: nothing is read, and nothing is allocated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from framer_jax.checkpoints.open import READER, build_recipe
from framer_jax.commands.memory_plan.shape_reader import ShapeReader, placeholders
from framer_jax.data.latents import HR_LATENT, LR_LATENT
from framer_jax.knobs import settings_from
from framer_jax.recipes.base import Frozen, Recipe
from framer_jax.recipes.components.spaces import build_space
from framer_jax.recipes.components.text import text_sizes
from framer_jax.recipes.framer import add_framer
from framer_jax.recipes.method import CAPTIONED_PHOTOS, LATENTS, PHOTOS
from framer_jax.recipes.table import build_recipe as build_from_shapes
from framer_jax.recipes.table import method_of
from framer_jax.training.optimizer import make_optimizers
from framer_jax.training.settings import TrainingSettings, check_batch
from framer_jax.training.sharding import batch_sharding, make_mesh, tree_shardings
from framer_jax.training.state import TrainState, abstract_train_state
from framer_jax.training.step import Step, make_step

LATENT_SPACES = ("kl", "taesd", "taesd3")
"""Latent spaces in which latents can be precomputed."""

DESCRIBED_SPACES = ("wavelet", *LATENT_SPACES)
"""Latent spaces whose frozen weights have known shapes without a file."""


class AbstractStep(NamedTuple):
    """A training step and its arguments as shapes, dtypes and shardings."""

    step: Step
    state: TrainState
    frozen: Frozen
    batch: dict[str, jax.ShapeDtypeStruct]


def training_settings(config: dict[str, Any]) -> TrainingSettings:
    """The `training` section; ValueError for a knob or value that is not legal."""
    settings: TrainingSettings = settings_from(TrainingSettings, config["training"], "training")
    return settings


def abstract_step(config: dict[str, Any], devices: Sequence[jax.Device], update: str = "") -> AbstractStep:
    """The step of a plain configuration as `framer-jax train` makes it, on its mesh over the given devices.

    With the name of an update, the step has no other one, and it always runs.

    Raises:
      ConfigError, ValueError: the configuration cannot be used, or its batch does not split over the devices.
    """
    settings = training_settings(config)
    mesh = make_mesh(settings, devices)
    check_batch(settings, mesh.size)
    recipe = described_recipe(config)
    recipe = with_update(recipe, update) if update else recipe
    shapes = batch_shapes(config, recipe, settings.global_batch)
    optimizers = make_optimizers(recipe, settings)
    state = abstract_train_state(recipe, optimizers, settings, mesh, shapes)
    step = make_step(recipe, lambda batch: batch, optimizers, settings, mesh, state)
    frozen = _with_shardings(recipe.frozen, tree_shardings(recipe.frozen, mesh, settings))
    batch = _with_shardings(shapes, jax.tree.map(lambda leaf: batch_sharding(mesh), shapes))
    return AbstractStep(step, state, frozen, batch)


def described_recipe(config: dict[str, Any]) -> Recipe:
    """The recipe with FRAMER, built without weights: its frozen weights are shapes.

    Raises:
      ConfigError: the shapes of some frozen weights depend on a file.
    """
    section = config["recipe"]
    teachers = [file.knob for file in method_of(section).weight_files if file.role.startswith("teacher")]
    data = training_data(section)
    from_photos = _space(section) in LATENT_SPACES and data != LATENTS
    if teachers or from_photos or _space(section) not in DESCRIBED_SPACES:
        with placeholders(section) as described:
            recipe = build_from_shapes(described, ShapeReader(described), "training", data)
    else:
        recipe = build_recipe(section, "description", data)
    return add_framer(recipe, config["framer"])


def with_update(recipe: Recipe, name: str) -> Recipe:
    """The recipe with one update alone, due in every step.

    Raises:
      ValueError: it has no such update.
    """
    updates = {update.name: update for update in recipe.updates}
    if name not in updates:
        raise ValueError(f"--update: {recipe.name} has no update {name!r}: choose one of {', '.join(updates)}")
    return replace(recipe, updates=(replace(updates[name], every=1, offset=0, start=0, stop=None),))


def training_data(section: dict[str, Any]) -> str:
    """The kind of training data: latents where they can be precomputed and the method trains on them, else photos."""
    photos = CAPTIONED_PHOTOS if "text" in section and section["text"]["condition"] == "captions" else PHOTOS
    if _space(section) not in LATENT_SPACES:
        return photos
    try:
        method_of(section).batch_entries(section, LATENTS)
    except ValueError:
        return photos
    return LATENTS


def _space(section: dict[str, Any]) -> str:
    """Name of the latent space; methods without one need no other weights, as with wavelets."""
    return str(section["space"]["name"]) if "space" in section else "wavelet"


def batch_shapes(config: dict[str, Any], recipe: Recipe, count: int) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes of the entries of a batch of `count` examples."""
    crop, section = config["data"]["crop"], config["recipe"]
    shapes: dict[str, tuple[int, ...]] = {"hr": (crop, crop, 3), "lr": (crop // recipe.scale, crop // recipe.scale, 3)}
    if "space" in section:
        space = build_space(section, "description", READER)
        side = crop // space.image_pixels_per_latent
        shapes |= dict.fromkeys((HR_LATENT, LR_LATENT), (side, side, space.channels))
    if "text" in section:
        shapes |= text_sizes(section).shapes
    return {name: jax.ShapeDtypeStruct((count, *shapes[name]), jnp.float32) for name in recipe.batch_entries}


def _with_shardings(tree: Any, shardings: Any) -> Any:
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), tree, shardings
    )
