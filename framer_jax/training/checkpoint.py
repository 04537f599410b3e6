"""Checkpoints of (state, Grain iterator, what the run is), written together by Orbax and read back exactly."""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import grain
import jax
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers as policies

from framer_jax.training.settings import TrainingSettings
from framer_jax.training.state import TrainState, check_same, describe

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
    "recipe.space.weights",  # files are compared by their digests
    "recipe.lpips.weights",
    "recipe.sinsr.teacher",
    "recipe.teacher.weights",
    "recipe.teacher.published.space.weights",
    "recipe.dit4sr.base",
    "recipe.tsd_sr.base",
    "recipe.tsd_sr.teacher_lora",
    "recipe.text.null",
    "recipe.text.wanted",
    "recipe.text.avoided",
    "recipe.dtkd.ramp_steps",  # follows training.steps
    "data.embeddings",
    "data.train",  # the records are compared by the hash of their names: the folder may have moved
    "data.validation",
    "data.validation_count",
    "data.threads",
    "logging",
)
"""Entries of a config, by their whole path, that may differ between a checkpoint and the run that resumes it."""

ITEMS = ("state", "data", "about")


class DataIterator(Protocol):
    """A Grain iterator, or anything with its three methods."""

    def __next__(self) -> Any:
        """The next batch."""
        ...

    def get_state(self) -> dict[str, Any]:
        """Where it stands, as JSON values."""
        ...

    def set_state(self, state: dict[str, Any]) -> None:
        """Continue from there."""
        ...


class Notes(NamedTuple):
    """What a checkpoint says beside the arrays.

    Attributes:
      config: the run's configuration as JSON values.
      data: number and hash of the record names, or an empty dict.
      window: metric name to (total, count): averages not yet logged.
      best: {'step', 'value'} of the best validation so far, or an empty dict.
    """

    config: dict[str, Any]
    data: dict[str, Any]
    window: dict[str, tuple[float, int]]
    best: dict[str, float]


def data_identity(record_names: Sequence[str] | None) -> dict[str, Any]:
    """Number and hash of the record names, in their order; empty for None."""
    if record_names is None:
        return {}
    digest = hashlib.sha256("\n".join(record_names).encode()).hexdigest()
    return {"records": len(record_names), "sha256": digest}


class Checkpoints:
    """The checkpoints of one run, in one folder of `<step>/` folders.

    Saves are asynchronous: arrays are copied before `save` returns, files are written behind the next steps and appear
    under their final name only when complete. The newest `settings.keep_last` stay, and the best by
    `settings.best_metric`.
    """

    def __init__(self, directory: str | Path, settings: TrainingSettings) -> None:
        self.directory = Path(directory).absolute()
        keep: list[Any] = [policies.LatestN(settings.keep_last)]
        if settings.best_metric:
            keep.append(_keep_best(settings.best_metric, settings.best_mode))
        options = ocp.CheckpointManagerOptions(preservation_policy=policies.AnyPreservationPolicy(keep))
        if jax.process_index() == 0:
            # What a killed run left. Orbax would do it in a thread of its own, in the way of the next manager.
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
        self, state: TrainState, iterator: DataIterator, notes: Notes, metrics: Mapping[str, float] | None = None
    ) -> int:
        """Save everything at the state's step (nothing to do if that is there already); gives the step."""
        step = int(state.step)
        if step not in self._manager.all_steps():
            about = {**notes._asdict(), "leaves": describe(state)}
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
    ) -> tuple[TrainState, Notes]:
        """Read one checkpoint into the shardings of `abstract` and set `iterator` to where it stood.

        The notes come back with the present config and data, which the next save writes.

        Args:
          step: which one.
          abstract: shapes, dtypes, shardings (abstract_state); any mesh.
          iterator: built like the one that was saved: same hosts, same number of worker processes.
          config: the present configuration, compared with the saved one except for MAY_CHANGE. An entry that one
            of them lacks is no difference if it is None, False, 0 or '' in the other: switched off.
          data: of data_identity, compared with the saved one.

        Raises:
          FileNotFoundError: no such checkpoint.
          ValueError: it is incomplete, unreadable, or of another configuration, model, data or loader; one line each.
        """
        path = self.path(step)
        self._check_complete(path)
        about = self._manager.restore(step, args=ocp.args.Composite(about=ocp.args.JsonRestore())).about
        _check_config(path, about["config"], config)
        if about["data"] and data and about["data"] != data:
            raise ValueError(
                f"checkpoint {path} was trained on other records ({about['data']['records']} then, {data['records']} "
                "now, or other names): give the same data, or a new working folder"
            )
        check_same(about["leaves"], describe(abstract), f"checkpoint {path}: its arrays")
        try:
            found = self._manager.restore(step, args=ocp.args.Composite(state=ocp.args.StandardRestore(abstract)))
        except (ValueError, OSError, KeyError) as error:
            raise ValueError(f"checkpoint {path} cannot be read ({_first_line(error)}): {_remedy(path)}") from error
        self._restore_iterator(path, iterator)
        window = {name: (total, count) for name, (total, count) in about["window"].items()}
        return found.state, Notes(config, data, window, about["best"])

    def _check_complete(self, path: Path) -> None:
        if not path.is_dir():
            have = ", ".join(map(str, self.steps())) or "none"
            raise FileNotFoundError(f"no checkpoint {path}: steps there are {have}")
        missing = [name for name in ITEMS if not (path / name).is_dir()]
        if missing:
            raise ValueError(
                f"checkpoint {path} is incomplete or foreign, it lacks {', '.join(missing)}: {_remedy(path)}"
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
            f"checkpoint {path}: its data position does not fit this loader: "
            "use the same number of worker processes as the run that saved it"
        )
        # Grain accepts some positions of another worker count silently, so the layout is compared first.
        if _layout(saved) != _layout(iterator.get_state()):
            raise ValueError(mismatch)
        try:
            iterator.set_state(saved)
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise ValueError(mismatch) from error

    def reached_preemption(self, step: int) -> bool:
        """Whether some host was told to stop; the same answer on all hosts (needs jax.distributed)."""
        return bool(self._manager.reached_preemption(step))

    def wait(self) -> None:
        """Until all saves are on disk."""
        self._manager.wait_until_finished()

    def close(self) -> None:
        """Wait, then release threads."""
        self._manager.close()


class _IteratorState:
    """The bytes form of an iterator's state that Grain's Orbax handler writes for any iterator."""

    def __init__(self, iterator: DataIterator) -> None:
        self._state = json.dumps(iterator.get_state()).encode()

    def get_state(self) -> bytes:
        return self._state


def _keep_best(metric: str, mode: str) -> policies.BestN:
    worst = -math.inf if mode == "max" else math.inf

    def value(metrics: Any) -> float:
        found = float(metrics.get(metric, worst))
        return worst if math.isnan(found) else found

    return policies.BestN(get_metric_fn=value, reverse=mode == "min", n=1, keep_checkpoints_without_metrics=False)


def _layout(state: Any) -> Any:
    """Keys, and lengths of lists, of the outer level: what depends on the loader and not on the position."""
    if not isinstance(state, dict):
        return type(state).__name__
    return {name: len(value) if isinstance(value, list) else None for name, value in state.items()}


def _check_config(path: Path, saved: dict[str, Any], present: dict[str, Any]) -> None:
    old, new = _flat(saved), _flat(present)
    differing = [
        name for name in sorted({*old, *new}) if old.get(name) != new.get(name) and not _may_differ(name, old, new)
    ]
    if differing:
        shown = "; ".join(
            f"{name} {old.get(name, 'absent')!r} then, {new.get(name, 'absent')!r} now" for name in differing[:5]
        )
        more = f" and {len(differing) - 5} more" if len(differing) > 5 else ""
        raise ValueError(
            f"checkpoint {path} is of another configuration: {shown}{more}: "
            "restore these values, or use a new working folder"
        )


def _may_differ(name: str, old: dict[str, Any], new: dict[str, Any]) -> bool:
    if any(name == entry or name.startswith(f"{entry}.") for entry in MAY_CHANGE):
        return True
    there = [config[name] for config in (old, new) if name in config]
    return len(there) == 1 and there[0] in (None, False, 0, "")


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
