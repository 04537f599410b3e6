"""Checkpoints of the training state, the position of the Grain iterator and metadata of the run.

Orbax writes the three together; they are restored exactly.
"""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import grain
import jax
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers as policies

from framer_jax.training.settings import TrainingSettings
from framer_jax.training.state import TrainState, describe_leaves
from framer_jax.trees import check_same_descriptions

MAY_CHANGE = (
    "training.steps",
    "training.stop_after",
    "training.log_every",
    "training.checkpoint_every",
    "training.validate_every",
    "training.keep_last",
    "training.best_metric",
    "training.best_mode",
    "training.mesh",
    "training.fsdp_min_size",
    "training.sharding_rules",
    "data.embeddings",
    "data.train",  # the records are compared by the hash of their names: the folder may have moved
    "data.validation",
    "data.validation_count",
    "data.threads",
    "logging",
)
"""Configuration paths, of knobs or whole sections, that may differ between a checkpoint and the run that resumes it."""

ITEMS = ("state", "data", "about")
"""Folders of a checkpoint: the training state, the positions of the data iterators, and the metadata."""

LAYOUT = 2
"""Version of the layout of the training state. Layout 1 had no version number, the mutable state in the field `carry`
and the EMA of all groups."""


class DataIterator(Protocol):
    """A Grain iterator, or anything with its three methods."""

    def __next__(self) -> Any:
        """The next batch."""
        ...

    def get_state(self) -> dict[str, Any]:
        """The position, as JSON values."""
        ...

    def set_state(self, state: dict[str, Any]) -> None:
        """Continue from a position."""
        ...


class CheckpointMetadata(NamedTuple):
    """What a checkpoint holds besides arrays and the position of the data iterator.

    Attributes:
      config: configuration of the run as JSON values.
      data: number and hash of the record names (`data_identity`), or an empty dict.
      window: metric name to (total, count) of the averages that have not been logged yet.
      best: {'step', 'value'} of the best validation so far, or an empty dict.
    """

    config: dict[str, Any]
    data: dict[str, Any]
    window: dict[str, tuple[float, int]]
    best: dict[str, float]


def data_identity(record_names: Sequence[str] | None) -> dict[str, Any]:
    """Number of the record names and hash of them in their order; {} for None."""
    if record_names is None:
        return {}
    digest = hashlib.sha256("\n".join(record_names).encode()).hexdigest()
    return {"records": len(record_names), "sha256": digest}


class Checkpoints:
    """The checkpoints of one run: a folder with one folder `<step>/` for each.

    Saves are asynchronous: arrays are copied before `save` returns; files are written during the next steps and get
    their final name only when they are complete. The newest `settings.keep_last` checkpoints are kept, and the best one
    by `settings.best_metric`.

    Args:
      directory: the folder of the checkpoints.
      settings: which checkpoints are kept.
      may_change: configuration paths that may differ when a run is resumed, besides MAY_CHANGE.
      migrate: turns the configuration of a checkpoint into one of the present schema before they are compared; raises
        ValueError if it cannot.
    """

    def __init__(
        self,
        directory: str | Path,
        settings: TrainingSettings,
        may_change: Iterable[str] = (),
        migrate: Callable[[dict[str, Any]], dict[str, Any]] | None = None,
    ) -> None:
        self.directory = Path(directory).absolute()
        self._may_change = (*MAY_CHANGE, *may_change)
        self._migrate = migrate
        keep: list[Any] = [policies.LatestN(settings.keep_last)]
        if settings.best_metric:
            keep.append(_keep_best(settings.best_metric, settings.best_mode))
        options = ocp.CheckpointManagerOptions(preservation_policy=policies.AnyPreservationPolicy(keep))
        if jax.process_index() == 0:
            # Remains of a killed run. Orbax would delete them in another thread, in conflict with the next manager.
            for unfinished in self.directory.glob("*.orbax-checkpoint-tmp"):
                shutil.rmtree(unfinished, ignore_errors=True)
        self._manager = ocp.CheckpointManager(self.directory, options=options, item_names=ITEMS)

    def latest(self) -> int | None:
        """Step of the newest complete checkpoint."""
        return self._manager.latest_step()

    def steps(self) -> list[int]:
        """Steps of all complete checkpoints, in order."""
        return sorted(self._manager.all_steps())

    def path(self, step: int) -> Path:
        """Folder of one checkpoint."""
        return self.directory / str(step)

    def save(
        self,
        state: TrainState,
        iterator: DataIterator,
        metadata: CheckpointMetadata,
        metrics: Mapping[str, float] | None = None,
    ) -> int:
        """Save a checkpoint of the state's step, unless there is one already.

        Args:
          state: the training state.
          iterator: its position is saved.
          metadata: saved as it is.
          metrics: results of the validation, which decide which checkpoint is the best.

        Returns:
          The step.
        """
        step = int(state.step)
        if step not in self._manager.all_steps():
            about = {**metadata._asdict(), "leaves": describe_leaves(state), "layout": LAYOUT}
            self._manager.save(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.StandardSave(state),
                    data=grain.checkpoint.CheckpointSave(_IteratorState(iterator)),
                    about=ocp.args.JsonSave(about),
                ),
                metrics=None if metrics is None else {name: float(value) for name, value in metrics.items()},
                force=True,
            )
        return step

    def restore(
        self, step: int, abstract: TrainState, iterator: DataIterator, config: Any, data: Any
    ) -> tuple[TrainState, CheckpointMetadata]:
        """Read a checkpoint into the shardings of `abstract` and set `iterator` to the saved position.

        The returned metadata hold the present `config` and `data`, which the next save writes.

        Args:
          step: step of the checkpoint.
          abstract: shapes, dtypes and shardings (`abstract_train_state`), for any mesh.
          iterator: built like the saved one: same number of hosts and of worker processes.
          config: the present configuration, compared with the saved one except for the paths that may change. A knob
            that only one of them has is no difference if its value is None, False, 0 or '', that is, switched off.
          data: the present `data_identity`, compared with the saved one.

        Raises:
          FileNotFoundError: there is no such checkpoint.
          ValueError: it is incomplete, unreadable, or of another layout, configuration, model, data or loader; one line
            each.
        """
        path = self.path(step)
        self._check_complete(path)
        about = self._manager.restore(step, args=ocp.args.Composite(about=ocp.args.JsonRestore())).about
        _check_layout(path, about)
        self._check_config(path, about["config"], config)
        if about["data"] and data and about["data"] != data:
            raise ValueError(
                f"checkpoint {path} was trained on other records ({about['data']['records']} then, {data['records']} "
                "now, or other names): give the same data, or a new working folder"
            )
        check_same_descriptions(about["leaves"], describe_leaves(abstract), f"checkpoint {path}", _remedy(path))
        try:
            restored = self._manager.restore(step, args=ocp.args.Composite(state=ocp.args.StandardRestore(abstract)))
        except (ValueError, OSError, KeyError) as error:
            raise ValueError(f"checkpoint {path} cannot be read ({_first_line(error)}): {_remedy(path)}") from error
        self._restore_iterator(path, iterator)
        window = {name: (total, count) for name, (total, count) in about["window"].items()}
        return restored.state, CheckpointMetadata(config, data, window, about["best"])

    def _check_complete(self, path: Path) -> None:
        if not path.is_dir():
            steps = ", ".join(map(str, self.steps())) or "none"
            raise FileNotFoundError(f"no checkpoint {path}: the saved steps are {steps}")
        missing = [name for name in ITEMS if not (path / name).is_dir()]
        if missing:
            raise ValueError(
                f"checkpoint {path} is incomplete or foreign, it lacks {', '.join(missing)}: {_remedy(path)}"
            )

    def _check_config(self, path: Path, saved: dict[str, Any], present: dict[str, Any]) -> None:
        """Refuse a checkpoint whose configuration differs where it may not."""
        if self._migrate is not None:
            try:
                saved = self._migrate(saved)
            except ValueError as error:
                raise ValueError(f"checkpoint {path}: {error}") from error
        old, new = _flat(saved), _flat(present)
        differing = [
            name
            for name in sorted({*old, *new})
            if old.get(name) != new.get(name) and not _may_differ(name, old, new, self._may_change)
        ]
        if differing:
            changes = "; ".join(
                f"{name} {old.get(name, 'absent')!r} then, {new.get(name, 'absent')!r} now" for name in differing[:5]
            )
            more = f" and {len(differing) - 5} more" if len(differing) > 5 else ""
            raise ValueError(
                f"checkpoint {path} is of another configuration: {changes}{more}: "
                "restore these values, or use a new working folder"
            )

    def _restore_iterator(self, path: Path, iterator: DataIterator) -> None:
        name = f"process_{jax.process_index()}-of-{jax.process_count()}.json"
        try:
            saved = json.loads((path / "data" / name).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ValueError(
                f"checkpoint {path} has no readable data/{name}: resume with as many hosts as it was saved with"
            ) from error
        mismatch = (
            f"checkpoint {path}: the position of its data iterator does not fit this loader: "
            "use the same number of worker processes as the run that saved it"
        )
        # Grain silently accepts some positions of another number of workers, so the structure is compared first.
        if _structure(saved) != _structure(iterator.get_state()):
            raise ValueError(mismatch)
        try:
            iterator.set_state(saved)
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise ValueError(mismatch) from error

    def reached_preemption(self, step: int) -> bool:
        """Whether a host has received a signal to stop; the same answer on all hosts (needs jax.distributed)."""
        return bool(self._manager.reached_preemption(step))

    def wait(self) -> None:
        """Wait until all saves are on disk."""
        self._manager.wait_until_finished()

    def close(self) -> None:
        """Wait until all saves are on disk, then release threads."""
        self._manager.close()


class _IteratorState:
    """The position of any iterator as bytes, the form in which Grain's Orbax handler writes it."""

    def __init__(self, iterator: DataIterator) -> None:
        self._state = json.dumps(iterator.get_state()).encode()

    def get_state(self) -> bytes:
        return self._state


def _keep_best(metric: str, mode: str) -> policies.BestN:
    worst = -math.inf if mode == "max" else math.inf

    def value(metrics: Any) -> float:
        score = float(metrics.get(metric, worst))
        return worst if math.isnan(score) else score

    return policies.BestN(get_metric_fn=value, reverse=mode == "min", n=1, keep_checkpoints_without_metrics=False)


def _structure(state: Any) -> Any:
    """Keys and lengths of lists at the top level of an iterator's state, which depend on the loader alone."""
    if not isinstance(state, dict):
        return type(state).__name__
    return {name: len(value) if isinstance(value, list) else None for name, value in state.items()}


def _check_layout(path: Path, about: dict[str, Any]) -> None:
    layout = about.get("layout", 1)
    if layout != LAYOUT:
        raise ValueError(
            f"checkpoint {path} was written by another version of framer_jax (layout {layout} of the training state, "
            f"this version reads layout {LAYOUT}): use a new working folder, with the weights of this run as --init"
        )


def _may_differ(name: str, old: dict[str, Any], new: dict[str, Any], may_change: Iterable[str]) -> bool:
    if any(name == entry or name.startswith(f"{entry}.") for entry in may_change):
        return True
    values = [config[name] for config in (old, new) if name in config]
    return len(values) == 1 and values[0] in (None, False, 0, "")


def _flat(tree: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(tree, dict):
        return {prefix: tree}
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        flat.update(_flat(value, f"{prefix}.{name}" if prefix else str(name)))
    return flat


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


def _remedy(path: Path) -> str:
    return f"delete {path} to resume from the one before it, or use a new working folder"
