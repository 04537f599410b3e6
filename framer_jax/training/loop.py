"""The training loop: it only orders what the other files of this room do."""

from __future__ import annotations

import json
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import numpy as np
from clu.metrics import Average
from jax.sharding import Mesh

from framer_jax.recipes.base import Frozen, Params, Recipe
from framer_jax.training.checkpoint import Checkpoints, DataIterator, Notes, data_identity
from framer_jax.training.logging import Images, Progress, Scalars, SilentWriter, Writer, default_writer, overview
from framer_jax.training.optimizer import Optimizer, make_optimizers
from framer_jax.training.settings import TrainingSettings, check_batch
from framer_jax.training.sharding import check_rules, make_mesh, place_batch, to_host
from framer_jax.training.state import TrainState, abstract_state, inference_params, init_state, place_frozen
from framer_jax.training.step import Prepare, Step, StepMetrics, make_step, merge_averages

Validate = Callable[[Params, Frozen, int], tuple[Scalars, Images]]
"""(EMA or parameters on the mesh, frozen weights, step) → (scalars, images [H, W, 3] in [0, 1]); of the frozen weights
those that training reads are on the mesh, the others on the host."""

Export = Callable[[Params, int, bool], None]
"""(EMA or parameters as numpy arrays, step, whether they are the best so far) → writes a portable file."""


class NonFiniteError(ArithmeticError):
    """A loss, gradient or parameter became NaN or infinite."""


@dataclass(frozen=True)
class TrainResult:
    """How a run ended.

    Attributes:
      state: the last one.
      step: steps made.
      stopped: true if it ended before `settings.steps` (signal or stop_after); the same command resumes it.
      message: one line for a person.
      scalars: the last ones logged.
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
    remarks: Mapping[str, str] = MappingProxyType({}),
    record_names: Sequence[str] | None = None,
    validate: Validate | None = None,
    export: Export | None = None,
    writer: Writer | None = None,
    initial_params: Params | None = None,
) -> TrainResult:
    """Train a recipe, or continue where `workdir/checkpoints` stands.

    Args:
      recipe: what to train.
      batches: a Grain iterator of this host's part of the batches, leaves [global_batch / hosts, ...]; an int32
        entry 'record' lets an error name the records.
      prepare: batch as loaded → what the losses see; runs inside the step, record by record.
      settings: all numbers.
      workdir: gets `checkpoints/` and, by the default writer, `metrics.jsonl` and `images/`.
      config_json: the run's configuration, compared with the checkpoint's.
      remarks: lines for the log by their names, written before the first step.
      record_names: name of each record id; compared too.
      validate: called every `validate_every` steps and at the end.
      export: called at every checkpoint.
      writer: of logs; default_writer(workdir) if None.
      initial_params: groups to start from instead of the recipe's init; not used when resuming.

    Raises:
      ValueError: settings, batch or checkpoint that do not fit, or a best_metric that validation does not give (found
        at the first one, after a save); each one line.
      NonFiniteError: NaN or infinity, with step, records and the last good checkpoint.
    """
    plan = _make_plan(recipe, batches, prepare, settings)
    if jax.process_index() > 0:
        writer = SilentWriter()
    writer = writer or default_writer(workdir)
    checkpoints = Checkpoints(Path(workdir) / "checkpoints", settings)
    notes = Notes(json.loads(config_json), data_identity(record_names), {}, {})
    try:
        latest = checkpoints.latest()
        if latest is None:
            state = init_state(recipe, plan.optimizers, settings, plan.mesh, plan.prepared, initial_params)
        else:
            state, notes = checkpoints.restore(latest, plan.abstract, batches, notes.config, notes.data)
        _announce(writer, recipe, state, latest, checkpoints)
        for name, text in remarks.items():
            writer.write_text(latest or 0, name, text)
        return _Run(
            settings=settings,
            mesh=plan.mesh,
            step_function=make_step(recipe, prepare, plan.optimizers, settings, plan.mesh, plan.abstract),
            frozen=place_frozen(recipe, settings, plan.mesh, plan.prepared, plan.abstract),
            batches=batches,
            first=plan.first if latest is None else None,
            record_names=record_names,
            validate=validate,
            export=export,
            writer=writer,
            checkpoints=checkpoints,
            state=state,
            step=latest or 0,
            notes=notes,
            window={name: Average(np.float32(a), np.int32(b)) for name, (a, b) in notes.window.items()},
        ).to_end()
    finally:
        checkpoints.close()
        writer.close()


class _Plan(NamedTuple):
    mesh: Mesh
    optimizers: dict[str, Optimizer]
    first: Any  # the first batch, already taken from the iterator
    prepared: Any
    abstract: TrainState


def _make_plan(recipe: Recipe, batches: DataIterator, prepare: Prepare, settings: TrainingSettings) -> _Plan:
    """What follows from the arguments alone; refuses what does not fit before anything is written or computed."""
    mesh = make_mesh(settings)
    check_batch(settings, mesh.size, jax.process_count())
    optimizers = make_optimizers(recipe, settings)
    first = next(batches, None)
    prepared = _prepared_shapes(first, prepare, settings)
    abstract = abstract_state(recipe, optimizers, settings, mesh, prepared)
    check_rules(abstract.params, settings)
    return _Plan(mesh, optimizers, first, prepared, abstract)


def _prepared_shapes(first: Any, prepare: Prepare, settings: TrainingSettings) -> Any:
    """Shapes of the prepared global batch, from the first batch as loaded."""
    if first is None:
        raise ValueError("the data gives no batch: are there fewer records than the batch size?")
    hosts = jax.process_count()
    want = settings.global_batch // hosts
    sizes = {np.shape(leaf)[:1] for leaf in jax.tree.leaves(first)}
    if sizes != {(want,)}:
        found = ", ".join(str(size[0]) if size else "a scalar" for size in sorted(sizes))
        raise ValueError(f"batches hold {found} examples per host: global_batch {settings.global_batch} needs {want}")
    shapes = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct((settings.global_batch, *np.shape(leaf)[1:]), np.asarray(leaf).dtype), first
    )
    return jax.eval_shape(prepare, shapes)


def _announce(writer: Writer, recipe: Recipe, state: TrainState, latest: int | None, checkpoints: Checkpoints) -> None:
    writer.resume(latest or 0)
    if latest is None:
        writer.write_text(0, "parameters", overview(state.params))
        writer.write_text(0, "run", f"training {recipe.name} from step 0")
    else:
        writer.write_text(
            latest, "run", f"training {recipe.name}, resumed at step {latest} from {checkpoints.path(latest)}"
        )


@dataclass
class _Run:
    """The moving parts between `train` and its end."""

    settings: TrainingSettings
    mesh: Mesh
    step_function: Step
    frozen: Any
    batches: DataIterator
    first: Any
    record_names: Sequence[str] | None
    validate: Validate | None
    export: Export | None
    writer: Writer
    checkpoints: Checkpoints
    state: TrainState
    step: int
    notes: Notes
    window: dict[str, Average]
    pending: list[tuple[int, StepMetrics, Any]] = field(default_factory=list)
    scalars: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0  # spent in steps since the last log line, without compilation
    timed_steps: int = 0
    compiled: bool = False

    def to_end(self) -> TrainResult:
        """All remaining steps, in order: step, log, validate, save, stop."""
        settings = self.settings
        if self.step >= settings.steps:
            return self._result(False, f"already complete: {self.step} of {settings.steps} steps are made")
        bar = Progress(self.step, settings.steps, visible=jax.process_index() == 0)
        with _stop_signals(self.checkpoints) as told_to_stop, bar as progress:
            while True:
                self._one_step()
                progress.update(self.step)
                last = self.step == settings.steps
                if last or self.step % settings.log_every == 0:
                    self._log()
                    progress.update(self.step, self.scalars)
                metrics = self._validated() if last or self.step % settings.validate_every == 0 else None
                stop = told_to_stop(self.step) or self.step == settings.stop_after
                misnamed = bool(metrics is not None and settings.best_metric and settings.best_metric not in metrics)
                if last or stop or misnamed or self.step % settings.checkpoint_every == 0:
                    self._save(metrics)
                if metrics is not None and misnamed:
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
        batch, self.first = self.first if self.first is not None else next(self.batches, None), None
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
        # Enough to keep the device busy and no more: each step in flight holds a batch. Fake CPU devices must not
        # have two programs with collectives in flight at all.
        ahead = 0 if self.mesh.size > 1 and jax.default_backend() == "cpu" else 2
        if len(self.pending) > ahead:
            jax.block_until_ready(self.pending[-1 - ahead][1].finite)
        self.seconds += time.perf_counter() - started
        self.timed_steps += 1

    def _check_finite(self) -> None:
        """Look at every step since the last look; one transfer for all of them."""
        started = time.perf_counter()
        flags = jax.device_get([(metrics.finite, metrics.losses) for _, metrics, _ in self.pending])
        for (step, _, records), (finite, losses) in zip(self.pending, flags, strict=True):
            if not finite:
                self.checkpoints.wait()
                latest = self.checkpoints.latest()
                saved = (
                    f"last checkpoint {self.checkpoints.path(latest)}" if latest is not None else "no checkpoint yet"
                )
                shown = ", ".join(f"{name} {value:.4g}" for name, value in losses.items())
                bad = "loss" if not np.isfinite(list(losses.values())).all() else "gradient, parameter or carry"
                raise NonFiniteError(
                    f"{bad} is NaN or infinite at step {step} (loss {shown}); records {self._names(records)}; {saved}"
                )
        self.pending.clear()
        self.seconds += time.perf_counter() - started

    def _names(self, records: Any) -> str:
        if records is None:
            return "unknown (batches have no 'record')"
        names = self.record_names
        known = [
            names[i] if names is not None and 0 <= i < len(names) else f"#{i}" for i in records.reshape(-1).tolist()
        ]
        return ", ".join(known)

    def _log(self) -> None:
        self._check_finite()
        averages = jax.device_get(self.window)
        self.scalars = {name: float(a.compute()) for name, a in averages.items() if a.count}
        if self.timed_steps:
            self.scalars["images_per_second"] = self.timed_steps * self.settings.global_batch / self.seconds
        self.writer.write_scalars(self.step, self.scalars)
        self.window, self.seconds, self.timed_steps = {}, 0.0, 0

    def _validated(self) -> Mapping[str, float] | None:
        if self.validate is None:
            return None
        self._check_finite()
        scalars, images = self.validate(inference_params(self.state), self.frozen, self.step)
        self.writer.write_scalars(self.step, {f"validation/{name}": float(value) for name, value in scalars.items()})
        if images:
            self.writer.write_images(self.step, {f"validation/{name}": image for name, image in images.items()})
        return scalars

    def _save(self, metrics: Mapping[str, float] | None) -> None:
        self._check_finite()
        best = self._is_best(metrics)
        window = {name: (float(a.total), int(a.count)) for name, a in jax.device_get(self.window).items()}
        self.checkpoints.save(self.state, self.batches, self.notes._replace(window=window), metrics)
        if self.export is not None:
            params = to_host(inference_params(self.state))
            if jax.process_index() == 0:
                self.export(params, self.step, best)

    def _is_best(self, metrics: Mapping[str, float] | None) -> bool:
        name = self.settings.best_metric
        if not name or metrics is None or name not in metrics:
            return False
        value, sign = float(metrics[name]), 1 if self.settings.best_mode == "max" else -1
        if not np.isfinite(value) or (self.notes.best and sign * value <= sign * self.notes.best["value"]):
            return False
        self.notes = self.notes._replace(best={"step": self.step, "value": value})
        return True

    def _refuse_best_metric(self, metrics: Mapping[str, float]) -> None:
        """Its name is checked at the first validation, after a save: no step is lost by it."""
        self.checkpoints.wait()
        raise ValueError(
            f"best_metric {self.settings.best_metric!r} is not among what validation gives: {', '.join(metrics)}; "
            f"step {self.step} is saved: correct it, or set it to None, and run again to resume"
        )


@contextmanager
def _stop_signals(checkpoints: Checkpoints) -> Iterator[Callable[[int], bool]]:
    """Turn the first SIGTERM or SIGINT into an answer; the second one acts as if there were no handler.

    With several hosts, jax.distributed has its own SIGTERM handler and all hosts must agree on the step.
    """
    if jax.process_count() > 1:
        yield checkpoints.reached_preemption
        return
    if threading.current_thread() is not threading.main_thread():
        yield lambda step: False
        return
    received: list[int] = []
    previous = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    def restore() -> None:
        for number, handler in previous.items():
            signal.signal(number, handler)

    def receive(number: int, frame: Any) -> None:
        received.append(number)
        restore()
        print("finishing this step, then saving; a second signal stops at once", file=sys.stderr, flush=True)

    for number in previous:
        signal.signal(number, receive)
    try:
        yield lambda step: bool(received)
    finally:
        restore()
