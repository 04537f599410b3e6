"""`framer-jax info CONFIG --memory`: whether a training step fits, before any weights or chips are there."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from typing import Any

import jax
from rich.console import Console

from framer_jax.commands.memory_plan.plan import Plan, plan_step, table, topology_devices
from framer_jax.console import table_width

OPTIONS = ("topology", "per_chip")
"""Options of --memory, as attributes of the parsed arguments."""

HERE = "these devices"
"""Name of the devices of this machine in place of a topology's."""


def add_memory_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    memory = parser.add_argument_group("memory of a training step")
    memory.add_argument(
        "--memory", action="store_true", help="compile the training step of a configuration, without weights or data"
    )
    memory.add_argument(
        "--topology",
        action="append",
        metavar="NAME",
        help="TPUs that need not be there, such as v5e:16x16 (extra `tpu`; repeatable); without it, these devices",
    )
    memory.add_argument("--per-chip", type=int, metavar="N", help="examples per chip (training.global_batch in all)")


def check_memory_arguments(arguments: argparse.Namespace) -> None:
    """Refuse options that do not go together.

    Raises:
      ValueError: an option of --memory without it, no configuration, or an impossible number.
    """
    if not arguments.memory:
        if given := [name for name in OPTIONS if getattr(arguments, name) is not None]:
            raise ValueError(f"--{given[0].replace('_', '-')} belongs to --memory: add --memory, or leave it out")
        return
    if not arguments.what:
        raise ValueError("--memory needs a configuration: name a shipped one, or a file")
    if arguments.per_chip is not None and arguments.per_chip < 1:
        raise ValueError(f"--per-chip is {arguments.per_chip}: it must be at least 1")


def print_memory(config: dict[str, Any], arguments: argparse.Namespace) -> None:
    """Print the plan for each topology as soon as it is made; with --json all of them at the end.

    Raises:
      ValueError, ImportError: an unknown topology, a batch that does not split over the devices, a configuration whose
        shapes depend on a file, or no libtpu.
    """
    names = arguments.topology or [HERE]
    devices = {name: jax.devices() if name == HERE else topology_devices(name) for name in names}
    plans: list[Plan] = []
    for name, chips in devices.items():
        plans.append(plan_step(config, name, chips, arguments.per_chip or 0))
        if not arguments.json:
            Console(width=table_width()).print(table(plans[-1:]))
    if arguments.json:
        print(json.dumps([asdict(plan) for plan in plans], indent=1))
