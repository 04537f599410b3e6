"""Timing of programs against each other in one process."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

CPU_FACTS = Path("/proc/cpuinfo")
"""Where Linux names the processor."""


def time_alternately(
    programs: Mapping[str, Callable[[], Any]],
    rounds: int,
    warm_up: int = 3,
    pause: float = 0.0,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Time calls that alternate between programs, so that a busy machine slows all programs alike.

    Args:
      programs: name → function that returns when its work is done.
      rounds: number of timed calls of each program; every round starts with the next program.
      warm_up: number of untimed rounds before them.
      pause: seconds of rest before each call.
      clock: what is read before and after each call, in seconds; time.process_time for the processor's.

    Returns:
      name → seconds of each timed call.
    """
    names = list(programs)
    times: dict[str, list[float]] = {name: [] for name in names}
    for number in range(warm_up + rounds):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            time.sleep(pause)
            started = clock()
            programs[name]()
            if number >= warm_up:
                times[name].append(clock() - started)
    return times


def hardware() -> str:
    """Device, processor, number of usable cores, and version of JAX, in one line."""
    import jax

    lines = CPU_FACTS.read_text(encoding="utf-8").splitlines() if CPU_FACTS.is_file() else []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    processor = next(named, platform.processor() or platform.machine())
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    device = jax.devices()[0].device_kind
    return f"{device}: {processor}, {cores} cores, jax {jax.__version__}"
