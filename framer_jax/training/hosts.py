"""What the hosts of a run decide together, and which examples each of them loads."""

from __future__ import annotations

from collections.abc import Callable
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
