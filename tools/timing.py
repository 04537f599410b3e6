"""Programs timed against each other in one process."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any


def in_turn(
    programs: Mapping[str, Callable[[], Any]], rounds: int, warm_up: int = 3, pause: float = 0.0
) -> dict[str, list[float]]:
    """Seconds of each call. Programs alternate, so that a busy machine slows all of them alike.

    Args:
      programs: by name; a call returns when its work is done.
      rounds: timed calls of each; every round begins with another program.
      warm_up: rounds before those.
      pause: seconds of rest before each call.
    """
    names = list(programs)
    times: dict[str, list[float]] = {name: [] for name in names}
    for number in range(warm_up + rounds):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            time.sleep(pause)
            started = time.perf_counter()
            programs[name]()
            if number >= warm_up:
                times[name].append(time.perf_counter() - started)
    return times
