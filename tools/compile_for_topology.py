"""Compile the whole training step for TPUs that are not there: its memory, FLOPs and communication, on a CPU.

    python tools/compile_for_topology.py --config framer_d_sd35 --topology v5e:16x16 \
        [--set training.mesh.fsdp=16] [--per-chip 2] [--update NAME] [--json FILE]

No weights and no data are read: all arrays are abstract, and libtpu (`pip install "framer_jax[tpu]"`) compiles the real
step for the chips of the topology. Each configuration is compiled with its FRAMER term and without it (`--only` for one
of them); of a method that trains in phases, `--update` selects the update of one. The printed numbers are the
compiler's plan for one chip. XLA counts the FLOPs of a loop's body once: with a denoiser's `scan`, compare the traced
FLOPs instead. These are FLOPs of products only, with loops counted in full, divided evenly among the chips. Collectives
count as often as they run; their bytes are those of their results on one chip.
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from rich.console import Console

from framer_jax.commands.memory_plan.plan import Plan, plan_step, table, topology_devices
from framer_jax.config import ConfigError, load_config, to_dict
from framer_jax.recipes.components.networks import network_section
from framer_jax.recipes.framer import NO_FRAMER

JSON_NAMES = {"variant": "reading", "error": "complaint"}
"""Field of `Plan` → its name in the JSON file, where they differ."""


def main() -> int:
    parser = argparse.ArgumentParser(description="Compile the training step for TPUs that are not there.")
    parser.add_argument("--config", default="framer_d_sd35", help="configuration: a shipped one by name, or a file")
    parser.add_argument(
        "--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE", help="override one knob"
    )
    parser.add_argument("--topology", action="append", metavar="NAME", help="v5e:4x4, v5p:2x2x2, v6e:16x16, …")
    parser.add_argument(
        "--per-chip", type=int, default=2, metavar="N", help="examples per chip; 0: training.global_batch examples"
    )
    parser.add_argument("--only", choices=["framer", "base"], help="only with, or only without, the FRAMER term")
    parser.add_argument(
        "--update", default="", metavar="NAME", help="only this update of the recipe, as in steps in which it runs"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the plans to this file")
    parser.add_argument("--hlo", type=Path, metavar="FOLDER", help="write the compiled programs to this folder")
    arguments = parser.parse_args()
    try:
        plans = compile_all(arguments)
    except (ConfigError, ValueError, ImportError) as error:
        print(f"compile_for_topology: {error}", file=sys.stderr)
        return 2
    if arguments.json:
        versions = {name: version(name) for name in ("jax", "jaxlib", "libtpu")}
        report = {"config": arguments.config, "set": arguments.overrides, "versions": versions}
        report |= {"update": arguments.update} if arguments.update else {}
        entries = [{JSON_NAMES.get(name, name): value for name, value in asdict(plan).items()} for plan in plans]
        arguments.json.write_text(json.dumps({**report, "plans": entries}, indent=1) + "\n")
    return 0


def compile_all(arguments: argparse.Namespace) -> list[Plan]:
    """Compile for every topology, with and without FRAMER, and print each topology's plans as soon as they are made."""
    config = to_dict(load_config(arguments.config, arguments.overrides))
    configured = config["framer"]["variant"]
    both = list(dict.fromkeys([NO_FRAMER, configured]))
    variants = {"framer": [configured], "base": [NO_FRAMER]}.get(arguments.only, both)
    plans: list[Plan] = []
    for topology in arguments.topology or ["v5e:4x4"]:
        devices = topology_devices(topology)
        topology_plans = [
            plan_step(
                with_variant(config, variant),
                topology,
                devices,
                arguments.per_chip,
                arguments.hlo,
                arguments.update,
            )
            for variant in variants
        ]
        Console(width=160).print(table(topology_plans))
        plans += topology_plans
    return plans


def with_variant(config: dict[str, Any], variant: str) -> dict[str, Any]:
    """A plain configuration with another variant of FRAMER; 'released' compares the blocks' predictions."""
    config = copy.deepcopy(config)
    config["framer"]["variant"] = variant
    if variant == "released":
        section, network = network_section(config["recipe"])
        config["recipe"][section][network]["taps"] = "prediction"
    return config


if __name__ == "__main__":
    sys.exit(main())
