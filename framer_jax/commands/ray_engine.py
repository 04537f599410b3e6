"""Tasks as maps of Ray Data on a running cluster, or on one that is started on this machine."""

from __future__ import annotations

import logging
import os
import pickle
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from typing import Any

from framer_jax.commands.shard_tasks import Engine, Outcome, Task, run_task

ATTEMPTS = 3
"""How often a task is begun whose worker dies each time, as one does that needs too much memory."""


@contextmanager
def open_ray(address: str | None, cpus: int) -> Iterator[Engine]:
    """Connect to a cluster of Ray, or start one on this machine, which ends with the block.

    A connection that this process already has is used, and stays. Within the block, standard output is standard error:
    Ray prints what its processes print.

    Args:
      address: of a running cluster; None for that of RAY_ADDRESS or, without it, a cluster on this machine.
      cpus: CPUs of a task, where there is no GPU.

    Raises:
      ConnectionError: there is no cluster at the address, or none can be started.
      ValueError: no machine has enough CPUs.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is reported to anyone
    import ray

    is_connected = ray.is_initialized()
    with redirect_stdout(sys.stderr):
        if not is_connected:
            address = address or os.environ.get("RAY_ADDRESS") or "local"
            options: dict[str, Any] = {"include_dashboard": False} if address == "local" else {}
            try:
                ray.init(address=address, logging_level=logging.WARNING, **options)
            except Exception as error:  # Ray raises plain ones, such as for a machine too busy to start in time
                raise ConnectionError(f"--engine ray: no connection to a cluster ({address}): {error}") from error
        try:
            yield _engine(ray, cpus)
        finally:
            if not is_connected:
                ray.shutdown()


def _engine(ray: Any, cpus: int) -> Engine:
    """The engine of the connected cluster."""
    resources = ray.cluster_resources()
    gpus, all_cpus = (int(resources.get(name, 0)) for name in ("GPU", "CPU"))
    if gpus:
        request, slots, what = {"num_gpus": 1}, gpus, "a GPU"
    else:
        machines = [int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"]]
        request, slots = {"num_cpus": cpus}, sum(each // cpus for each in machines)
        what = f"{cpus} CPU{'s' * (cpus > 1)}"
        if not slots:
            raise ValueError(f"--ray-cpus {cpus}: no machine of the cluster has so many (they have {machines})")
    description = f"Ray: {all_cpus} CPUs and {gpus} GPUs, so {slots} tasks at a time with {what} each"
    threads = 0 if gpus else cpus

    def outcomes(tasks: Sequence[Task]) -> Iterator[tuple[int, Outcome]]:
        import ray.data

        logging.getLogger("ray.data").setLevel(logging.WARNING)
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False  # ours says how many shards are done
        context.print_on_execution_start = False
        context.max_errored_blocks = -1  # a task that is lost does not end the others
        attempts = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(_Attempts).remote()
        rows = [{"number": number, "task": pickle.dumps(task)} for number, task in enumerate(tasks)]
        dataset = ray.data.from_items(rows, override_num_blocks=len(rows))
        for row in dataset.map(_run_row, fn_args=(attempts, threads), **request).iter_rows():
            yield int(row["number"]), Outcome(**{name: row[name] for name in Outcome._fields})

    return Engine(description, slots, outcomes)


class _Attempts:
    """Counts how often each task was begun; an actor, since it outlives the workers."""

    def __init__(self) -> None:
        self._counts: dict[int, int] = {}

    def begin(self, number: int) -> int:
        """The number of this attempt, from 1 on."""
        self._counts[number] = self._counts.get(number, 0) + 1
        return self._counts[number]


def _run_row(row: dict[str, Any], attempts: Any, threads: int) -> dict[str, Any]:
    """Compute the task of a row of the dataset, in a worker of Ray."""
    import ray

    if threads:
        os.environ["NPROC"] = str(threads)  # XLA computes with so many threads in place of all of the machine
    attempt = ray.get(attempts.begin.remote(row["number"]))
    if attempt > ATTEMPTS:
        outcome = Outcome(
            error=f"its worker died {ATTEMPTS} times; one that needs too much memory is killed: see the log of Ray, "
            "and give each shard more with --ray-cpus"
        )
    else:
        outcome = run_task(pickle.loads(row["task"]))
    return {"number": row["number"], **outcome._replace(attempt=attempt)._asdict()}
