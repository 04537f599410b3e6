"""Engines of this process, in place of Ray's."""

from contextlib import contextmanager

from framer_jax.commands import engine_option, ray_engine
from framer_jax.commands.shard_tasks import Engine, run_task


def in_reverse(tasks):
    """The last task ends first."""
    for number in reversed(range(len(tasks))):
        yield number, run_task(tasks[number])


def repeated(tasks):
    """Every task is computed twice, as if its worker had died before its result was fetched."""
    for number, task in enumerate(tasks):
        run_task(task)
        yield number, run_task(task)._replace(attempt=2)


def engine_of(outcomes, slots=2):
    return Engine("Two slots", slots, outcomes)


def use_engine(monkeypatch, outcomes, slots=2):
    """`--engine ray` needs no package, and computes by such a function."""

    @contextmanager
    def open_engine(address, cpus):
        yield engine_of(outcomes, slots)

    monkeypatch.setattr(engine_option, "find_spec", lambda name: name)
    monkeypatch.setattr(ray_engine, "open_ray", open_engine)
