"""The training loop: steps, logs, validation and checkpoints in their order."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import numpy as np
from clu.metrics import Average
from jax.sharding import Mesh

from framer_jax.recipes.base import Frozen, Params, Recipe
from framer_jax.training.checkpoint import CheckpointMetadata, Checkpoints, DataIterator, data_identity
from framer_jax.training.logging import Images, Progress, Scalars, SilentWriter, Writer, default_writer, overview
from framer_jax.training.optimizer import Optimizer, make_optimizers
from framer_jax.training.settings import TrainingSettings, check_batch
from framer_jax.training.sharding import check_rules, make_mesh, place_batch, to_host
from framer_jax.training.signals import stop_signals
from framer_jax.training.state import (
    TrainState,
    abstract_train_state,
    inference_params,
    init_train_state,
    place_frozen,
)
from framer_jax.training.step import Prepare, Step, StepMetrics, make_step, merge_averages

Validate = Callable[[Params, Frozen, int], tuple[Scalars, Images]]
"""(exported groups on the mesh, frozen weights, step) → (scalars, images [H, W, 3] in [0, 1]). The groups are those of
the EMA if there is one. Frozen weights that training reads are on the mesh, the others on the host."""

Export = Callable[[Params, int, bool], None]
"""(exported groups as NumPy arrays, step, whether they are the best so far) → writes a portable file."""


class NonFiniteError(ArithmeticError):
    """A loss, a gradient, a parameter or the mutable state became NaN or infinite."""


@dataclass(frozen=True)
class TrainResult:
    """The end of a run.

    Attributes:
      state: the last training state.
      step: number of steps made.
      stopped: true if the run ended before `settings.steps` (signal or stop_after); the same command resumes it.
      message: summary in one line.
      scalars: the scalars that were logged last.
    """

    state: TrainState
    step: int
    stopped: bool
    message: str
    scalars: dict[str, float]


def train(
    recipe: Recipe,
    batches: DataIterator,
    prepare: Prepare,
    settings: TrainingSettings,
    workdir: str | Path,
    *,
    config_json: str = "{}",
    may_change: Iterable[str] = (),
    migrate: Callable[[dict[str, Any]], dict[str, Any]] | None = None,
    run_info: Mapping[str, str] = MappingProxyType({}),
    record_names: Sequence[str] | None = None,
    validate: Validate | None = None,
    export: Export | None = None,
    writer: Writer | None = None,
    initial_params: Params | None = None,
) -> TrainResult:
    """Train a recipe, or continue from the newest checkpoint in `workdir/checkpoints`.

    Args:
      recipe: the recipe to train.
      batches: a Grain iterator over this host's part of the batches, leaves [global_batch / hosts, ...]; with an int32
        entry 'record', errors name the records.
      prepare: loaded batch → batch for the losses; runs within the step, on each device for its own examples.
      settings: settings of the run.
      workdir: gets `checkpoints/` and, from the default writer, `metrics.jsonl` and `images/`.
      config_json: configuration of the run, compared with that of the checkpoint.
      may_change: configuration paths that may differ from the checkpoint, besides `checkpoint.MAY_CHANGE`.
      migrate: applied to the checkpoint's configuration before the comparison; raises ValueError if it cannot.
      run_info: texts for the log by their names, written before the first step.
      record_names: name of each record id, compared with the checkpoint's.
      validate: called every `validate_every` steps and at the end.
      export: called at every checkpoint.
      writer: writer of logs; None: `default_writer(workdir)`.
      initial_params: groups that start from these weights instead of `recipe.initial_params`; unused when resuming.

    Raises:
      ValueError: settings, batch or checkpoint do not fit, or validation does not return the best_metric (raised at
        the first validation, after a save); one line each.
      NonFiniteError: NaN or infinity; the message names the step, the records and the last good checkpoint.
    """
    plan = _make_plan(recipe, batches, prepare, settings)
    if jax.process_index() > 0:
        writer = SilentWriter()
    writer = writer or default_writer(workdir)
    checkpoints = Checkpoints(Path(workdir) / "checkpoints", settings, may_change, migrate)
    metadata = CheckpointMetadata(json.loads(config_json), data_identity(record_names), {}, {})
    initial_params = recipe.initial_params if initial_params is None else initial_params
    try:
        latest = checkpoints.latest()
        if latest is None:
            state = init_train_state(recipe, plan.optimizers, settings, plan.mesh, plan.batch_shapes, initial_params)
        else:
            state, metadata = checkpoints.restore(latest, plan.abstract, batches, metadata.config, metadata.data)
        _announce(writer, recipe, state, latest, checkpoints, run_info)
        return _Run(
            settings=settings,
            mesh=plan.mesh,
            step_function=make_step(recipe, prepare, plan.optimizers, settings, plan.mesh, plan.abstract),
            exported=recipe.exported,
            frozen=place_frozen(recipe, settings, plan.mesh, plan.batch_shapes, plan.abstract),
            batches=batches,
            first_batch=plan.first_batch if latest is None else None,
            record_names=record_names,
            validate=validate,
            export=export,
            writer=writer,
            checkpoints=checkpoints,
            state=state,
            step=latest or 0,
            metadata=metadata,
            window={name: Average(np.float32(a), np.int32(b)) for name, (a, b) in metadata.window.items()},
        ).to_end()
    finally:
        checkpoints.close()
        writer.close()


class _Plan(NamedTuple):
    """What follows from the arguments of `train` without any computation."""

    mesh: Mesh
    optimizers: dict[str, Optimizer]
    first_batch: Any  # already taken from the iterator
    batch_shapes: Any
    abstract: TrainState


def _make_plan(recipe: Recipe, batches: DataIterator, prepare: Prepare, settings: TrainingSettings) -> _Plan:
    """Refuse arguments that do not fit together before anything is written or computed."""
    mesh = make_mesh(settings)
    check_batch(settings, mesh.size, jax.process_count())
    optimizers = make_optimizers(recipe, settings)
    first_batch = next(batches, None)
    batch_shapes = _prepared_shapes(first_batch, prepare, settings)
    _check_batch_entries(recipe, batch_shapes)
    abstract = abstract_train_state(recipe, optimizers, settings, mesh, batch_shapes)
    check_rules(abstract.params, settings)
    return _Plan(mesh, optimizers, first_batch, batch_shapes, abstract)


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


def _announce(
    writer: Writer,
    recipe: Recipe,
    state: TrainState,
    latest: int | None,
    checkpoints: Checkpoints,
    run_info: Mapping[str, str],
) -> None:
    """Write the log entries that come before the first step."""
    writer.resume(latest or 0)
    if latest is None:
        writer.write_text(0, "parameters", overview(state.params))
        writer.write_text(0, "run", f"training {recipe.name} from step 0")
    else:
        writer.write_text(
            latest, "run", f"training {recipe.name}, resumed at step {latest} from {checkpoints.path(latest)}"
        )
    for name, text in run_info.items():
        writer.write_text(latest or 0, name, text)


@dataclass
class _Run:
    """A run from its current step to its end."""

    settings: TrainingSettings
    mesh: Mesh
    step_function: Step
    exported: tuple[str, ...]
    frozen: Any
    batches: DataIterator
    first_batch: Any
    record_names: Sequence[str] | None
    validate: Validate | None
    export: Export | None
    writer: Writer
    checkpoints: Checkpoints
    state: TrainState
    step: int
    metadata: CheckpointMetadata
    window: dict[str, Average]
    pending: list[tuple[int, StepMetrics, Any]] = field(default_factory=list)
    scalars: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0  # spent in steps since the last log entry, without compilation
    timed_steps: int = 0
    compiled: bool = False

    def to_end(self) -> TrainResult:
        """Make all remaining steps; after each, in this order: log, validate, save, stop."""
        settings = self.settings
        if self.step >= settings.steps:
            return self._result(False, f"already complete: {self.step} of {settings.steps} steps are made")
        bar = Progress(self.step, settings.steps, visible=jax.process_index() == 0)
        with stop_signals(self.checkpoints) as stop_requested, bar as progress:
            while True:
                self._one_step()
                progress.update(self.step)
                last = self.step == settings.steps
                if last or self.step % settings.log_every == 0:
                    self._log()
                    progress.update(self.step, self.scalars)
                metrics = self._validate() if last or self.step % settings.validate_every == 0 else None
                stop = stop_requested(self.step) or self.step == settings.stop_after
                unknown_metric = bool(
                    metrics is not None and settings.best_metric and settings.best_metric not in metrics
                )
                if last or stop or unknown_metric or self.step % settings.checkpoint_every == 0:
                    self._save(metrics)
                if metrics is not None and unknown_metric:
                    self._refuse_best_metric(metrics)
                if last or stop:
                    break
        self.checkpoints.wait()
        if last:
            return self._result(False, f"complete: {self.step} steps, saved in {self.checkpoints.path(self.step)}")
        where = self.checkpoints.path(self.step)
        return self._result(
            True, f"stopped at step {self.step} of {settings.steps}, saved in {where}; run again to resume"
        )

    def _result(self, stopped: bool, message: str) -> TrainResult:
        self.writer.write_text(self.step, "run", message)
        return TrainResult(self.state, self.step, stopped, message, self.scalars)

    def _one_step(self) -> None:
        started = time.perf_counter()
        batch = self.first_batch if self.first_batch is not None else next(self.batches, None)
        self.first_batch = None
        if batch is None:
            raise ValueError(f"the data ended after step {self.step} of {self.settings.steps}: repeat the dataset")
        records = np.asarray(batch["record"]) if isinstance(batch, Mapping) and "record" in batch else None
        self.state, metrics = self.step_function(self.state, self.frozen, place_batch(batch, self.mesh))
        self.step += 1
        self.window = merge_averages(self.window, metrics.averages) if self.window else metrics.averages
        self.pending.append((self.step, metrics, records))
        if not self.compiled:
            self.compiled = True
            jax.block_until_ready(self.state)
            text = f"first step, with compilation, took {time.perf_counter() - started:.1f} s"
            self.writer.write_text(self.step, "run", text)
            return
        # Two steps in flight keep the device busy; more would only hold more batches. Fake CPU devices cannot have
        # two programs with collectives in flight at all.
        steps_ahead = 0 if self.mesh.size > 1 and jax.default_backend() == "cpu" else 2
        if len(self.pending) > steps_ahead:
            jax.block_until_ready(self.pending[-1 - steps_ahead][1].finite)
        self.seconds += time.perf_counter() - started
        self.timed_steps += 1

    def _check_finite(self) -> None:
        """Check all steps since the last check, with one transfer for all of them."""
        started = time.perf_counter()
        flags = jax.device_get([(metrics.finite, metrics.losses) for _, metrics, _ in self.pending])
        for (step, _, records), (finite, losses) in zip(self.pending, flags, strict=True):
            if not finite:
                self.checkpoints.wait()
                latest = self.checkpoints.latest()
                saved = (
                    f"last checkpoint {self.checkpoints.path(latest)}" if latest is not None else "no checkpoint yet"
                )
                values = ", ".join(f"{name} {value:.4g}" for name, value in losses.items())
                finite_losses = np.isfinite(list(losses.values())).all()
                culprit = "gradient, parameter or mutable state" if finite_losses else "loss"
                raise NonFiniteError(
                    f"{culprit} is NaN or infinite at step {step} (loss {values}); "
                    f"records {self._names(records)}; {saved}"
                )
        self.pending.clear()
        self.seconds += time.perf_counter() - started

    def _names(self, records: Any) -> str:
        if records is None:
            return "unknown (batches have no 'record')"
        names = self.record_names if self.record_names is not None else ()
        return ", ".join(names[i] if 0 <= i < len(names) else f"#{i}" for i in records.reshape(-1).tolist())

    def _log(self) -> None:
        self._check_finite()
        averages = jax.device_get(self.window)
        self.scalars = {name: float(a.compute()) for name, a in averages.items() if a.count}
        if self.timed_steps:
            self.scalars["images_per_second"] = self.timed_steps * self.settings.global_batch / self.seconds
        self.writer.write_scalars(self.step, self.scalars)
        self.window, self.seconds, self.timed_steps = {}, 0.0, 0

    def _validate(self) -> Mapping[str, float] | None:
        if self.validate is None:
            return None
        self._check_finite()
        scalars, images = self.validate(inference_params(self.state, self.exported), self.frozen, self.step)
        self.writer.write_scalars(self.step, {f"validation/{name}": float(value) for name, value in scalars.items()})
        if images:
            self.writer.write_images(self.step, {f"validation/{name}": image for name, image in images.items()})
        return scalars

    def _save(self, metrics: Mapping[str, float] | None) -> None:
        self._check_finite()
        best = self._note_if_best(metrics)
        window = {name: (float(a.total), int(a.count)) for name, a in jax.device_get(self.window).items()}
        self.checkpoints.save(self.state, self.batches, self.metadata._replace(window=window), metrics)
        if self.export is not None:
            params = to_host(inference_params(self.state, self.exported))
            if jax.process_index() == 0:
                self.export(params, self.step, best)

    def _note_if_best(self, metrics: Mapping[str, float] | None) -> bool:
        """Whether the validation is the best so far, in which case the metadata remember it."""
        name = self.settings.best_metric
        if not name or metrics is None or name not in metrics:
            return False
        value, sign = float(metrics[name]), 1 if self.settings.best_mode == "max" else -1
        best = self.metadata.best
        if not np.isfinite(value) or (best and sign * value <= sign * best["value"]):
            return False
        self.metadata = self.metadata._replace(best={"step": self.step, "value": value})
        return True

    def _refuse_best_metric(self, metrics: Mapping[str, float]) -> None:
        """The name is checked at the first validation, after a save, so that no step is lost."""
        self.checkpoints.wait()
        raise ValueError(
            f"training.best_metric {self.settings.best_metric!r} is not a metric of validation: {', '.join(metrics)}; "
            f"step {self.step} is saved: correct it, or set it to None, and run again to resume"
        )
