"""The state of a training run, which its checkpoints hold."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from framer_jax.recipes.base import Frozen, Params, Recipe, State, with_outputs
from framer_jax.recipes.tracing import leaves_read
from framer_jax.training.optimizer import Optimizer
from framer_jax.training.settings import TrainingSettings
from framer_jax.training.sharding import leaf_name, place_tree, tree_shardings
from framer_jax.trees import check_same_descriptions

INIT, LOSS, TEACHER = 0, 2, 3
"""Purposes of random numbers, folded into the root key before anything else."""


@flax.struct.dataclass
class TrainState:
    """Everything that a training step changes, as one pytree.

    Attributes:
      step: number of steps made, int32 scalar.
      params: group name to a tree of float32 arrays (the master weights).
      opt_state: update name to its optax state.
      ema: moving average of the groups that the recipe exports; {} without EMA.
      mutable: the recipe's mutable state, which changes without a gradient.
      key: the root key, which never changes; purpose, step, update and microbatch are folded in.
    """

    step: jax.Array
    params: Params
    opt_state: dict[str, Any]
    ema: Params
    mutable: State
    key: jax.Array

    def __repr__(self) -> str:
        """The step and the size, also while a program is traced, and after the state was donated to the next step."""
        is_value = isinstance(self.step, jax.Array) and not isinstance(self.step, jax.core.Tracer)
        step = str(int(self.step)) if is_value and not self.step.is_deleted() else "unknown"
        sizes = [math.prod(leaf.shape) for leaf in jax.tree.leaves(self.params) if hasattr(leaf, "shape")]
        return f"<TrainState at step {step}, {sum(sizes):,} parameters>"


def inference_params(state: TrainState, exported: Iterable[str]) -> Params:
    """The exported groups (`Recipe.exported`): their moving average if there is one, else the parameters."""
    return state.ema or select_groups(state.params, exported)


def select_groups(params: Params, groups: Iterable[str]) -> Params:
    """The parameters of some groups."""
    return {group: params[group] for group in groups}


def init_train_state(
    recipe: Recipe,
    optimizers: Mapping[str, Optimizer],
    settings: TrainingSettings,
    mesh: Mesh,
    batch_shapes: Any,
    initial_params: Params | None = None,
) -> TrainState:
    """The state before step 0, computed under jit directly in its shards.

    Args:
      recipe: provides the parameters and the mutable state.
      optimizers: by update name (`make_optimizers`).
      settings: seed, EMA and sharding rules.
      mesh: from `make_mesh`.
      batch_shapes: shapes of the prepared batch (`jax.eval_shape` of `prepare`).
      initial_params: groups that start from these weights instead of those of `recipe.init`.

    Raises:
      ValueError: `initial_params` has groups or shapes that the recipe does not have, or an update trains or the
        recipe exports an unknown group.
    """
    build = _state_builder(recipe, optimizers, settings, batch_shapes)
    shapes = _state_shapes(build, recipe)
    if initial_params:
        expected = {name: shapes.params[name] for name in initial_params if name in shapes.params}
        check_same_descriptions(describe_leaves(initial_params), describe_leaves(expected), "initial weights")
    placed = place_tree(initial_params or {}, mesh, settings)
    return jax.jit(build, out_shardings=tree_shardings(shapes, mesh, settings))(placed)


def abstract_train_state(
    recipe: Recipe, optimizers: Mapping[str, Optimizer], settings: TrainingSettings, mesh: Mesh, batch_shapes: Any
) -> TrainState:
    """Shapes, dtypes and shardings of the state, for restoring it; arguments as in `init_train_state`."""
    shapes = _state_shapes(_state_builder(recipe, optimizers, settings, batch_shapes), recipe)
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        shapes,
        tree_shardings(shapes, mesh, settings),
    )


def place_frozen(
    recipe: Recipe, settings: TrainingSettings, mesh: Mesh, batch_shapes: Any, abstract: TrainState
) -> Frozen:
    """The recipe's frozen weights: on the mesh if a loss reads them, else still on the host.

    With precomputed latents or teacher outputs, no loss reads the autoencoder or the teacher. jit does not transfer
    arguments that its program does not use, so these take no device memory until validation needs them.

    Args:
      recipe: its frozen weights are host arrays.
      settings: sharding rules.
      mesh: from `make_mesh`.
      batch_shapes: shapes of the prepared batch.
      abstract: the training state; only its shapes matter.
    """
    if not recipe.frozen:
        return {}

    def losses(params: Params, frozen: Frozen, mutable: State, batch: Any, key: jax.Array, step: jax.Array) -> Any:
        results = []
        for update in recipe.updates:
            loss = update.loss(params, frozen, mutable, batch, key, step)
            batch = with_outputs(batch, loss.outputs)
            results.append((loss.values, loss.metrics, loss.state))
        return results

    arguments = (abstract.params, recipe.frozen, abstract.mutable, batch_shapes, abstract.key, abstract.step)
    is_read = leaves_read(losses, *arguments)[1]
    to_place = jax.tree.map(lambda leaf, used: leaf if used else None, recipe.frozen, is_read)
    placed = place_tree(to_place, mesh, settings)
    frozen: Frozen = jax.tree.map(
        lambda leaf, host: host if leaf is None else leaf, placed, recipe.frozen, is_leaf=lambda leaf: leaf is None
    )
    return frozen


def _state_builder(
    recipe: Recipe, optimizers: Mapping[str, Optimizer], settings: TrainingSettings, batch_shapes: Any
) -> Callable[[Params], TrainState]:
    def build(initial_params: Params) -> TrainState:
        key = jax.random.key(settings.seed)
        batch = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), batch_shapes)
        params = {**recipe.init(jax.random.fold_in(key, INIT), batch), **initial_params}
        params = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), params)

        def existing(groups: Iterable[str]) -> Params:  # _state_shapes refuses groups that do not exist
            return select_groups(params, (group for group in groups if group in params))

        return TrainState(
            step=jnp.int32(0),
            params=params,
            opt_state={
                update.name: optimizers[update.name].transform.init(existing(update.groups))
                for update in recipe.updates
            },
            ema=jax.tree.map(jnp.copy, existing(recipe.exported)) if settings.ema_decay else {},
            mutable=recipe.init_state(),
            key=key,
        )

    return build


def _state_shapes(build: Callable[[Params], TrainState], recipe: Recipe) -> TrainState:
    """Shapes of the state; refuses unknown groups here, because JAX would add lines to an error raised in tracing."""
    shapes = jax.eval_shape(build, {})
    known = ", ".join(shapes.params)
    for update in recipe.updates:
        if missing := sorted(set(update.groups) - set(shapes.params)):
            raise ValueError(f"update {update.name!r} trains {', '.join(missing)}: the groups are {known}")
    if missing := sorted(set(recipe.exported) - set(shapes.params)):
        raise ValueError(f"recipe {recipe.name!r} exports {', '.join(missing)}: the groups are {known}")
    return shapes


def describe_leaves(tree: Any) -> dict[str, str]:
    """Leaf name to a description such as 'float32[3, 3, 64]'."""
    return {
        leaf_name(path): f"{leaf.dtype}{list(leaf.shape)}" for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }
