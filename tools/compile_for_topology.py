"""The whole training step compiled for TPUs that are not there: its memory, FLOPs and traffic, from a CPU alone.

    python tools/compile_for_topology.py --config configs/framer_d_sd35.py --topology v5e:16x16 \
        [--set training.mesh.fsdp=16] [--per-chip 2] [--json FILE]

No weights and no data: all arrays are described, and libtpu (`pip install "framer_jax[tpu]"`) compiles the real step
for the described chips. Each configuration is compiled with its FRAMER term and without (`--only` for one of them).
What is printed is the compiler's plan for one chip. XLA's FLOPs count the body of a loop once: with
recipe.denoiser.dit4sr.scan compare the traced FLOPs, which are products only, loops in full, over all chips evenly.
Collectives are counted as often as they run; their bytes are those of a result on one chip.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import jax
import jax.numpy as jnp
from jax.experimental import topologies
from rich.console import Console
from rich.table import Table

from framer_jax.config import ConfigError, load_config, to_dict
from framer_jax.data.latents import HR_LATENT, LR_LATENT
from framer_jax.evaluation.macs import products
from framer_jax.recipes.base import Frozen, Recipe
from framer_jax.recipes.table import add_framer, build_recipe
from framer_jax.recipes.text import text_settings
from framer_jax.training.optimizer import make_optimizers
from framer_jax.training.settings import TrainingSettings, check_batch
from framer_jax.training.sharding import batch_sharding, make_mesh, tree_shardings
from framer_jax.training.state import TrainState, abstract_train_state
from framer_jax.training.step import Step, make_step

MEMORY = {"v4": 32, "v5e": 16, "v5p": 95, "v6e": 32}
"""Generation of TPU → GiB of memory of a chip, as published; the compiler keeps some 0.25 of them for itself."""

COLLECTIVES = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")

BITS = re.compile(r"[a-z]+(\d+)")
"""Of an HLO type such as bf16 or u32; others (pred) have a byte."""

LATENT_STRIDE, CHANNELS = 8, 16
"""HR pixels of a side per latent position of Stable Diffusion 3's autoencoder, and numbers of a position."""

OF_OTHERS = ("sinsr", "dtkd", "augkd")
"""Recipes with a teacher."""


class Arguments(NamedTuple):
    """A step and what it takes, all described: shapes, dtypes, shardings."""

    step: Step
    state: TrainState
    frozen: Frozen
    batch: dict[str, jax.ShapeDtypeStruct]


@dataclass(frozen=True)
class Plan:
    """What the compiler says of one step on one chip; bytes are None where the step does not fit.

    Attributes:
      topology: such as 'v5e:4x4'.
      reading: of FRAMER.
      chips: number of them.
      global_batch: examples per step.
      mesh: devices per axis.
      arguments, temporaries, outputs, peak: bytes; outputs without those that take an argument's place.
      flops: by XLA, bodies of loops once.
      traced_flops: of products, two each, loops in full; a chip's even share.
      collectives: kind → (number, bytes).
      seconds: of compilation.
      fits: whether it fits the chip's memory.
      complaint: of the compiler, where it does not.
    """

    topology: str
    reading: str
    chips: int
    global_batch: int
    mesh: dict[str, int]
    arguments: int | None
    temporaries: int | None
    outputs: int | None
    peak: int | None
    flops: float | None
    traced_flops: float
    collectives: dict[str, tuple[int, int]]
    seconds: float
    fits: bool
    complaint: str = ""


def main() -> int:
    parser = argparse.ArgumentParser(description="Compile the training step for TPUs that are not there.")
    parser.add_argument("--config", default="configs/framer_d_sd35.py")
    parser.add_argument("--set", dest="changes", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--topology", action="append", metavar="NAME", help="v5e:4x4, v5p:2x2x2, v6e:16x16, …")
    parser.add_argument("--per-chip", type=int, default=2, metavar="N", help="examples; 0 keeps training.global_batch")
    parser.add_argument("--only", choices=["framer", "base"], help="with or without the FRAMER term, not both")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    parser.add_argument("--hlo", type=Path, metavar="FOLDER", help="write the compiled programs there")
    arguments = parser.parse_args()
    try:
        plans = compile_all(arguments)
    except (ConfigError, ValueError, ImportError) as error:
        print(f"compile_for_topology: {error}", file=sys.stderr)
        return 2
    if arguments.json:
        versions = {name: version(name) for name in ("jax", "jaxlib", "libtpu")}
        facts = {"config": arguments.config, "set": arguments.changes, "versions": versions}
        arguments.json.write_text(json.dumps({**facts, "plans": [asdict(plan) for plan in plans]}, indent=1) + "\n")
    return 0


def compile_all(arguments: argparse.Namespace) -> list[Plan]:
    """Every topology, with and without FRAMER, printed as they come."""
    config = to_dict(load_config(arguments.config, arguments.changes))
    reading = config["framer"]["reading"]
    readings = {"framer": [reading], "base": ["none"]}.get(arguments.only, list(dict.fromkeys(["none", reading])))
    plans: list[Plan] = []
    for topology in arguments.topology or ["v5e:4x4"]:
        devices = described_devices(topology)
        found = []
        for name in readings:
            changed = {**config, "framer": {**config["framer"], "reading": name}}
            found.append(plan(changed, topology, devices, arguments.per_chip, arguments.hlo))
        Console(width=160).print(table(found))
        plans += found
    return plans


def described_devices(topology: str) -> list[jax.Device]:
    """The chips of a topology by its name, such as 'v5e:4x4'.

    Raises:
      ValueError: there is no such topology.
      ImportError: libtpu, which describes them, is not installed.
    """
    generation, _, shape = topology.partition(":")
    if generation not in MEMORY or not re.fullmatch(r"\d+(x\d+){1,2}", shape):
        raise ValueError(
            f"unknown topology {topology!r}: write a generation ({', '.join(MEMORY)}) and a shape, such as v5e:4x4"
        )
    try:
        version("libtpu")
    except PackageNotFoundError as error:
        raise ImportError('libtpu is not installed: pip install "framer_jax[tpu]"') from error
    # There is no TPU to ask about, or to be alone with.
    for name in ("TPU_SKIP_MDS_QUERY", "ALLOW_MULTIPLE_LIBTPU_LOAD"):
        os.environ.setdefault(name, "1")
    try:
        return list(topologies.get_topology_desc(topology, platform="tpu").devices)
    except Exception as error:  # of whatever type libtpu's is
        raise ValueError(f"topology {topology!r}: {_one_line(error)}: choose another shape, such as 4x4") from error


def plan(
    config: dict[str, Any], topology: str, devices: Sequence[jax.Device], per_chip: int, hlo: Path | None = None
) -> Plan:
    """Compile one step; see `Plan`."""
    batch = per_chip * len(devices) or config["training"]["global_batch"]
    config = {**config, "training": {**config["training"], "global_batch": batch}}
    step, *described = abstract_arguments(config, devices)
    mesh = dict(make_mesh(TrainingSettings(**config["training"]), devices).shape)
    reading = config["framer"]["reading"]
    traced = step.trace(*described)  # type: ignore[attr-defined]
    products_of = sum(found.macs for found in products(traced.jaxpr))
    common = (topology, reading, len(devices), batch, mesh)
    started = time.perf_counter()
    try:
        compiled = traced.lower().compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        seconds = time.perf_counter() - started
        traced_flops = 2.0 * products_of / len(devices)
        return Plan(*common, None, None, None, None, None, traced_flops, {}, seconds, False, _one_line(error))
    seconds = time.perf_counter() - started
    memory, text = compiled.memory_analysis(), compiled.as_text()
    if hlo is not None:
        hlo.mkdir(parents=True, exist_ok=True)
        (hlo / f"{topology.replace(':', '-')}-{reading}.hlo").write_text(text)
    return Plan(
        *common,
        memory.argument_size_in_bytes,
        memory.temp_size_in_bytes,
        memory.output_size_in_bytes - memory.alias_size_in_bytes,
        memory.peak_memory_in_bytes,
        float(compiled.cost_analysis()["flops"]),
        2.0 * products_of / len(devices),
        collectives(text),
        seconds,
        memory.peak_memory_in_bytes <= MEMORY[topology.partition(":")[0]] * 2**30,
    )


def abstract_arguments(config: dict[str, Any], devices: Sequence[jax.Device]) -> Arguments:
    """The step of a configuration as `framer-jax train` makes it, on the mesh that it asks for over some devices.

    Raises:
      ConfigError, ValueError: the configuration cannot be used, or its batch does not split over the devices.
    """
    try:
        settings = TrainingSettings(**config["training"])
    except TypeError as error:
        raise ConfigError(f"training: {error}") from error
    mesh = make_mesh(settings, devices)
    check_batch(settings, mesh.size)
    recipe = described_recipe(config)
    shapes = batch_shapes(config, recipe, settings.global_batch)
    optimizers = make_optimizers(recipe, settings)
    state = abstract_train_state(recipe, optimizers, settings, mesh, shapes)
    step = make_step(recipe, lambda batch: batch, optimizers, settings, mesh, state)
    frozen = _placed(recipe.frozen, tree_shardings(recipe.frozen, mesh, settings))
    batch = _placed(shapes, jax.tree.map(lambda leaf: batch_sharding(mesh), shapes))
    return Arguments(step, state, frozen, batch)


def described_recipe(config: dict[str, Any]) -> Recipe:
    """The recipe, with FRAMER, its frozen weights described.

    Raises:
      ConfigError: it needs networks of which nothing is known without their weights.
    """
    section = config["recipe"]
    if section["name"] != "dit4sr" and (section["name"] in OF_OTHERS or section["space"]["name"] != "wavelet"):
        raise ConfigError(f"recipe {section['name']!r} needs another network's weights: only dit4sr is described then")
    return add_framer(build_recipe(section, "description"), config["framer"])


def batch_shapes(config: dict[str, Any], recipe: Recipe, count: int) -> dict[str, jax.ShapeDtypeStruct]:
    """What a batch holds: photographs, or, of dit4sr, precomputed latents and embeddings."""
    crop, section = config["data"]["crop"], config["recipe"]
    if section["name"] == "dit4sr":
        latent = (crop // LATENT_STRIDE, crop // LATENT_STRIDE, CHANNELS)
        shapes = {HR_LATENT: latent, LR_LATENT: latent, **text_settings(section["text"]).shapes}
    else:
        shapes = {"hr": (crop, crop, 3), "lr": (crop // recipe.scale, crop // recipe.scale, 3)}
    return {name: jax.ShapeDtypeStruct((count, *shape), jnp.float32) for name, shape in shapes.items()}


def _placed(tree: Any, shardings: Any) -> Any:
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), tree, shardings
    )


COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\) -> .* \{$")
CALLED = re.compile(r"(?:calls|to_apply|body|true_computation|false_computation)=%?([\w.\-]+)")
BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
COLLECTIVE = re.compile(rf"= (.*?) ({'|'.join(COLLECTIVES)})(-start)?\(")
ARRAY = re.compile(r"\b([a-z]+\d*[a-z0-9]*)\[([\d,]*)\]")


def collectives(text: str) -> dict[str, tuple[int, int]]:
    """Kind → (how often one runs, bytes of the results on one device), from a compiled program's text.

    Loops count as often as they run, if their condition compares with a constant, as those of a scan do. What the
    compiler spreads over several fusions (one channel) is one.
    """
    bodies, entry = _computations(text)
    rounds = _rounds(bodies, entry)
    seen: set[tuple[str, str]] = set()
    totals: dict[str, tuple[int, int]] = {}
    for name, lines in bodies.items():
        for line in lines:
            found = COLLECTIVE.search(line)
            if not found or not rounds.get(name):
                continue
            kind = found[2]
            channel = re.search(r"channel_id=(\d+)", line)
            key = (kind, channel[1] if channel else line)
            if key in seen:
                continue
            seen.add(key)
            number, size = totals.get(kind, (0, 0))
            each = _bytes(found[1], bool(found[3]) and kind != "all-reduce")  # a started sum gives results only
            totals[kind] = (number + rounds[name], size + rounds[name] * each)
    return totals


def _computations(text: str) -> tuple[dict[str, list[str]], str]:
    """Name → lines of every computation, and the name of the first one."""
    bodies: dict[str, list[str]] = {}
    entry = current = ""
    for line in text.splitlines():
        found = COMPUTATION.match(line)
        if found:
            current = found[2]
            bodies[current] = []
            entry = current if found[1] else entry
        elif current and line.startswith(" "):
            bodies[current].append(line)
        elif line.startswith("}"):
            current = ""
    return bodies, entry


def _rounds(bodies: dict[str, list[str]], entry: str) -> dict[str, int]:
    """How often each computation runs; a callee is printed before its callers."""
    rounds = dict.fromkeys(bodies, 0) | {entry: 1}
    for name in reversed(list(bodies)):
        for line in bodies[name]:
            called = CALLED.findall(line)
            for group in BRANCHES.findall(line):
                called += [part.strip().lstrip("%") for part in group.split(",")]
            times = rounds[name] * (_trips(bodies, line) if " while(" in line else 1)
            for callee in called:
                if callee in rounds:
                    rounds[callee] += times
    return rounds


def _trips(bodies: dict[str, list[str]], line: str) -> int:
    known = re.search(r'known_trip_count":\{"n":"(\d+)"', line)
    if known:
        return int(known[1])
    condition = re.search(r"condition=%?([\w.\-]+)", line)
    numbers = re.findall(
        r"[su]32\[\]\S* constant\((\d+)\)", "\n".join(bodies.get(condition[1] if condition else "", []))
    )
    return max(map(int, numbers), default=1)


def _bytes(shape: str, operands_first: bool) -> int:
    """Bytes of 'bf16[2,3]{1,0}' or of all in a tuple; or of the second part of (operands, results, …)."""
    shape = re.sub(r"\{[^{}]*\}|/\*.*?\*/", "", shape)
    if operands_first and shape.startswith("("):
        groups = re.findall(r"\([^()]*\)|[a-z]\w*\[[\d,]*\]", shape[1:-1])
        shape = groups[1] if len(groups) > 1 else shape
    total = 0
    for kind, sides in ARRAY.findall(shape):
        bits = BITS.match(kind)
        total += math.prod(int(side) for side in sides.split(",") if side) * (int(bits[1]) if bits else 8) // 8
    return total


def table(plans: Sequence[Plan]) -> Table:
    """Rows of plans for one topology, the first one the base of the ratios."""
    first = plans[0]
    found = Table(
        title=f"{first.topology}: {first.chips} chips, global batch {first.global_batch}, mesh {first.mesh}; per chip"
    )
    for heading in ("FRAMER", "arguments", "temporaries", "outputs", "peak", "XLA FLOPs", "traced FLOPs"):
        found.add_column(heading, justify="left" if heading == "FRAMER" else "right")
    for heading in ("collectives", "compile", "fits"):
        found.add_column(heading)
    for one in plans:
        found.add_row(
            one.reading,
            *(_mebibytes(size) for size in (one.arguments, one.temporaries, one.outputs)),
            _mebibytes(one.peak) + _more(one.peak, first.peak),
            "-" if one.flops is None else f"{one.flops:.4g}" + _more(one.flops, first.flops),
            f"{one.traced_flops:.4g}" + _more(one.traced_flops, first.traced_flops),
            ", ".join(f"{kind} {n} ({size / 2**20:.0f} MiB)" for kind, (n, size) in one.collectives.items()),
            f"{one.seconds:.0f} s",
            "yes" if one.fits else f"no: {one.complaint[:200]}",
        )
    return found


def _mebibytes(size: int | None) -> str:
    return "-" if size is None else f"{size / 2**20:.0f} MiB"


def _more(value: float | None, base: float | None) -> str:
    return "" if not value or not base or value == base else f" ({value / base - 1:+.2%})"


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:600]


if __name__ == "__main__":
    sys.exit(main())
