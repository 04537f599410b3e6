"""Portable files of the exported weights: written with every checkpoint, and again when resuming without them."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Protocol

import jax
from jax.sharding import Mesh

from framer_jax.recipes.base import Params
from framer_jax.training.checkpoint import Checkpoints, Restored
from framer_jax.training.hosts import from_first_host
from framer_jax.training.sharding import to_first_host
from framer_jax.training.state import TrainState, inference_params

LATEST, BEST = "latest", "best"
"""Kinds of exported files: of the newest checkpoint, and of the one with the best validation."""


class Export(Protocol):
    """Writes exported groups to files. Only the first host calls it."""

    def digest(self, params: Params, step: int) -> str:
        """Digest of what `write` would write, for the checkpoint of the same step."""
        ...

    def write(self, params: Params, step: int, kinds: Sequence[str]) -> None:
        """Write the files of these kinds (LATEST, BEST)."""
        ...

    def outdated(self, kind: str, step: int, digest: str | None) -> str:
        """Why the file of a kind must be written again, in words; '' if it belongs to `step`, or to a later one.

        `digest` is that of `digest(params, step)`, or None if it is unknown.
        """
        ...


class BackgroundExport:
    """Writes files while the steps go on, one export after the other. Only the first host has one.

    Args:
      export: writes the files, in a thread of its own.
    """

    def __init__(self, export: Export) -> None:
        self._export = export
        self._threads = ThreadPoolExecutor(1, "export")
        self._running: Future[None] | None = None

    def digest(self, params: Params, step: int) -> str:
        """As of `Export.digest`."""
        return self._export.digest(params, step)

    def write(self, params: Params, step: int, kinds: Sequence[str]) -> None:
        """Begin to write, once the export before is complete, whose errors are raised here."""
        self.wait()
        self._running = self._threads.submit(self._export.write, params, step, kinds)

    def wait(self) -> None:
        """Wait until all files are written.

        Raises:
          OSError, ValueError: they could not be.
        """
        running, self._running = self._running, None
        if running is not None:
            running.result()


def export_again(
    export: Export,
    restored: Restored,
    exported: Sequence[str],
    checkpoints: Checkpoints,
    abstract: TrainState,
    mesh: Mesh,
) -> list[str]:
    """Write the exported files that are missing, altered or older than a restored checkpoint; every host calls it.

    Args:
      export: writes the files.
      restored: the checkpoint.
      exported: `Recipe.exported`.
      checkpoints: all checkpoints, for the best one.
      abstract: shapes and shardings of the training state.
      mesh: the mesh of the run.

    Returns:
      One line for each file that was not as it should be.
    """
    steps = {LATEST: restored.step}
    if restored.metadata.best:
        steps[BEST] = int(restored.metadata.best["step"])
    reasons = dict.fromkeys(steps, "")
    if jax.process_index() == 0:
        digests = restored.metadata.exports
        reasons = {kind: export.outdated(kind, step, digests.get(kind)) for kind, step in steps.items()}
    outdated = from_first_host(tuple(int(bool(reason)) for reason in reasons.values()))
    notes = []
    for kind, is_outdated in zip(steps, outdated, strict=True):
        if not is_outdated:
            continue
        state: Any = restored.state
        if steps[kind] != restored.step:
            try:
                state = checkpoints.restore_exported(steps[kind], abstract)
            except (ValueError, FileNotFoundError) as error:
                notes.append(f"{reasons[kind]}, and cannot be written again: {error}")
                continue
        params = to_first_host(inference_params(state, exported), mesh)
        if params is not None:
            export.write(params, steps[kind], (kind,))
        notes.append(f"{reasons[kind]}: written again from the checkpoint of step {steps[kind]}")
    return notes
