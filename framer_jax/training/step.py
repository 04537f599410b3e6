"""One training step as one program: prepare the batch, run the updates in order, move the EMA."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from clu.metrics import Average
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from framer_jax.recipes.base import Batch, Frozen, Params, Recipe, State, Update, with_outputs
from framer_jax.training.optimizer import Optimizer, clip_by_norm
from framer_jax.training.settings import TrainingSettings
from framer_jax.training.sharding import batch_sharding, constrain_batch_sharding, tree_shardings
from framer_jax.training.state import LOSS, TrainState, select_groups

Prepare = Callable[[Any], Batch]
"""Loaded batch → batch for the losses, computed within the step; the records bring their own randomness."""


class StepMetrics(NamedTuple):
    """The metrics of a step, which stay on the device until a log entry is written.

    Attributes:
      averages: metric name to a clu Average, with count 0 for updates that did not run in this step. Names start with
        'update/' if the recipe has several updates.
      losses: update name to its loss in this step (0 if it did not run).
      finite: bool scalar, false if a loss, a gradient, a parameter or the mutable state is NaN or infinite.
    """

    averages: dict[str, Average]
    losses: dict[str, jax.Array]
    finite: jax.Array


class _UpdateResult(NamedTuple):
    """What one update returns; `params` holds the groups that it trains."""

    params: Params
    opt_state: Any
    mutable: State
    loss: jax.Array
    grad_norm: jax.Array
    metrics: dict[str, jax.Array]
    outputs: dict[str, jax.Array]


_RunUpdate = Callable[[Params, Any, State], _UpdateResult]
"""(params, opt_state, mutable) → result."""

Step = Callable[[TrainState, Frozen, Any], tuple[TrainState, StepMetrics]]


def make_step(
    recipe: Recipe,
    prepare: Prepare,
    optimizers: Mapping[str, Optimizer],
    settings: TrainingSettings,
    mesh: Mesh,
    abstract: TrainState,
) -> Step:
    """The jitted step (state, frozen, batch) → (state, metrics), to which `state` is donated.

    `prepare` runs once, on each device for its own examples. Each update that is due takes the gradient of the mean of
    its loss values over the global batch with respect to its own groups, clips it by its global norm and applies it;
    later updates see the new parameters and the outputs of the loss. With more than one gradient accumulation step,
    the gradient is the mean over microbatches that are computed one after the other (example i belongs to microbatch
    i % gradient_accumulation_steps) and pass on the mutable state; in-batch negatives are then drawn within a
    microbatch. The EMA moves once per step.

    Of `abstract`, only shapes matter. Tracing the step raises ValueError if an update that does not run in every step
    has outputs.
    """
    # Degradations have FFTs, for which the partitioner would gather the whole batch on every device.
    spec = batch_sharding(mesh).spec
    prepare_locally = jax.shard_map(prepare, mesh=mesh, in_specs=spec, out_specs=spec)
    prefixes = {update.name: f"{update.name}/" if len(recipe.updates) > 1 else "" for update in recipe.updates}

    def step(state: TrainState, frozen: Frozen, batch: Any) -> tuple[TrainState, StepMetrics]:
        batch = prepare_locally(batch)
        params, opt_state, mutable = dict(state.params), dict(state.opt_state), state.mutable
        averages: dict[str, Average] = {}
        losses: dict[str, jax.Array] = {}
        finite = jnp.bool_(True)
        for index, update in enumerate(recipe.updates):
            optimizer = optimizers[update.name]
            due = _is_due(update, state.step)
            key = jax.random.fold_in(jax.random.fold_in(jax.random.fold_in(state.key, LOSS), state.step), index)
            rate = optimizer.learning_rate(state.step)
            run = _make_update(update, optimizer, rate, frozen, batch, key, state.step, settings, mesh)
            result = _run_if(due, run, params, opt_state[update.name], mutable)
            if result.outputs and due is not None:
                raise ValueError(
                    f"update {update.name!r} has outputs ({', '.join(result.outputs)}) but does not run in every step: "
                    "set its every, start and stop to 1, 0 and None"
                )
            batch = with_outputs(batch, result.outputs)
            params.update(result.params)
            opt_state[update.name], mutable = result.opt_state, result.mutable
            losses[update.name] = result.loss
            finite &= jnp.isfinite(result.loss) & jnp.isfinite(result.grad_norm)
            metrics = {"loss": result.loss, **result.metrics, "grad_norm": result.grad_norm, "learning_rate": rate}
            averages.update({prefixes[update.name] + name: _average(value, due) for name, value in metrics.items()})
        param_norm = optax.tree.norm(params)
        averages["param_norm"] = _average(param_norm, None)
        ema = _moved_ema(state.ema, params, state.step, settings.ema_decay)
        new_state = TrainState(state.step + 1, params, opt_state, ema, mutable, state.key)
        return new_state, StepMetrics(averages, losses, finite & jnp.isfinite(param_norm) & _all_finite(mutable))

    # Stated explicitly: inferred output shardings may differ from those of the input, which compiles a second time.
    shardings = tree_shardings(abstract, mesh, settings), NamedSharding(mesh, PartitionSpec())
    return jax.jit(step, donate_argnums=0, out_shardings=shardings)


def _is_due(update: Update, step: jax.Array) -> jax.Array | None:
    """Whether the update runs in this step; None if it runs in every step."""
    if update.every == 1 and update.start <= 0 and update.stop is None:
        return None
    due = (step >= update.start) & ((step - update.offset) % update.every == 0)
    return due if update.stop is None else due & (step < update.stop)


def _run_if(due: jax.Array | None, run: _RunUpdate, params: Params, opt_state: Any, mutable: State) -> _UpdateResult:
    """Run an update if it is due; else the state stays as it is and the numbers of the result are 0."""
    if due is None:
        return run(params, opt_state, mutable)
    shapes = jax.eval_shape(run, params, opt_state, mutable)
    groups = tuple(shapes.params)

    def skip(params: Params, opt_state: Any, mutable: State) -> _UpdateResult:
        zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
        return zeros._replace(params=select_groups(params, groups), opt_state=opt_state, mutable=mutable)

    return jax.lax.cond(due, run, skip, params, opt_state, mutable)


def _make_update(
    update: Update,
    optimizer: Optimizer,
    rate: jax.Array,
    frozen: Frozen,
    batch: Batch,
    key: jax.Array,
    step: jax.Array,
    settings: TrainingSettings,
    mesh: Mesh,
) -> _RunUpdate:
    """One update on the prepared batch, with learning rate `rate`."""

    def objective(groups: Params, params: Params, mutable: State, batch: Batch, key: jax.Array) -> tuple[Any, Any]:
        # Only the groups of the update are differentiated: the others have no gradient by construction.
        # The mesh is that of kernels which the partitioner cannot split (framer_jax.models.splash_attention).
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh), constrain_batch_sharding(mesh):
            loss = update.loss({**params, **groups}, frozen, mutable, batch, key, step)
        examples = jax.tree.leaves(batch)[0].shape[0]
        if loss.values.shape != (examples,):
            raise ValueError(
                f"loss of update {update.name!r} returns values of shape {loss.values.shape}: "
                f"it must return one per example, ({examples},)"
            )
        return jnp.mean(loss.values.astype(jnp.float32)), (loss.metrics, loss.state, dict(loss.outputs))

    gradient_of = jax.value_and_grad(objective, has_aux=True)
    microbatches = settings.gradient_accumulation_steps

    def run(params: Params, opt_state: Any, mutable: State) -> _UpdateResult:
        groups = select_groups(params, update.groups)
        if microbatches == 1:
            (loss, (metrics, mutable, outputs)), gradient = gradient_of(groups, params, mutable, batch, key)
        else:
            (loss, (metrics, mutable, outputs)), gradient = _accumulate(
                gradient_of, groups, params, mutable, batch, key, microbatches, mesh
            )
        norm = optax.tree.norm(gradient)
        gradient = clip_by_norm(gradient, norm, optimizer.clip_norm)
        change, opt_state = optimizer.transform.update(gradient, opt_state, groups)
        groups = jax.tree.map(lambda leaf, delta: leaf - rate * delta, groups, change)
        return _UpdateResult(groups, opt_state, mutable, loss, norm, metrics, outputs)

    return run


def _accumulate(
    gradient_of: Callable[..., Any],
    groups: Params,
    params: Params,
    mutable: State,
    batch: Batch,
    key: jax.Array,
    microbatches: int,
    mesh: Mesh,
) -> tuple[tuple[jax.Array, tuple[dict[str, jax.Array], State, dict[str, jax.Array]]], Params]:
    """Like `gradient_of`: the mean loss and gradient over microbatches that are computed one after the other."""

    def split(leaf: jax.Array) -> jax.Array:  # [B, ...] → [microbatches, B / microbatches, ...]
        # Strided, so that each device keeps its examples.
        parts = leaf.reshape(leaf.shape[0] // microbatches, microbatches, *leaf.shape[1:]).swapaxes(0, 1)
        return jax.lax.with_sharding_constraint(parts, batch_sharding(mesh, leading=1))

    def merge(parts: jax.Array) -> jax.Array:  # the inverse
        leaf = parts.swapaxes(0, 1).reshape(-1, *parts.shape[2:])
        return jax.lax.with_sharding_constraint(leaf, batch_sharding(mesh))

    def add_microbatch(totals: tuple[Params, State], inputs: tuple[jax.Array, Batch]) -> Any:
        total, mutable = totals
        index, microbatch = inputs
        (loss, (metrics, mutable, outputs)), gradient = gradient_of(
            groups, params, mutable, microbatch, jax.random.fold_in(key, index)
        )
        return (jax.tree.map(jnp.add, total, gradient), mutable), (loss, metrics, outputs)

    start = (jax.tree.map(jnp.zeros_like, groups), mutable)
    inputs = jnp.arange(microbatches), jax.tree.map(split, dict(batch))
    (total, mutable), (losses, metrics, outputs) = jax.lax.scan(add_microbatch, start, inputs)
    gradient = jax.tree.map(lambda leaf: leaf / microbatches, total)
    return (jnp.mean(losses), (metrics, mutable, jax.tree.map(merge, outputs))), gradient


def _all_finite(tree: Any) -> jax.Array:
    """Whether all floating-point numbers of a tree are finite."""
    finite = jnp.bool_(True)
    for leaf in jax.tree.leaves(tree):
        if jnp.issubdtype(leaf.dtype, jnp.floating):
            finite &= jnp.all(jnp.isfinite(leaf))
    return finite


def _average(values: jax.Array, due: jax.Array | None) -> Average:
    """The average of `values` (any shape), which can be merged with others; empty if the update was not due."""
    count = jnp.int32(values.size) if due is None else jnp.where(due, jnp.int32(values.size), jnp.int32(0))
    total = jnp.sum(values.astype(jnp.float32))
    return Average(total=total if due is None else jnp.where(due, total, jnp.float32(0)), count=count)


@jax.jit
def merge_averages(first: dict[str, Average], second: dict[str, Average]) -> dict[str, Average]:
    """Averages over the examples of both arguments."""
    return {name: average.merge(second[name]) for name, average in first.items()}


def _moved_ema(ema: Params, params: Params, step: jax.Array, decay: float) -> Params:
    """ema·d + params·(1 - d) with d = min(decay, (1 + n) / (10 + n)) after n steps."""
    if not decay:
        return {}
    steps_made = step.astype(jnp.float32)
    keep = jnp.minimum(jnp.float32(decay), (1.0 + steps_made) / (10.0 + steps_made))
    return jax.tree.map(lambda old, new: old * keep + new * (1.0 - keep), ema, select_groups(params, ema))
