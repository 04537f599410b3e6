"""What the hosts of a run decide together."""

from __future__ import annotations

import jax
import numpy as np


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
