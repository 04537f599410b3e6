"""What a training run carries from step to step; all of it is in the checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from framer_jax.recipes.base import Frozen, Params, Recipe, State
from framer_jax.recipes.tracing import leaves_read
from framer_jax.training.optimizer import Optimizer
from framer_jax.training.settings import TrainingSettings
from framer_jax.training.sharding import leaf_name, place_tree, tree_shardings

INIT, LOSS, TEACHER = 0, 2, 3
"""Purposes, folded into the root key before anything else."""


@flax.struct.dataclass
class TrainState:
    """One pytree.

    Attributes:
      step: int32 scalar, steps made.
      params: group name to a tree of float32 arrays (the master weights).
      opt_state: update name to its optax state.
      ema: like `params`, or an empty dict if there is no EMA.
      carry: the recipe's, changed without a gradient.
      key: the root key, never advanced; purpose, step, update and microbatch are folded in.
    """

    step: jax.Array
    params: Params
    opt_state: dict[str, Any]
    ema: Params
    carry: State
    key: jax.Array


def inference_params(state: TrainState) -> Params:
    """The EMA if there is one, else the parameters."""
    return state.ema or state.params


def trained(params: Params, groups: tuple[str, ...]) -> Params:
    """The sub-dict of an update's groups."""
    return {group: params[group] for group in groups}


def init_state(
    recipe: Recipe,
    optimizers: Mapping[str, Optimizer],
    settings: TrainingSettings,
    mesh: Mesh,
    prepared: Any,
    initial: Params | None = None,
) -> TrainState:
    """The state before step 0, made under jit directly in its shards.

    Args:
      recipe: gives the parameters and the carry.
      optimizers: by update name (make_optimizers).
      settings: seed, EMA and sharding rules.
      mesh: of make_mesh.
      prepared: shapes of the batch that losses see (jax.eval_shape of `prepare`).
      initial: groups that start from these weights instead of the recipe's own.

    Raises:
      ValueError: if `initial` has groups or shapes that the recipe has not, or an update trains an unknown group.
    """
    build = _builder(recipe, optimizers, settings, prepared)
    shapes = _shapes(build, recipe)
    if initial:
        check_same(initial, {name: shapes.params[name] for name in initial if name in shapes.params}, "initial weights")
    placed = place_tree(initial or {}, mesh, settings)
    return jax.jit(build, out_shardings=tree_shardings(shapes, mesh, settings))(placed)


def abstract_state(
    recipe: Recipe, optimizers: Mapping[str, Optimizer], settings: TrainingSettings, mesh: Mesh, prepared: Any
) -> TrainState:
    """Shapes, dtypes and shardings of the state, for a restore; arguments as in init_state."""
    shapes = _shapes(_builder(recipe, optimizers, settings, prepared), recipe)
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        shapes,
        tree_shardings(shapes, mesh, settings),
    )


def place_frozen(recipe: Recipe, settings: TrainingSettings, mesh: Mesh, prepared: Any, like: TrainState) -> Frozen:
    """The recipe's frozen weights, those that a loss reads on the mesh, the others still on the host.

    On precomputed latents or pictures no loss reads the autoencoder or the teacher. jit does not move what its program
    does not use, so that these cost no device any memory until validation asks for them.

    Args:
      recipe: with host arrays.
      settings: sharding rules.
      mesh: of make_mesh.
      prepared: shapes of the batch that losses see.
      like: of which only shapes matter.
    """
    if not recipe.frozen:
        return {}

    def results(params: Params, frozen: Frozen, carry: State, batch: Any, key: jax.Array, step: jax.Array) -> Any:
        found = []
        for update in recipe.updates:
            loss = update.loss(params, frozen, carry, batch, key, step)
            batch = {**batch, **(loss.outputs or {})}
            found.append((loss.values, loss.metrics, loss.state))
        return found

    arguments = (like.params, recipe.frozen, like.carry, prepared, like.key, like.step)
    read = leaves_read(results, *arguments)[1]
    chosen = jax.tree.map(lambda leaf, used: leaf if used else None, recipe.frozen, read)
    placed = place_tree(chosen, mesh, settings)
    return jax.tree.map(  # type: ignore[no-any-return]
        lambda leaf, host: host if leaf is None else leaf, placed, recipe.frozen, is_leaf=lambda leaf: leaf is None
    )


def _builder(
    recipe: Recipe, optimizers: Mapping[str, Optimizer], settings: TrainingSettings, prepared: Any
) -> Callable[[Params], TrainState]:
    def build(initial: Params) -> TrainState:
        key = jax.random.key(settings.seed)
        batch = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), prepared)
        params = {**recipe.init(jax.random.fold_in(key, INIT), batch), **initial}
        params = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), params)
        return TrainState(
            step=jnp.int32(0),
            params=params,
            opt_state={
                update.name: optimizers[update.name].transform.init(
                    {group: params[group] for group in update.groups if group in params}
                )
                for update in recipe.updates
            },
            ema=jax.tree.map(jnp.copy, params) if settings.ema_decay else {},
            carry=recipe.init_state(),
            key=key,
        )

    return build


def _shapes(build: Callable[[Params], TrainState], recipe: Recipe) -> TrainState:
    shapes = jax.eval_shape(build, {})
    for update in recipe.updates:  # here and not while tracing, where JAX would append lines of its own to the error
        missing = sorted(set(update.groups) - set(shapes.params))
        if missing:
            groups = ", ".join(shapes.params)
            raise ValueError(f"update {update.name!r} trains {', '.join(missing)}: groups are {groups}")
    return shapes


def describe(tree: Any) -> dict[str, str]:
    """Leaf name to 'float32[3, 3, 64]'."""
    return {
        leaf_name(path): f"{leaf.dtype}{list(leaf.shape)}" for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


def check_same(have: Any, want: Any, what: str) -> None:
    """Compare two trees (or their descriptions) leaf by leaf.

    Raises:
      ValueError: one line with up to five differing names: missing, unexpected, or of another shape or dtype.
    """
    have, want = _described(have), _described(want)
    differing = [f"{name} missing" for name in want if name not in have]
    differing += [f"{name} unexpected" for name in have if name not in want]
    differing += [f"{name} {have[name]} not {want[name]}" for name in want if name in have and have[name] != want[name]]
    if differing:
        more = f" and {len(differing) - 5} more" if len(differing) > 5 else ""
        raise ValueError(f"{what} do not fit this model: {'; '.join(differing[:5])}{more}")


def _described(tree: Any) -> dict[str, str]:
    flat = isinstance(tree, dict) and bool(tree) and all(isinstance(value, str) for value in tree.values())
    return tree if flat else describe(tree)
