"""Checkpoints of the training state, the position of the Grain iterator and metadata of the run.

Orbax writes the three together, with digests of their files; they are restored exactly, or not at all.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import grain
import jax
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers as policies

from framer_jax.paths import AnyPath, as_path, files_below, remove_folder
from framer_jax.training import compatibility
from framer_jax.training.data_position import DataIterator, HasPosition, IteratorState, restore_iterator
from framer_jax.training.digests import DIGESTS, DamagedCheckpointError, damage, write_digests
from framer_jax.training.hosts import any_problem, wait_for_all
from framer_jax.training.settings import TrainingSettings
from framer_jax.training.state import TrainState, describe_leaves
from framer_jax.trees import check_same_descriptions

ITEMS = ("state", "data", "about")
"""Folders of a checkpoint: the training state, the positions of the data iterators, and the metadata."""

UNFINISHED = ".orbax-checkpoint-tmp"
"""Suffix of the folder that a save writes into, until it is complete."""

COMPLETE = "commit_success.txt"
"""File that Orbax adds to a complete checkpoint in an object store."""

DAMAGED = ".damaged"
"""Suffix that a damaged checkpoint gets when a run is resumed from an earlier one."""


class CheckpointMetadata(NamedTuple):
    """What a checkpoint holds besides arrays and the position of the data iterator.

    Attributes:
      config: configuration of the run as JSON values.
      data: what identifies the data (framer_jax.training.data_identity), or an empty dict.
      window: metric name to (total, count) of the averages that have not been logged yet.
      best: {'step', 'value'} of the best validation so far, or an empty dict.
      exports: digests of the exported weights that belong to this checkpoint, by the kind of export.
    """

    config: dict[str, Any]
    data: dict[str, Any]
    window: dict[str, tuple[float, int]]
    best: dict[str, float]
    exports: Mapping[str, str] = MappingProxyType({})


class Restored(NamedTuple):
    """A restored checkpoint.

    Attributes:
      step: its step.
      state: the training state.
      metadata: its metadata, with the present configuration and data, which the next save writes.
      saved_config: the configuration that it was saved with, in the present schema.
      notes: what the user should know, one line each.
    """

    step: int
    state: TrainState
    metadata: CheckpointMetadata
    saved_config: dict[str, Any]
    notes: tuple[str, ...]


def saved_steps(folder: AnyPath) -> list[int]:
    """Steps of the checkpoints in a folder, in order; in an object store, of those that are marked as complete."""
    if isinstance(folder, Path):
        names = [path.name for path in folder.iterdir() if path.is_dir()] if folder.is_dir() else []
    else:
        names = [name.split("/")[0] for name in files_below(folder) if name.split("/")[1:] == [COMPLETE]]
    return sorted(int(name) for name in names if name.isascii() and name.isdecimal() and str(int(name)) == name)


class Checkpoints:
    """The checkpoints of one run: a folder with one folder `<step>/` for each.

    Saves are asynchronous: arrays are copied before `save` returns; files are written during the next steps and get
    their final name only when they are complete. The newest `settings.keep_last` checkpoints are kept, and with a
    `settings.best_metric` the best one by the metadata of the last save.

    Args:
      directory: the folder of the checkpoints.
      settings: which checkpoints are kept.
      may_change: configuration paths that may differ when a run is resumed, besides compatibility.MAY_CHANGE.
      migrate: turns the configuration of a checkpoint into one of the present schema before they are compared; raises
        ValueError if it cannot.
    """

    def __init__(
        self,
        directory: str | AnyPath,
        settings: TrainingSettings,
        may_change: Iterable[str] = (),
        migrate: Callable[[dict[str, Any]], dict[str, Any]] | None = None,
    ) -> None:
        directory = as_path(directory)
        self.directory = directory.absolute() if isinstance(directory, Path) else directory
        self._may_change = (*compatibility.MAY_CHANGE, *may_change)
        self._migrate = migrate
        self._saving: int | None = None
        self._keep_best = _KeepStep()
        keep: list[Any] = [policies.LatestN(settings.keep_last)]
        if settings.best_metric:
            keep.append(self._keep_best)
        options = ocp.CheckpointManagerOptions(
            preservation_policy=policies.AnyPreservationPolicy(keep),
            async_options=ocp.AsyncOptions(post_finalization_callback=self._write_digests),
        )
        if jax.process_index() == 0:
            # Remains of a killed run. Orbax would delete them in another thread, in conflict with the next manager.
            for unfinished in self.directory.glob(f"*{UNFINISHED}"):
                remove_folder(unfinished)
        for logger in ("absl", "asyncio"):
            logging.getLogger(logger).addFilter(_is_news)
        self._manager = ocp.CheckpointManager(self.directory, options=options, item_names=ITEMS)

    def latest(self) -> int | None:
        """Step of the newest checkpoint."""
        return max(self.steps(), default=None)

    def steps(self) -> list[int]:
        """Steps of all checkpoints that were written to their end, in order; their files may be damaged since."""
        return saved_steps(self.directory)

    def path(self, step: int) -> AnyPath:
        """Folder of one checkpoint."""
        return self.directory / str(step)

    def save(self, state: TrainState, iterator: HasPosition, metadata: CheckpointMetadata) -> int:
        """Save a checkpoint of the state's step, unless there is one already.

        Args:
          state: the training state.
          iterator: its position is saved.
          metadata: saved as it is; the checkpoint of the step `metadata.best['step']` is kept as the best one.

        Returns:
          The step.
        """
        step = int(state.step)
        if step not in self._manager.all_steps():
            about = {
                **metadata._asdict(),
                "exports": dict(metadata.exports),
                "leaves": describe_leaves(state),
                "layout": compatibility.LAYOUT,
                "digests": DIGESTS,
            }
            self.wait()  # for the save before, whose digests are written to its own folder
            self._saving, self._keep_best.step = step, metadata.best.get("step")
            with self._one_line_errors():
                self._manager.save(
                    step,
                    args=ocp.args.Composite(
                        state=ocp.args.StandardSave(state),
                        data=grain.checkpoint.CheckpointSave(IteratorState(iterator)),
                        about=ocp.args.JsonSave(about),
                    ),
                    force=True,
                )
        return step

    @contextmanager
    def _one_line_errors(self) -> Iterator[None]:
        """Errors of writing, such as a full disk, name the checkpoint that is left and the remedy."""
        try:
            yield
        except (ValueError, OSError, RuntimeError) as error:
            latest = self.latest()
            left = "no checkpoint is left" if latest is None else f"the newest complete one is {self.path(latest)}"
            raise OSError(
                f"checkpoint {self.path(self._saving or 0)} could not be written ({first_line(error)}); {left}: make "
                "space there, and run again to resume"
            ) from error

    def _write_digests(self) -> None:
        """Called by Orbax on the first host when all hosts have written, before the folder gets its final name."""
        # In an object store, which cannot rename folders, the folder has its name from the beginning.
        local = isinstance(self.directory, Path)
        write_digests(self.directory / f"{self._saving}{UNFINISHED * local}", ITEMS)

    def restore_newest(
        self,
        abstract: TrainState,
        iterator: DataIterator,
        config: Any,
        data: Any,
        file_names: Sequence[str] = (),
    ) -> Restored | None:
        """Restore the newest checkpoint that is not damaged; None if there is no checkpoint at all.

        Damaged newer ones are renamed, so that the run can write them again. Arguments and errors as of `restore`.

        Raises:
          DamagedCheckpointError: all checkpoints are damaged.
        """
        damaged: dict[int, str] = {}
        for step in reversed(self.steps()):
            try:
                restored = self.restore(step, abstract, iterator, config, data, file_names)
            except DamagedCheckpointError as error:
                damaged[step] = str(error)
                continue
            names = self._set_aside(damaged)
            notes = [
                f"{message}: resuming from step {step} instead; the damaged one is now {names[bad]}"
                for bad, message in damaged.items()
            ]
            return restored._replace(notes=(*notes, *restored.notes))
        if damaged:
            raise DamagedCheckpointError(
                f"{'; '.join(damaged.values())}: no other checkpoint is left, so the run cannot be resumed: bring back "
                "these files from a copy, or use a new working folder, with the weights of this run as --init"
            )
        return None

    def restore(
        self,
        step: int,
        abstract: TrainState,
        iterator: DataIterator,
        config: Any,
        data: Any,
        file_names: Sequence[str] = (),
    ) -> Restored:
        """Read a checkpoint into the shardings of `abstract` and set `iterator` to the saved position.

        Args:
          step: step of the checkpoint.
          abstract: shapes, dtypes and shardings (`abstract_train_state`), for any mesh.
          iterator: built like the saved one: same number of hosts and of worker processes.
          config: the present configuration, see `compatibility.check_config`.
          data: the present data, see `compatibility.check_data`.
          file_names: names of the data's files, for the message if their contents differ.

        Raises:
          FileNotFoundError: there is no such checkpoint.
          DamagedCheckpointError: it is incomplete, or its files are not as they were written.
          ValueError: it is of another layout, configuration, model, data or loader; one line each.
        """
        path = self.path(step)
        about = self._intact(path)
        compatibility.check_layout(path, about)
        saved_config = compatibility.check_config(path, about["config"], config, self._may_change, self._migrate)
        compatibility.check_data(path, about["data"], data, file_names)
        remedy = f"use the configuration it was made with, or a new working folder instead of {self.directory.parent}"
        check_same_descriptions(about["leaves"], describe_leaves(abstract), f"checkpoint {path}", remedy)
        state = self._read_state(path, abstract, bool(about.get("digests")))
        restore_iterator(path, iterator)
        window = {name: (total, count) for name, (total, count) in about["window"].items()}
        metadata = CheckpointMetadata(config, data, window, about["best"], about.get("exports", {}))
        self._keep_best.step = metadata.best.get("step")
        notes = []
        if not about.get("digests"):
            notes.append(f"checkpoint {path} is of a version without digests: that its files are intact is not checked")
        if data and "contents" in data and "contents" not in about["data"]:
            notes.append(f"checkpoint {path} holds no digests of the data: that its files are the same is not checked")
        return Restored(step, state, metadata, saved_config, tuple(notes))

    def restore_exported(self, step: int, abstract: TrainState) -> TrainState:
        """The state of another checkpoint of this run, such as the best one, for exporting its weights once more.

        Raises:
          ValueError: as of `restore`.
        """
        path = self.path(step)
        about = self._intact(path)
        compatibility.check_layout(path, about)
        check_same_descriptions(about["leaves"], describe_leaves(abstract), f"checkpoint {path}", "train again")
        return self._read_state(path, abstract, bool(about.get("digests")))

    def _intact(self, path: AnyPath) -> dict[str, Any]:
        """The metadata of a checkpoint whose files are as they were written."""
        if not path.is_dir():
            steps = ", ".join(map(str, self.steps())) or "none"
            raise FileNotFoundError(f"no checkpoint {path}: the saved steps are {steps}")
        about, problem = read_about(path)
        missing = [name for name in ITEMS if not (path / name).is_dir()]
        if missing:
            problem = f"it lacks {', '.join(missing)}"
        elif not problem and (about.get("digests") or (path / DIGESTS).exists()):
            problem = damage(path, jax.process_index(), jax.process_count())
        if problem := any_problem(problem):
            raise DamagedCheckpointError(f"checkpoint {path} is damaged or incomplete ({problem})")
        return about

    def _read_state(self, path: AnyPath, abstract: TrainState, verified: bool) -> TrainState:
        problem = ""
        try:
            with ocp.Checkpointer(ocp.StandardCheckpointHandler()) as reader:
                state: TrainState = reader.restore(path / "state", args=ocp.args.StandardRestore(abstract))
        except (ValueError, OSError, KeyError, TypeError, RuntimeError) as error:
            if "RESOURCE_EXHAUSTED" in str(error):  # too little memory, which is no damage
                raise
            problem = first_line(error)
        if problem := any_problem(problem):
            kind = ValueError if verified else DamagedCheckpointError
            raise kind(f"checkpoint {path} cannot be read ({problem})")
        return state

    def _set_aside(self, steps: Iterable[int]) -> dict[int, AnyPath]:
        """Rename damaged checkpoints; step → new path."""
        names = {}
        for step in steps:
            path = self.path(step)
            taken = [f"{path.name}{DAMAGED}", *(f"{path.name}{DAMAGED}-{number}" for number in range(2, 1000))]
            names[step] = next(path.with_name(name) for name in taken if not path.with_name(name).exists())
        if names:
            wait_for_all("names of damaged checkpoints")
            if jax.process_index() == 0:
                for step, name in names.items():
                    self.path(step).rename(name)
            wait_for_all("damaged checkpoints renamed")
            self._manager.reload()
        return names

    def reached_preemption(self, step: int) -> bool:
        """Whether a host has received a signal to stop; the same answer on all hosts (needs jax.distributed)."""
        return bool(self._manager.reached_preemption(step))

    def wait(self) -> None:
        """Wait until all saves are on disk."""
        with self._one_line_errors():
            self._manager.wait_until_finished()

    def newest(self) -> str:
        """The newest complete checkpoint in words."""
        latest = self.latest()
        return "no checkpoint is saved" if latest is None else f"the newest checkpoint is {self.path(latest)}"

    def close(self) -> None:
        """Wait until all saves are on disk, then release threads."""
        with self._one_line_errors():
            self._manager.close()


@dataclass
class _KeepStep:
    """Orbax's policy for the best checkpoint: keep the one of this step. Orbax itself forgets scores on resuming."""

    step: float | None = None

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        return [checkpoint.step == self.step for checkpoint in checkpoints]


def _is_news(record: logging.LogRecord) -> bool:
    """False for the tracebacks that Orbax and its tasks log besides the errors that they raise."""
    origin = f"{record.pathname} {record.getMessage()}"
    return not (record.exc_info and "orbax" in origin)


def read_about(path: AnyPath) -> tuple[dict[str, Any], str]:
    """(metadata of a checkpoint, what is wrong with them or '')."""
    try:
        about = json.loads((path / "about" / "metadata").read_text(encoding="utf-8"))
        for entry in ("config", "data", "window", "best", "leaves"):
            about[entry].items()
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}, "about/metadata cannot be read"
    return about, ""


def first_line(error: BaseException) -> str:
    """The first line of a message; of a long one its end, where libraries put the cause."""
    text = (str(error).splitlines() or [type(error).__name__])[0]
    return text if len(text) <= 200 else f"… {text[-200:]}"
