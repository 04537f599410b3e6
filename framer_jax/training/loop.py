"""Training a recipe: a new run, or one that continues from its newest intact checkpoint."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from types import MappingProxyType
from typing import Any

import jax
import numpy as np
from clu.metrics import Average

from framer_jax.paths import AnyPath, as_path
from framer_jax.recipes.base import Params, Recipe
from framer_jax.training import finite
from framer_jax.training.best_metric import check_best_metric
from framer_jax.training.checkpoint import CheckpointMetadata, Checkpoints, Restored, first_line
from framer_jax.training.compatibility import shared_by_hosts
from framer_jax.training.compiled_programs import FOLDER as COMPILED
from framer_jax.training.compiled_programs import programs_kept_in
from framer_jax.training.data_identity import data_identity
from framer_jax.training.data_position import DataIterator
from framer_jax.training.exports import BackgroundExport, Export, export_again
from framer_jax.training.hosts import HostLostError, any_problem, check_same, is_host_lost
from framer_jax.training.logging import SilentWriter, Writer, default_writer, overview
from framer_jax.training.plan import Plan, make_plan
from framer_jax.training.profile import Profile
from framer_jax.training.resuming import resumed
from framer_jax.training.run import Run, TrainResult, Validate
from framer_jax.training.settings import TrainingSettings
from framer_jax.training.state import TrainState, init_train_state, place_frozen
from framer_jax.training.step import Prepare, make_step
from framer_jax.training.wall_time import START, WallTime
from framer_jax.training.workdir import check_name, locked

CHECKPOINTS = "checkpoints"
"""Folder of the checkpoints in a work directory."""


def train(
    recipe: Recipe,
    batches: DataIterator,
    prepare: Prepare,
    settings: TrainingSettings,
    workdir: str | AnyPath,
    *,
    config_json: str = "{}",
    may_change: Iterable[str] = (),
    migrate: Callable[[dict[str, Any]], dict[str, Any]] | None = None,
    run_info: Mapping[str, str] = MappingProxyType({}),
    record_names: Sequence[str] | None = None,
    file_digests: Mapping[str, str] | None = None,
    unusual_settings: str = "",
    validate: Validate | None = None,
    export: Export | None = None,
    writer: Writer | None = None,
    initial_params: Params | None = None,
    quiet: bool = False,
) -> TrainResult:
    """Train a recipe, or continue from the newest intact checkpoint in `workdir/checkpoints`.

    Args:
      recipe: the recipe to train.
      batches: a Grain iterator over this host's part of the batches, leaves [global_batch / hosts, ...]; with an int32
        entry 'record', errors name the records.
      prepare: loaded batch → batch for the losses; runs within the step, on each device for its own examples.
      settings: settings of the run.
      workdir: a folder on this machine or in gs://, which gets `checkpoints/` and, from the default writer,
        `metrics.jsonl` and `images/`; locked by the run.
      config_json: configuration of the run, compared with that of the checkpoint.
      may_change: configuration paths that may differ from the checkpoint, besides `compatibility.MAY_CHANGE`.
      migrate: applied to the checkpoint's configuration before the comparison; raises ValueError if it cannot.
      run_info: texts for the log by their names, written before the first step.
      record_names: name of each record id, compared with the checkpoint's.
      file_digests: name of each data file → digest of its content, compared with the checkpoint's.
      unusual_settings: settings that differ from their defaults, in words, for the error if step 1 gives NaN.
      validate: called every `validate_every` steps and at the end; with an attribute `names`, the names of its scalars
        that `training.best_metric` may have, that one is checked before the first step, and it may leave out a scalar
        of these that is undefined.
      export: called at every checkpoint, and when resuming for files that are missing, altered or older.
      writer: writer of logs; None: `default_writer(workdir)`.
      initial_params: groups that start from these weights instead of `recipe.initial_params`; unused when resuming.
      quiet: no progress bar, and with the default writer no lines on the console.

    Raises:
      ValueError: settings, work directory, weights, batch or checkpoint do not fit, another training holds the work
        directory, all checkpoints are damaged, or validation does not return the best_metric (without `names` raised
        at the first validation, after a save); one line each.
      DataError: batches could not be loaded any more, after a save of the last complete step.
      HostLostError: another process of a distributed run has ended.
      NonFiniteError: NaN or infinity; the message names the step, the records and the last good checkpoint.
    """
    wall_time = WallTime(time.perf_counter())
    workdir = as_path(workdir)
    check_name(workdir)
    note_on_best = check_best_metric(settings, validate)
    initial_params = recipe.initial_params if initial_params is None else initial_params
    finite.check_weights(recipe, initial_params)
    plan = make_plan(recipe, batches, prepare, settings)
    if jax.process_index() > 0:
        writer = SilentWriter()
    writer = writer or default_writer(workdir, quiet=quiet)
    metadata = CheckpointMetadata(json.loads(config_json), data_identity(record_names, file_digests), {}, {})
    check_same(shared_by_hosts(metadata.config, metadata.data, may_change), "configuration, other weights or data")
    programs = workdir / COMPILED if settings.keep_compiled else None
    with _locked_by_first_host(workdir), programs_kept_in(programs):
        checkpoints = Checkpoints(workdir / CHECKPOINTS, settings, may_change, migrate)
        background = None if export is None else BackgroundExport(export)
        profile = Profile(workdir, settings.profile_step, settings.profile_steps)
        with _orderly_end(checkpoints, background, profile, writer):
            restored = checkpoints.restore_newest(
                plan.abstract, batches, metadata.config, metadata.data, tuple(file_digests or ())
            )
            if restored:
                restored = _resumed(restored, recipe, plan, settings, checkpoints, export)
                state, metadata = restored.state, restored.metadata
            else:
                state = init_train_state(
                    recipe, plan.optimizers, settings, plan.mesh, plan.batch_shapes, initial_params
                )
            _announce(writer, recipe, state, restored, checkpoints, run_info)
            step = restored.step if restored else 0
            for note in filter(None, (note_on_best, profile.missed(step, settings.steps))):
                writer.write_text(step, "note", note)
            wall_time.add(START, wall_time.elapsed())
            return Run(
                settings=settings,
                mesh=plan.mesh,
                step_function=make_step(recipe, prepare, plan.optimizers, settings, plan.mesh, plan.abstract),
                exported=recipe.exported,
                frozen=place_frozen(recipe, settings, plan.mesh, plan.batch_shapes, plan.abstract),
                batches=batches,
                first_batch=None if restored else plan.first_batch,
                record_names=record_names,
                unusual_settings=unusual_settings,
                validate=validate,
                export=background,
                writer=writer,
                checkpoints=checkpoints,
                profile=profile,
                programs=programs,
                wall_time=wall_time,
                state=state,
                step=step,
                metadata=metadata,
                quiet=quiet,
                window={name: Average(np.float32(a), np.int32(b)) for name, (a, b) in metadata.window.items()},
            ).to_end()


@contextmanager
def _orderly_end(
    checkpoints: Checkpoints, background: BackgroundExport | None, profile: Profile, writer: Writer
) -> Iterator[None]:
    """Finish saves and logs after the block, however it ends.

    Raises:
      HostLostError: the block failed because another process has ended; saves, which would wait for it, are left.
    """
    with ExitStack() as stack:
        stack.callback(writer.close)
        if background is not None:
            stack.callback(background.wait)
        saves = stack.enter_context(ExitStack())
        saves.callback(checkpoints.close)
        stack.callback(profile.close)
        try:
            yield
        except (ValueError, OSError, RuntimeError) as error:
            if not is_host_lost(error):
                raise
            saves.pop_all()
            raise HostLostError(
                f"another process has ended ({first_line(error)}); {checkpoints.newest()}: start the same command on "
                "all hosts to resume"
            ) from error


@contextmanager
def _locked_by_first_host(workdir: AnyPath) -> Iterator[None]:
    """The lock of the work directory, which the first host takes for all."""
    with ExitStack() as stack:
        problem = ""
        if jax.process_index() == 0:
            try:
                stack.enter_context(locked(workdir))
            except (ValueError, OSError) as error:
                problem = str(error)
        if problem := any_problem(problem):
            raise ValueError(problem)
        yield


def _resumed(
    restored: Restored,
    recipe: Recipe,
    plan: Plan,
    settings: TrainingSettings,
    checkpoints: Checkpoints,
    export: Export | None,
) -> Restored:
    """A restored checkpoint with notes on what other settings change; exported files are brought to its state."""
    restored = resumed(restored, settings, [update.name for update in recipe.updates])
    if export is None:
        return restored
    notes = export_again(export, restored, recipe.exported, checkpoints, plan.abstract, plan.mesh)
    return restored._replace(notes=(*restored.notes, *notes))


def _announce(
    writer: Writer,
    recipe: Recipe,
    state: TrainState,
    restored: Restored | None,
    checkpoints: Checkpoints,
    run_info: Mapping[str, str],
) -> None:
    """Write the log entries that come before the first step."""
    step = restored.step if restored else 0
    writer.resume(step)
    if restored is None:
        writer.write_text(0, "parameters", overview(state.params))
        writer.write_text(0, "run", f"training {recipe.name} from step 0")
    else:
        writer.write_text(step, "run", f"training {recipe.name}, resumed at step {step} from {checkpoints.path(step)}")
    for note in restored.notes if restored else ():
        writer.write_text(step, "note", note)
    for name, text in run_info.items():
        writer.write_text(step, name, text)
