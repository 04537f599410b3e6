"""One training step as one program: prepare, each update in order, EMA."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from clu.metrics import Average
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from framer_jax.recipes.base import Batch, Frozen, Params, Recipe, State, Update
from framer_jax.training.optimizer import Optimizer, clip_by_norm
from framer_jax.training.settings import TrainingSettings
from framer_jax.training.sharding import batch_sharding, examples_stay, tree_shardings
from framer_jax.training.state import LOSS, TrainState, trained

Prepare = Callable[[Any], Batch]
"""Batch as loaded → batch in the losses' form; in the step, record by record (records bring their randomness)."""


class StepMetrics(NamedTuple):
    """What a step reports; stays on the device until the log is written.

    Attributes:
      averages: metric name to a clu Average, with count 0 for updates that did not run in this step. Names are
        prefixed by 'update/' if the recipe has several updates.
      losses: update name to its loss in this step (0 where it did not run).
      finite: bool scalar, false if a loss, a gradient, a parameter or the carry is NaN or infinite.
    """

    averages: dict[str, Average]
    losses: dict[str, jax.Array]
    finite: jax.Array


class _Result(NamedTuple):
    params: Params
    opt_state: Any
    carry: State
    loss: jax.Array
    grad_norm: jax.Array
    metrics: dict[str, jax.Array]
    outputs: dict[str, jax.Array]


Step = Callable[[TrainState, Frozen, Any], tuple[TrainState, StepMetrics]]


def make_step(
    recipe: Recipe,
    prepare: Prepare,
    optimizers: Mapping[str, Optimizer],
    settings: TrainingSettings,
    mesh: Mesh,
    like: TrainState,
) -> Step:
    """The jitted step (state, frozen, batch) → (state, metrics); `state` is donated; of `like` only shapes matter.

    `prepare` runs once, each device on its own records. Each update of the recipe that is due takes the gradient of
    the mean of its loss values over the global batch with respect to its own groups, clips it by its global norm and
    applies it; later updates see the changed parameters, and what a loss hands on to them. With `settings.accumulate`
    > 1 the gradient is the mean over microbatches taken one after the other (example i belongs to microbatch i %
    accumulate), carry threaded through them; in-batch negatives are then drawn within a microbatch. The EMA moves once
    per step.
    """
    # A degradation has FFTs, for which the partitioner would gather the whole batch on every device.
    spec = batch_sharding(mesh).spec
    record_by_record = jax.shard_map(prepare, mesh=mesh, in_specs=spec, out_specs=spec)

    def step(state: TrainState, frozen: Frozen, batch: Any) -> tuple[TrainState, StepMetrics]:
        ready = record_by_record(batch)
        params, opt_state, carry = dict(state.params), dict(state.opt_state), state.carry
        averages: dict[str, Average] = {}
        losses: dict[str, jax.Array] = {}
        finite = jnp.bool_(True)
        for index, update in enumerate(recipe.updates):
            optimizer = optimizers[update.name]
            due = _is_due(update, state.step)
            key = jax.random.fold_in(jax.random.fold_in(jax.random.fold_in(state.key, LOSS), state.step), index)
            rate = optimizer.learning_rate(state.step)
            run = _make_update(update, optimizer, rate, frozen, ready, key, state.step, settings.accumulate, mesh)
            result = _run_if(due, run, params, opt_state[update.name], carry)
            if result.outputs and due is not None:
                raise ValueError(
                    f"update {update.name!r} hands {', '.join(result.outputs)} on: let it run in every step"
                )
            ready = {**ready, **result.outputs}
            params.update(result.params)
            opt_state[update.name], carry = result.opt_state, result.carry
            losses[update.name] = result.loss
            finite &= jnp.isfinite(result.loss) & jnp.isfinite(result.grad_norm)
            prefix = f"{update.name}/" if len(recipe.updates) > 1 else ""
            found = {"loss": result.loss, **result.metrics, "grad_norm": result.grad_norm, "learning_rate": rate}
            averages.update({prefix + name: _average(value, due) for name, value in found.items()})
        for leaf in jax.tree.leaves(carry):
            if jnp.issubdtype(leaf.dtype, jnp.floating):
                finite &= jnp.all(jnp.isfinite(leaf))
        param_norm = optax.tree.norm(params)
        averages["param_norm"] = _average(param_norm, None)
        ema = _moved_average(state.ema, params, state.step, settings.ema_decay)
        new = TrainState(state.step + 1, params, opt_state, ema, carry, state.key)
        return new, StepMetrics(averages, losses, finite & jnp.isfinite(param_norm))

    # Stated, because inferred shardings of the first output may differ from the input's: a second compilation.
    shardings = tree_shardings(like, mesh, settings), NamedSharding(mesh, PartitionSpec())
    return jax.jit(step, donate_argnums=0, out_shardings=shardings)


def _is_due(update: Update, step: jax.Array) -> jax.Array | None:
    """Whether the update runs in this step; None = always."""
    if update.every == 1 and update.start <= 0:
        return None
    return (step >= update.start) & ((step - update.offset) % update.every == 0)


def _run_if(
    due: jax.Array | None, run: Callable[..., _Result], params: Params, opt_state: Any, carry: State
) -> _Result:
    if due is None:
        return run(params, opt_state, carry)
    shapes = jax.eval_shape(run, params, opt_state, carry)
    groups = tuple(shapes.params)

    def skip(params: Params, opt_state: Any, carry: State) -> _Result:
        zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
        return zeros._replace(params=trained(params, groups), opt_state=opt_state, carry=carry)

    return jax.lax.cond(due, run, skip, params, opt_state, carry)


def _make_update(
    update: Update,
    optimizer: Optimizer,
    rate: jax.Array,
    frozen: Frozen,
    batch: Batch,
    key: jax.Array,
    step: jax.Array,
    accumulate: int,
    mesh: Mesh,
) -> Callable[[Params, Any, State], _Result]:
    """(params, opt_state, carry) → result of one update on the prepared batch."""

    def objective(own: Params, params: Params, carry: State, part: Batch, key: jax.Array) -> tuple[jax.Array, Any]:
        # Only `own` is differentiated: the other groups get no gradient by construction.
        with examples_stay(mesh):
            loss = update.loss({**params, **own}, frozen, carry, part, key, step)
        examples = jax.tree.leaves(part)[0].shape[0]
        if loss.values.shape != (examples,):
            raise ValueError(
                f"loss of update {update.name!r} gives values of shape {loss.values.shape}: "
                f"it must give one per example, ({examples},)"
            )
        outputs = jax.lax.stop_gradient(dict(loss.outputs or {}))
        return jnp.mean(loss.values.astype(jnp.float32)), (loss.metrics, loss.state, outputs)

    gradient_of = jax.value_and_grad(objective, has_aux=True)

    def run(params: Params, opt_state: Any, carry: State) -> _Result:
        own = trained(params, update.groups)
        if accumulate == 1:
            (loss, (metrics, carry, outputs)), gradient = gradient_of(own, params, carry, batch, key)
        else:
            loss, (metrics, carry, outputs), gradient = _accumulated(
                gradient_of, own, params, carry, batch, key, accumulate, mesh
            )
        norm = optax.tree.norm(gradient)
        gradient = clip_by_norm(gradient, norm, optimizer.clip_norm)
        change, opt_state = optimizer.transform.update(gradient, opt_state, own)
        own = jax.tree.map(lambda leaf, delta: leaf - rate * delta, own, change)
        return _Result(own, opt_state, carry, loss, norm, metrics, outputs)

    return run


def _accumulated(
    gradient_of: Callable[..., Any],
    own: Params,
    params: Params,
    carry: State,
    batch: Batch,
    key: jax.Array,
    count: int,
    mesh: Mesh,
) -> tuple[jax.Array, tuple[dict[str, jax.Array], State, dict[str, jax.Array]], Params]:
    """Mean loss and gradient over `count` microbatches, one after the other."""

    def split(leaf: jax.Array) -> jax.Array:  # [B, ...] → [count, B / count, ...], each device keeping its examples
        parts = leaf.reshape(leaf.shape[0] // count, count, *leaf.shape[1:]).swapaxes(0, 1)
        return jax.lax.with_sharding_constraint(parts, batch_sharding(mesh, leading=1))

    def joined(parts: jax.Array) -> jax.Array:  # the inverse
        leaf = parts.swapaxes(0, 1).reshape(-1, *parts.shape[2:])
        return jax.lax.with_sharding_constraint(leaf, batch_sharding(mesh))

    def one(state: tuple[Params, State], part: tuple[jax.Array, Batch]) -> Any:
        total, carry = state
        index, microbatch = part
        (loss, (metrics, carry, outputs)), gradient = gradient_of(
            own, params, carry, microbatch, jax.random.fold_in(key, index)
        )
        return (jax.tree.map(jnp.add, total, gradient), carry), (loss, metrics, outputs)

    start = (jax.tree.map(jnp.zeros_like, own), carry)
    parts = jnp.arange(count), jax.tree.map(split, dict(batch))
    (total, carry), (losses, metrics, outputs) = jax.lax.scan(one, start, parts)
    gradient = jax.tree.map(lambda leaf: leaf / count, total)
    return jnp.mean(losses), (metrics, carry, jax.tree.map(joined, outputs)), gradient


def _average(values: jax.Array, due: jax.Array | None) -> Average:
    """All of `values` (any shape) as one average that can be merged; empty where the update was not due."""
    count = jnp.int32(values.size) if due is None else jnp.where(due, jnp.int32(values.size), jnp.int32(0))
    total = jnp.sum(values.astype(jnp.float32))
    return Average(total=total if due is None else jnp.where(due, total, jnp.float32(0)), count=count)


@jax.jit
def merge_averages(first: dict[str, Average], second: dict[str, Average]) -> dict[str, Average]:
    """Averages over the examples of both."""
    return {name: average.merge(second[name]) for name, average in first.items()}


def _moved_average(ema: Params, params: Params, step: jax.Array, decay: float) -> Params:
    """ema·d + params·(1 - d) with d = min(decay, (1 + n) / (10 + n)) after n steps."""
    if not decay:
        return {}
    made = step.astype(jnp.float32)
    keep = jnp.minimum(jnp.float32(decay), (1.0 + made) / (10.0 + made))
    return jax.tree.map(lambda old, new: old * keep + new * (1.0 - keep), ema, params)
