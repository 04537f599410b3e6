"""A trace of some steps by JAX's profiler, which XProf and TensorBoard's profile plug-in show."""

from __future__ import annotations

from pathlib import Path

import jax

FOLDER = "profile"
"""Folder of the traces in a work directory."""


class Profile:
    """Traces the steps first, …, first + count - 1 of a run; on several hosts, those of the first one.

    Args:
      workdir: gets the folder `profile/`.
      first: the first step, counted from 1; None: no trace.
      count: number of steps.
    """

    def __init__(self, workdir: Path, first: int | None, count: int) -> None:
        self._folder = workdir / FOLDER
        self._first: int | None = first if jax.process_index() == 0 else None
        self._last = (first or 0) + count - 1
        self._running = False

    def missed(self, step: int, steps: int) -> str:
        """Why a run that goes on from `step` to `steps` has no trace, although there is a first step; '' if it has."""
        if self._first is None or step < self._first <= steps:
            return ""
        return f"training.profile_step {self._first} is none of the steps {step + 1} to {steps}: nothing is traced"

    def before(self, step: int) -> None:
        """Begin the trace if `step` is its first one; call it before the step is dispatched."""
        if step == self._first:
            jax.profiler.start_trace(str(self._folder))
            self._running = True

    def after(self, step: int, state: object) -> str:
        """End the trace after its last step, whose `state` is waited for; returns what to log, or ''."""
        if not self._running or step < self._last:
            return ""
        jax.block_until_ready(state)
        self.close()
        return f"steps {self._first} to {step} are traced in {self._folder}"

    def close(self) -> None:
        """End a trace that is running, such as that of a run that ends."""
        if self._running:
            self._running = False
            jax.profiler.stop_trace()
