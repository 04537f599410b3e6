"""The option --engine: where bulk work is computed, in this process or in shards by the tasks of a Ray cluster."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from typing import Any, Generic, NamedTuple, TypeVar

from framer_jax.commands.shard_option import ALL

ENGINES = ("local", "ray")

FAILED = 2
"""Exit status where shards end with an error, as that of an error in this process."""

PACKAGES = ("ray", "pyarrow", "pandas")
"""What the extra `ray` installs; Ray Data needs all of them."""

INSTALL = "pip install 'framer_jax[ray]'"

Checked = TypeVar("Checked")
Result = TypeVar("Result")


class Plan(NamedTuple, Generic[Checked]):
    """What a command would compute.

    Attributes:
      parts: number of images or files; more shards than these would have nothing to do.
      facts: what joining the results of the shards needs.
    """

    parts: int
    facts: Checked


class ShardedCommand(NamedTuple, Generic[Checked, Result]):
    """A command whose work can be split into shards. Its functions get the parsed arguments, with their --shard.

    All but `report` may run in other processes: their results can be pickled. A shard that is computed again after its
    process was killed computes what is missing.

    Attributes:
      check: refuses what cannot be done, and says what would be computed; it computes and writes nothing.
      compute: computes the shard.
      merge: (arguments, facts of the plan, results of the shards) → the result of all.
      report: prints a result; returns the exit status.
    """

    check: Callable[[argparse.Namespace], Plan[Checked]]
    compute: Callable[[argparse.Namespace], Result]
    merge: Callable[[argparse.Namespace, Checked, Sequence[Result]], Result]
    report: Callable[[argparse.Namespace, Result], int]


def add_engine_options(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    group = parser.add_argument_group("engine", "where it is computed; the folders must be shared by all machines")
    group.add_argument(
        "--engine",
        default=ENGINES[0],
        choices=ENGINES,
        help="local: this process (the default); ray: shards as tasks of Ray Data, repeated if their worker dies",
    )
    group.add_argument(
        "--ray-address",
        metavar="ADDRESS",
        help="a running cluster, such as auto; default: RAY_ADDRESS, else this machine",
    )
    group.add_argument(
        "--ray-shards", type=int, metavar="N", help="number of shards; default: as many as are computed at a time"
    )
    group.add_argument(
        "--ray-cpus", type=int, metavar="N", help="CPUs of a shard on a cluster without GPUs (1); else each has a GPU"
    )


def run_sharded(arguments: argparse.Namespace, command: ShardedCommand[Any, Any], refused: Mapping[str, bool]) -> int:
    """Run a command by the engine that the arguments name.

    Args:
      arguments: the parsed arguments.
      command: its functions.
      refused: what cannot be done in shards that may be repeated, with its remedy → whether it is asked for.

    Returns:
      the exit status.

    Raises:
      ValueError: options that contradict the engine.
      ImportError: a package is missing.
    """
    check_engine(arguments, refused)
    if arguments.engine == "local":
        return command.report(arguments, command.compute(arguments))
    from framer_jax.commands.ray_engine import open_ray
    from framer_jax.commands.shard_tasks import run_shards

    with open_ray(arguments.ray_address, arguments.ray_cpus or 1) as engine:
        joined = run_shards(arguments, command, engine)
    status = max((command.report(arguments, result) for result in joined.results), default=FAILED)
    return status if joined.is_complete else FAILED


def check_engine(arguments: argparse.Namespace, refused: Mapping[str, bool]) -> None:
    """Refuse options that contradict the engine, and an engine that is not installed; as of `run_sharded`."""
    options = {name: getattr(arguments, name) for name in ("ray_address", "ray_shards", "ray_cpus")}
    given = [f"--{name.replace('_', '-')}" for name, value in options.items() if value is not None]
    if arguments.engine != "ray":
        if given:
            raise ValueError(f"{given[0]} is for --engine ray: add this, or omit {given[0]}")
        return
    for name in ("ray_shards", "ray_cpus"):
        if (value := options[name]) is not None and value < 1:
            raise ValueError(f"--{name.replace('_', '-')} must be at least 1, got {value}")
    if arguments.shard != ALL:
        raise ValueError(f"--engine ray makes shards itself: omit --shard {arguments.shard}, or set --ray-shards")
    if getattr(arguments, "overwrite", False):
        raise ValueError(
            "--engine ray repeats a shard whose worker died, which could not tell new results from those that "
            "--overwrite replaces: omit it, and remove the old results or name another output"
        )
    for text in (text for text, is_asked in refused.items() if is_asked):
        raise ValueError(f"--engine ray: {text}")
    if missing := [name for name in PACKAGES if find_spec(name) is None]:
        raise ImportError(f"--engine ray needs the package {missing[0]}: {INSTALL}")
