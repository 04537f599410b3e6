"""A run from its current step to its end: steps, logs, validation and checkpoints in their order."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import numpy as np
from clu.metrics import Average
from jax.sharding import Mesh

from framer_jax.recipes.base import Frozen, Params
from framer_jax.training import finite
from framer_jax.training.best_metric import metric_names
from framer_jax.training.checkpoint import CheckpointMetadata, Checkpoints
from framer_jax.training.compiled_programs import number_of_programs
from framer_jax.training.data_position import DataIterator, Position
from framer_jax.training.exports import BEST, LATEST, BackgroundExport
from framer_jax.training.finite import NonFiniteError
from framer_jax.training.hosts import from_first_host
from framer_jax.training.logging import Images, Progress, Scalars, Writer
from framer_jax.training.profile import Profile
from framer_jax.training.settings import TrainingSettings
from framer_jax.training.sharding import place_batch, to_first_host
from framer_jax.training.signals import stop_signals
from framer_jax.training.state import TrainState, inference_params
from framer_jax.training.step import Step, StepMetrics, merge_averages
from framer_jax.training.utilization import peak_of_mesh, step_teraflops, utilization
from framer_jax.training.wall_time import COMPILATION, DATA, END, SAVING, TRAINING, VALIDATION, WallTime

Validate = Callable[[Params, Frozen, int], tuple[Scalars, Images]]
"""(exported groups on the mesh, frozen weights, step) → (scalars, images [H, W, 3] in [0, 1]). The groups are those of
the EMA if there is one. Frozen weights that training reads are on the mesh, the others on the host."""


class DataError(ValueError):
    """The data could not be loaded; the steps made so far are saved."""


@dataclass(frozen=True)
class TrainResult:
    """The end of a run.

    Attributes:
      state: the last training state.
      step: number of steps made.
      stopped: true if the run ended before `settings.steps` (signal or stop_after); the same command resumes it.
      message: summary in one line.
      scalars: the scalars that were logged last.
      seconds: kind of work (framer_jax.training.wall_time) → wall time of it.
    """

    state: TrainState
    step: int
    stopped: bool
    message: str
    scalars: dict[str, float]
    seconds: Mapping[str, float]


@dataclass
class Run:
    """A run from its current step to its end."""

    settings: TrainingSettings
    mesh: Mesh
    step_function: Step
    exported: tuple[str, ...]
    frozen: Any
    batches: DataIterator
    first_batch: Any
    record_names: Sequence[str] | None
    unusual_settings: str
    validate: Validate | None
    export: BackgroundExport | None
    writer: Writer
    checkpoints: Checkpoints
    profile: Profile
    programs: Path | None  # folder of compiled programs next to the run
    wall_time: WallTime
    state: TrainState
    step: int
    metadata: CheckpointMetadata
    window: dict[str, Average]
    pending: list[tuple[int, StepMetrics, Any]] = field(default_factory=list)
    scalars: dict[str, float] = field(default_factory=dict)
    teraflops: float = 0.0  # of the products of a step; 0 if the peak of the devices is unknown
    saved_at: float = field(default_factory=lambda: time.perf_counter())
    seconds: float = 0.0  # spent in steps since the last log entry, without compilation
    timed_steps: int = 0
    compiled: bool = False
    position: Position | None = None  # of the data, after the last complete step
    saved: int | None = None  # the last step that this run saved
    is_stopping: bool = False  # the first of several hosts has signalled that the time is up
    quiet: bool = False  # without a progress bar

    def to_end(self) -> TrainResult:
        """Make all remaining steps; after each, in this order: log, validate, save, stop."""
        settings = self.settings
        if self.step >= settings.steps:
            made = f"{self.step} of {settings.steps} steps are made"
            if self.step > settings.steps:
                made = f"{self.step} steps are made, and training.steps is {settings.steps}"
            return self._result(False, f"already complete: {made}")
        bar = Progress(self.step, settings.steps, visible=jax.process_index() == 0 and not self.quiet)
        with stop_signals(self.checkpoints) as stop_requested, bar as progress:
            while True:
                try:
                    batch = self._next_batch()
                except DataError as error:
                    if not self._save_after(error) or not stop_requested(self.step):
                        raise
                    last = False  # the signal to stop also ended what loads the data
                    break
                self._one_step(batch)
                progress.update(self.step)
                last = self.step == settings.steps
                is_save_due = False
                if last or self.step % settings.log_every == 0:
                    self._log()
                    progress.update(self.step, self.scalars)
                    is_save_due = self._is_save_due()
                metrics = self._validate() if last or self.step % settings.validate_every == 0 else None
                is_time_up = self._is_time_up()  # before the signals, one of which it may send
                stop = stop_requested(self.step) or self.step == settings.stop_after or is_time_up
                unknown_metric = metrics is not None and self._is_unknown_metric(metrics)
                is_regular = self.step % settings.checkpoint_every == 0
                if last or stop or unknown_metric or is_regular or is_save_due:
                    # An interruption must not decide what is compared: a run without it would not save this step.
                    self._save(metrics if last or is_regular else None)
                if metrics is not None and unknown_metric:
                    self._refuse_best_metric(metrics)
                if last or stop:
                    break
        self._finish_saving()
        self.writer.write_text(self.step, "run", self.wall_time.summary())
        where = self.checkpoints.path(self.step)
        if last:
            return self._result(False, f"complete: {self.step} steps, saved in {where}")
        return self._result(
            True, f"stopped at step {self.step} of {settings.steps}, saved in {where}; run again to resume"
        )

    def _result(self, stopped: bool, message: str) -> TrainResult:
        self.writer.write_text(self.step, "run", message)
        return TrainResult(self.state, self.step, stopped, message, self.scalars, dict(self.wall_time.seconds))

    def _is_save_due(self) -> bool:
        """Whether `checkpoint_minutes` have passed since the last save, by the clock of the first host."""
        minutes = self.settings.checkpoint_minutes
        if minutes is None:
            return False
        return bool(*from_first_host((int(time.perf_counter() - self.saved_at >= 60 * minutes),)))

    def _is_time_up(self) -> bool:
        """Whether `stop_after_minutes` have passed; several hosts agree as after a signal to the first one."""
        minutes = self.settings.stop_after_minutes
        if minutes is None or self.wall_time.elapsed() < 60 * minutes:
            return False
        if jax.process_count() > 1:
            if jax.process_index() == 0 and not self.is_stopping:
                self.is_stopping = True
                os.kill(os.getpid(), signal.SIGTERM)
            return False
        return True

    def _next_batch(self) -> Any:
        """The next batch; errors of the data become a DataError."""
        started = time.perf_counter()
        batch, self.first_batch = self.first_batch, None
        try:
            batch = next(self.batches, None) if batch is None else batch
        except (ValueError, OSError, EOFError, RuntimeError, MemoryError) as error:
            text = " ".join(str(error).split()) or type(error).__name__
            raise DataError(text) from error
        if batch is None:
            raise DataError(f"the data ended after step {self.step} of {self.settings.steps}: repeat the dataset")
        self.position = Position(self.batches.get_state())
        self.seconds += (time.perf_counter() - started) * self.compiled
        self.wall_time.add(DATA, time.perf_counter() - started)
        return batch

    def _save_after(self, error: DataError) -> bool:
        """Save the last complete step, and say so in the error; false if there is nothing to save."""
        # Saving needs all hosts, and only this one knows of the error.
        if jax.process_count() > 1 or not self.compiled:
            return False
        if self.saved != self.step:
            self._save(None)
        self._finish_saving()
        where = self.checkpoints.path(self.step)
        error.args = (f"{error}; step {self.step} is saved in {where}: run again to resume",)
        return True

    def _one_step(self, batch: Any) -> None:
        started = time.perf_counter()
        records = np.asarray(batch["record"]) if isinstance(batch, Mapping) and "record" in batch else None
        placed = place_batch(batch, self.mesh)
        if not self.compiled and peak_of_mesh(self.mesh) is not None:
            self.teraflops = step_teraflops(self.step_function, (self.state, self.frozen, placed))
        kept = 0 if self.compiled else number_of_programs(self.programs, "step")
        self.profile.before(self.step + 1)
        self.state, metrics = self.step_function(self.state, self.frozen, placed)
        self.step += 1
        self.window = merge_averages(self.window, metrics.averages) if self.window else metrics.averages
        self.pending.append((self.step, metrics, records))
        if not self.compiled:
            self.compiled = True
            jax.block_until_ready(self.state)
            seconds = time.perf_counter() - started
            self.wall_time.add(COMPILATION, seconds)
            is_loaded = 0 < kept == number_of_programs(self.programs, "step")
            how = f"with programs from {self.programs}" if is_loaded else "with compilation"
            self.writer.write_text(self.step, "run", f"first step, {how}, took {seconds:.1f} s")
            self._end_of_profile()
            return
        # Two steps in flight keep the device busy; more would only hold more batches. Fake CPU devices cannot have
        # two programs with collectives in flight at all.
        steps_ahead = 0 if self.mesh.size > 1 and jax.default_backend() == "cpu" else 2
        if len(self.pending) > steps_ahead:
            jax.block_until_ready(self.pending[-1 - steps_ahead][1].finite)
        self.seconds += time.perf_counter() - started
        self.wall_time.add(TRAINING, time.perf_counter() - started)
        self.timed_steps += 1
        self._end_of_profile()

    def _end_of_profile(self) -> None:
        if text := self.profile.after(self.step, self.state):
            self.writer.write_text(self.step, "profile", text)

    def _check_finite(self) -> None:
        """Check all steps since the last check, with one transfer for all of them."""
        started = time.perf_counter()
        flags = jax.device_get([metrics.finite for _, metrics, _ in self.pending])
        for (step, metrics, records), is_finite in zip(self.pending, flags, strict=True):
            if not is_finite:
                self.checkpoints.wait()
                latest = self.checkpoints.latest()
                saved = (
                    f"last checkpoint {self.checkpoints.path(latest)}" if latest is not None else "no checkpoint yet"
                )
                names = finite.record_names(records, self.record_names)
                losses, averages = jax.device_get((metrics.losses, metrics.averages))
                raise NonFiniteError(
                    finite.message(step, losses, averages, names, saved, step == 1, self.unusual_settings)
                )
        self.pending.clear()
        self.seconds += time.perf_counter() - started
        self.wall_time.add(TRAINING, time.perf_counter() - started)

    def _log(self) -> None:
        self._check_finite()
        averages = jax.device_get(self.window)
        self.scalars = {name: float(a.compute()) for name, a in averages.items() if a.count}
        if self.timed_steps:
            self.scalars["images_per_second"] = self.timed_steps * self.settings.global_batch / self.seconds
            if self.teraflops and (peak := peak_of_mesh(self.mesh)):
                seconds = self.seconds / self.timed_steps
                self.scalars["mfu"] = utilization(self.teraflops, seconds, self.mesh.size, peak)
        self.writer.write_scalars(self.step, self.scalars)
        self.window, self.seconds, self.timed_steps = {}, 0.0, 0

    def _validate(self) -> Mapping[str, float] | None:
        if self.validate is None:
            return None
        self._check_finite()
        with self.wall_time.during(VALIDATION):
            scalars, images = self.validate(inference_params(self.state, self.exported), self.frozen, self.step)
        self.writer.write_scalars(self.step, {f"validation/{name}": float(value) for name, value in scalars.items()})
        if images:
            self.writer.write_images(self.step, {f"validation/{name}": image for name, image in images.items()})
        return scalars

    def _save(self, metrics: Mapping[str, float] | None) -> None:
        """Copy what a checkpoint and the exported files hold; both are written while the next steps run."""
        self._check_finite()
        started = time.perf_counter()
        best = self._note_if_best(metrics)
        kinds = (LATEST, BEST) if best else (LATEST,)
        params = None
        if self.export is not None:
            params = to_first_host(inference_params(self.state, self.exported), self.mesh)
            if params is not None:
                digests = dict.fromkeys(kinds, self.export.digest(params, self.step))
                self.metadata = self.metadata._replace(exports={**self.metadata.exports, **digests})
        window = {name: (float(a.total), int(a.count)) for name, a in jax.device_get(self.window).items()}
        assert self.position is not None  # a step was made
        self.checkpoints.save(self.state, self.position, self.metadata._replace(window=window))
        self.saved, self.saved_at = self.step, time.perf_counter()
        if self.export is not None and params is not None:
            self.export.write(params, self.step, kinds)
        self.wall_time.add(SAVING, time.perf_counter() - started)

    def _finish_saving(self) -> None:
        """Wait until the checkpoint and the exported files are on disk."""
        started = time.perf_counter()
        self.checkpoints.wait()
        if self.export is not None:
            self.export.wait()
        self.wall_time.add(END, time.perf_counter() - started)

    def _note_if_best(self, metrics: Mapping[str, float] | None) -> bool:
        """Whether the validation is the best so far, in which case the metadata remember it; undefined never is."""
        name = self.settings.best_metric
        if not name or metrics is None or name not in metrics:
            return False
        value, sign = float(metrics[name]), 1 if self.settings.best_mode == "max" else -1
        best = self.metadata.best
        if not np.isfinite(value) or (best and sign * value <= sign * best["value"]):
            return False
        self.metadata = self.metadata._replace(best={"step": self.step, "value": value})
        return True

    def _is_unknown_metric(self, metrics: Mapping[str, float]) -> bool:
        """Whether the best metric is none of validation's; known names were checked before the first step."""
        name = self.settings.best_metric
        return bool(name) and name not in metrics and metric_names(self.validate) is None

    def _refuse_best_metric(self, metrics: Mapping[str, float]) -> None:
        """The name is checked at the first validation, after a save, so that no step is lost."""
        self._finish_saving()
        raise ValueError(
            f"training.best_metric {self.settings.best_metric!r} is not a metric of validation: {', '.join(metrics)}; "
            f"step {self.step} is saved: correct it, or set it to None, and run again to resume"
        )
