"""What the hosts of a run decide together, and which examples each of them loads."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import jax
import numpy as np

from framer_jax.training.settings import TrainingSettings, check_batch
from framer_jax.training.sharding import batch_sharding, make_mesh

Result = TypeVar("Result")


def host_rows(settings: TrainingSettings) -> list[int]:
    """The places in the global batch of the examples that the devices of this host hold, in their order.

    They are contiguous if the mesh lists the devices of one host after those of another, as it does on CPUs and GPUs.

    Raises:
      ValueError: the mesh does not fit the devices, or they cannot share the batch evenly.
    """
    mesh = make_mesh(settings)
    check_batch(settings, mesh.size, jax.process_count())
    parts = batch_sharding(mesh).addressable_devices_indices_map((settings.global_batch,)).values()
    return sorted({row for part in parts if part for row in range(*part[0].indices(settings.global_batch))})


def any_problem(problem: str) -> str:
    """The problem of this host ('' for none) or, if only other hosts have one, words that say so.

    Every host must call it: all of them get a problem, or none does.
    """
    if jax.process_count() == 1:
        return problem
    from jax.experimental import multihost_utils

    flags = np.asarray(multihost_utils.process_allgather(np.int32(bool(problem))))
    hosts = np.flatnonzero(flags).tolist()
    return problem or (f"as process {hosts[0]} reports" if hosts else "")


def first_host_first(action: Callable[[], Result]) -> Result:
    """The result of an action on every host, which the first one calls before the others, so that they read its files.

    Raises:
      Exception: that of the action on this host.
      ValueError: the action failed on another host, which the message names.
    """
    results: list[Result] = []
    for turn in (True, False):
        error = None
        if turn == (jax.process_index() == 0):
            try:
                results.append(action())
            except Exception as caught:  # whatever it is, the other hosts must not wait for this one
                error = caught
        problem = any_problem(str(error) if error else "")
        if error:
            raise error
        if problem:
            raise ValueError(f"not every host can read the data of this run ({problem}): give all of them the same")
    return results[0]


def from_first_host(values: tuple[int, ...]) -> tuple[int, ...]:
    """The numbers of process 0, on every host."""
    if jax.process_count() == 1:
        return values
    from jax.experimental import multihost_utils

    return tuple(int(value) for value in multihost_utils.broadcast_one_to_all(np.asarray(values, np.int32)))


def wait_for_all(purpose: str) -> None:
    """Wait until every host is here."""
    if jax.process_count() > 1:
        from jax.experimental import multihost_utils

        multihost_utils.sync_global_devices(purpose)


class HostLostError(OSError):
    """Another process of the run has ended."""


LOST = re.compile(
    r"gloo|nccl|unavailable|deadline.exceeded|coordination service|barrier|heartbeat|broken pipe|socket closed|"
    r"connection (reset|closed|refused)",
    re.IGNORECASE,
)
"""What errors say whose cause is a process that does not answer."""


def is_host_lost(error: BaseException) -> bool:
    """Whether an error of a computation or a save means that another process has ended."""
    return jax.process_count() > 1 and bool(LOST.search(str(error)))


@contextmanager
def all_or_none() -> Iterator[None]:
    """Run a block on every host: if it fails on one of them, it fails on all, in place of waiting for that one forever.

    Raises:
      ValueError, OSError, ImportError: as in the block; a ValueError on hosts where only another one fails.
    """
    try:
        yield
    except (ValueError, OSError, ImportError) as error:
        any_problem(str(error) or type(error).__name__)
        raise
    if problem := any_problem(""):
        raise ValueError(f"another process cannot start, {problem}: its message says why, and this one ends with it")


def check_same(text: str, meaning: str) -> None:
    """Refuse processes that were started with different values of what must be the same; every host calls it.

    Args:
      text: the value.
      meaning: what it is, for the message.

    Raises:
      ValueError: on every host, if one has another value than the first.
    """
    if jax.process_count() == 1:
        return
    from jax.experimental import multihost_utils

    digest = np.frombuffer(hashlib.sha256(text.encode()).digest(), np.uint32)
    digests = np.asarray(multihost_utils.process_allgather(digest))
    others = np.flatnonzero((digests != digests[0]).any(axis=1)).tolist()
    if others:
        raise ValueError(
            f"process {', '.join(map(str, others))} was started with another {meaning} than process 0: start the same "
            "command on every host"
        )
