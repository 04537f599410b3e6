"""Where the wall time of a run goes, for the line at its end."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

START, COMPILATION, DATA, TRAINING, VALIDATION, SAVING, END = (
    "start",
    "compilation",
    "waiting for data",
    "training",
    "validation",
    "saving",
    "end",
)
"""Kinds of work. `start` is all before the first step, `compilation` the first step, `training` includes waiting for
the device, `saving` is what saves take from the steps (files are written in the background), and `end` the last save's
wait for them."""


@dataclass
class WallTime:
    """Seconds of the run by kind of work, and the longest piece of each.

    Attributes:
      began: time.perf_counter() at which the run began.
      seconds: kind of work → seconds.
      longest: kind of work → seconds of its longest piece.
    """

    began: float
    seconds: dict[str, float] = field(default_factory=dict)
    longest: dict[str, float] = field(default_factory=dict)

    def elapsed(self) -> float:
        """Seconds since the run began."""
        return time.perf_counter() - self.began

    def add(self, kind: str, seconds: float) -> None:
        """Count seconds of a kind of work."""
        self.seconds[kind] = self.seconds.get(kind, 0.0) + seconds
        self.longest[kind] = max(self.longest.get(kind, 0.0), seconds)

    @contextmanager
    def during(self, kind: str) -> Iterator[None]:
        """Count the time of a block, also of one that fails."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self.add(kind, time.perf_counter() - began)

    def summary(self) -> str:
        """The shares of all kinds of work, in one line."""
        total = max(self.elapsed(), 1e-9)
        shares = [
            f"{kind} {share(self.seconds[kind] / total)}"
            + (f" (longest {self.longest[kind]:.2f} s)" if kind == SAVING else "")
            for kind in sorted(self.seconds, key=lambda kind: -self.seconds[kind])
        ]
        rest = max(0.0, 1 - sum(self.seconds.values()) / total)
        return f"wall time {total:.0f} s: {', '.join([*shares, f'other {share(rest)}'])}"


def share(fraction: float) -> str:
    """A fraction in per cent, with a decimal where it is small."""
    return f"{100 * fraction:.0f} %" if fraction >= 0.1 else f"{100 * fraction:.1f} %"
