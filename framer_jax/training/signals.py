"""Signals that stop a run after a checkpoint."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import jax

from framer_jax.training.checkpoint import Checkpoints


@contextmanager
def stop_signals(checkpoints: Checkpoints) -> Iterator[Callable[[int], bool]]:
    """A function of the step that says whether to stop: true after the first SIGTERM or SIGINT.

    The second signal acts as if there were no handler. With several hosts, jax.distributed has its own handler of
    SIGTERM, and all hosts must agree on the step.
    """
    if jax.process_count() > 1:
        yield checkpoints.reached_preemption
        return
    if threading.current_thread() is not threading.main_thread():
        yield lambda step: False
        return
    received: list[int] = []
    previous = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    def restore() -> None:
        for number, handler in previous.items():
            signal.signal(number, handler)

    def receive(number: int, frame: Any) -> None:
        received.append(number)
        restore()
        print("finishing this step, then saving; a second signal stops at once", file=sys.stderr, flush=True)

    for number in previous:
        signal.signal(number, receive)
    try:
        yield lambda step: bool(received)
    finally:
        restore()
