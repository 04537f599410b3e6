"""The position of the data in a checkpoint: how far the iterator of each host is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Protocol

import jax

from framer_jax.training.digests import DamagedCheckpointError


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


def restore_iterator(path: Path, iterator: DataIterator) -> None:
    """Set an iterator to the position of this host in a checkpoint.

    Raises:
      DamagedCheckpointError: the position is damaged.
      ValueError: it was saved with another number of hosts or of worker processes.
    """
    name = f"process_{jax.process_index()}-of-{jax.process_count()}.json"
    try:
        saved = json.loads((path / "data" / name).read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(
            f"checkpoint {path} has no readable data/{name}: resume with as many hosts as it was saved with"
        ) from error
    except ValueError as error:
        raise DamagedCheckpointError(f"checkpoint {path} is damaged or incomplete (data/{name})") from error
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


def _structure(state: Any) -> Any:
    """Keys and lengths of lists at the top level of an iterator's state, which depend on the loader alone."""
    if not isinstance(state, dict):
        return type(state).__name__
    return {name: len(value) if isinstance(value, list) else None for name, value in state.items()}
