"""The position of the data in a checkpoint: how far the iterator of each host is.

Every host writes its own. Positions of framer_jax.data.pipeline count global batches and are the same on all hosts, so
that a run goes on with any number of them; those of other iterators may need as many hosts as they were saved with.
"""

from __future__ import annotations

import json
import re
from typing import Any, Protocol

import jax

from framer_jax.paths import AnyPath
from framer_jax.training.digests import DamagedCheckpointError
from framer_jax.training.hosts import any_problem


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


class HasPosition(Protocol):
    """What a save needs of a data iterator."""

    def get_state(self) -> Any:
        """The position, as JSON values."""
        ...


class IteratorState:
    """The position of any iterator as bytes, the form in which Grain's Orbax handler writes it."""

    def __init__(self, iterator: HasPosition) -> None:
        self._state = json.dumps(iterator.get_state()).encode()

    def get_state(self) -> bytes:
        """The position."""
        return self._state


class Position:
    """The position of the data after a batch. The iterator itself may have gone on, or be broken, when it is saved."""

    def __init__(self, state: Any) -> None:
        self._state = json.dumps(state)

    def get_state(self) -> Any:
        """The position, as JSON values."""
        return json.loads(self._state)


def restore_iterator(path: AnyPath, iterator: DataIterator) -> None:
    """Set an iterator to the position of this host in a checkpoint, or to that of all hosts if their number differs.

    Every host must call it.

    Raises:
      DamagedCheckpointError: a position is damaged or missing.
      ValueError: it was saved with another number of worker processes, or with another number of hosts whose positions
        differ.
    """
    saved = _saved_state(path)
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


def _saved_state(path: AnyPath) -> Any:
    """The saved state for this host."""
    folder = path / "data"
    written = [re.fullmatch(r"process_\d+-of-(\d+)\.json", each.name) for each in folder.iterdir()]
    hosts = max((int(match[1]) for match in written if match), default=0)
    names = [f"process_{index}-of-{hosts}.json" for index in range(hosts)]
    if hosts == jax.process_count():
        names = [names[jax.process_index()]]
    elif jax.process_index() > 0:
        names = names[:1]  # the first host compares all of them
    states, problem = [], "" if names else "data is empty"
    for name in names:
        try:
            states.append(json.loads((folder / name).read_text(encoding="utf-8")))
        except (OSError, ValueError):
            problem = f"data/{name} cannot be read"
    if problem := any_problem(problem):
        raise DamagedCheckpointError(f"checkpoint {path} is damaged or incomplete ({problem})")
    if any_problem("positions differ" if any(state != states[0] for state in states) else ""):
        raise ValueError(
            f"checkpoint {path} was saved with {hosts} hosts, whose data iterators are at different positions: resume "
            "with as many hosts"
        )
    return states[0]


def _structure(state: Any) -> Any:
    """Keys and lengths of lists at the top level of an iterator's state, which depend on the loader alone."""
    if not isinstance(state, dict):
        return type(state).__name__
    return {name: len(value) if isinstance(value, list) else None for name, value in state.items()}
