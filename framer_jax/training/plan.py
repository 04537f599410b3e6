"""What follows from the arguments of a run before anything is written or computed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from framer_jax.recipes.base import Recipe
from framer_jax.training.data_position import DataIterator
from framer_jax.training.optimizer import Optimizer, make_optimizers
from framer_jax.training.settings import TrainingSettings, check_batch
from framer_jax.training.sharding import check_rules, make_mesh
from framer_jax.training.state import TrainState, abstract_train_state
from framer_jax.training.step import Prepare


class Plan(NamedTuple):
    """What follows from the arguments of `train` without any computation."""

    mesh: Mesh
    optimizers: dict[str, Optimizer]
    first_batch: Any  # already taken from the iterator
    batch_shapes: Any
    abstract: TrainState


def make_plan(recipe: Recipe, batches: DataIterator, prepare: Prepare, settings: TrainingSettings) -> Plan:
    """Refuse arguments that do not fit together before anything is written or computed."""
    mesh = make_mesh(settings)
    check_batch(settings, mesh.size, jax.process_count())
    optimizers = make_optimizers(recipe, settings)
    first_batch = next(batches, None)
    batch_shapes = _prepared_shapes(first_batch, prepare, settings)
    _check_batch_entries(recipe, batch_shapes)
    abstract = abstract_train_state(recipe, optimizers, settings, mesh, batch_shapes)
    check_rules(abstract.params, settings)
    return Plan(mesh, optimizers, first_batch, batch_shapes, abstract)


def _prepared_shapes(first_batch: Any, prepare: Prepare, settings: TrainingSettings) -> Any:
    """Shapes of the prepared global batch, from the first loaded batch."""
    if first_batch is None:
        raise ValueError("the data gives no batch: are there fewer records than the batch size?")
    expected = settings.global_batch // jax.process_count()
    sizes = {np.shape(leaf)[:1] for leaf in jax.tree.leaves(first_batch)}
    if sizes != {(expected,)}:
        actual = ", ".join(str(size[0]) if size else "a scalar" for size in sorted(sizes))
        raise ValueError(
            f"batches hold {actual} examples per host: training.global_batch {settings.global_batch} needs {expected}"
        )
    shapes = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct((settings.global_batch, *np.shape(leaf)[1:]), np.asarray(leaf).dtype),
        first_batch,
    )
    return jax.eval_shape(prepare, shapes)


def _check_batch_entries(recipe: Recipe, batch_shapes: Mapping[str, Any]) -> None:
    missing = [name for name in recipe.batch_entries if name not in batch_shapes]
    if missing:
        raise ValueError(
            f"batches lack {', '.join(missing)}, which the recipe {recipe.name!r} needs (they have "
            f"{', '.join(batch_shapes)}): train on data with these entries"
        )
