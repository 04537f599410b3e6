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
import os
import re
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import jax
import jax.numpy as jnp
from jax.experimental import topologies
from rich.console import Console
from rich.table import Table

from framer_jax.checkpoints.open import READER, build_recipe
from framer_jax.config import ConfigError, load_config, to_dict
from framer_jax.data.latents import HR_LATENT, LR_LATENT
from framer_jax.knobs import settings_from
from framer_jax.macs import products
from framer_jax.recipes.base import Frozen, Recipe
from framer_jax.recipes.components.networks import network_section
from framer_jax.recipes.components.spaces import build_space
from framer_jax.recipes.components.text import text_sizes
from framer_jax.recipes.framer import NO_FRAMER, add_framer
from framer_jax.recipes.method import CAPTIONED_PHOTOS, LATENTS, PHOTOS
from framer_jax.recipes.table import build_recipe as build_from_shapes
from framer_jax.recipes.table import method_of
from framer_jax.training.optimizer import make_optimizers
from framer_jax.training.settings import TrainingSettings, check_batch
from framer_jax.training.sharding import batch_sharding, make_mesh, tree_shardings
from framer_jax.training.state import TrainState, abstract_train_state
from framer_jax.training.step import Step, make_step
from tools.hlo import collectives
from tools.shape_reader import ShapeReader, placeholders

MEMORY = {"v4": 32, "v5e": 16, "v5p": 95, "v6e": 32}
"""TPU generation → published memory of a chip in GiB, of which the compiler reserves about 0.25."""

LATENT_SPACES = ("kl", "taesd", "taesd3")
"""Latent spaces in which latents can be precomputed."""

DESCRIBED_SPACES = ("wavelet", *LATENT_SPACES)
"""Latent spaces whose frozen weights have known shapes without a file."""


class AbstractStep(NamedTuple):
    """A training step and its arguments as shapes, dtypes and shardings."""

    step: Step
    state: TrainState
    frozen: Frozen
    batch: dict[str, jax.ShapeDtypeStruct]


@dataclass(frozen=True)
class Plan:
    """The compiler's plan of one step on one chip; sizes and FLOPs are None where the step does not fit.

    Attributes:
      topology: name of the topology, such as 'v5e:4x4'.
      variant: variant of FRAMER.
      chips: number of chips.
      global_batch: examples per step.
      mesh: devices per axis.
      arguments, temporaries, outputs, peak: bytes; outputs that reuse the memory of an argument are not counted.
      flops: XLA's count, with loop bodies counted once.
      traced_flops: FLOPs of products (two per multiply-accumulate) with loops counted in full; one chip's equal share.
      collectives: kind → (number, bytes).
      seconds: time of compilation.
      fits: whether the step fits into the chip's memory.
      error: the compiler's message where the step does not fit.
    """

    topology: str
    variant: str
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
    error: str = ""


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


def topology_devices(topology: str) -> list[jax.Device]:
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
    # There is no TPU to query or to lock.
    for name in ("TPU_SKIP_MDS_QUERY", "ALLOW_MULTIPLE_LIBTPU_LOAD"):
        os.environ.setdefault(name, "1")
    try:
        return list(topologies.get_topology_desc(topology, platform="tpu").devices)
    except Exception as error:  # libtpu raises several types
        raise ValueError(f"topology {topology!r}: {_one_line(error)}: choose another shape, such as 4x4") from error


def plan_step(
    config: dict[str, Any],
    topology: str,
    devices: Sequence[jax.Device],
    per_chip: int,
    hlo: Path | None = None,
    update: str = "",
) -> Plan:
    """Compile the step of a plain configuration.

    Args:
      config: the configuration; its global batch is replaced unless `per_chip` is 0.
      topology: name of the topology.
      devices: its chips.
      per_chip: examples per chip, or 0.
      hlo: folder for the compiled program; None: it is not written.
      update: name of the only update to compile; '': all.
    """
    batch = per_chip * len(devices) or config["training"]["global_batch"]
    config = {**config, "training": {**config["training"], "global_batch": batch}}
    step, *arguments = abstract_step(config, devices, update)
    mesh = dict(make_mesh(training_settings(config), devices).shape)
    variant = config["framer"]["variant"]
    traced = step.trace(*arguments)  # type: ignore[attr-defined]
    traced_flops = 2.0 * sum(product.macs for product in products(traced.jaxpr)) / len(devices)
    common = (topology, variant, len(devices), batch, mesh)
    started = time.perf_counter()
    try:
        compiled = traced.lower().compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        seconds = time.perf_counter() - started
        return Plan(*common, None, None, None, None, None, traced_flops, {}, seconds, False, _one_line(error))
    seconds = time.perf_counter() - started
    memory, text = compiled.memory_analysis(), compiled.as_text()
    if hlo is not None:
        hlo.mkdir(parents=True, exist_ok=True)
        (hlo / f"{topology.replace(':', '-')}-{variant}.hlo").write_text(text)
    return Plan(
        *common,
        memory.argument_size_in_bytes,
        memory.temp_size_in_bytes,
        memory.output_size_in_bytes - memory.alias_size_in_bytes,
        memory.peak_memory_in_bytes,
        float(compiled.cost_analysis()["flops"]),
        traced_flops,
        collectives(text),
        seconds,
        memory.peak_memory_in_bytes <= MEMORY[topology.partition(":")[0]] * 2**30,
    )


def training_settings(config: dict[str, Any]) -> TrainingSettings:
    """The `training` section; ValueError for a knob or value that is not legal."""
    settings: TrainingSettings = settings_from(TrainingSettings, config["training"], "training")
    return settings


def abstract_step(config: dict[str, Any], devices: Sequence[jax.Device], update: str = "") -> AbstractStep:
    """The step of a plain configuration as `framer-jax train` makes it, on its mesh over the given devices.

    With the name of an update, the step has no other one, and it always runs.

    Raises:
      ConfigError, ValueError: the configuration cannot be used, or its batch does not split over the devices.
    """
    settings = training_settings(config)
    mesh = make_mesh(settings, devices)
    check_batch(settings, mesh.size)
    recipe = described_recipe(config)
    recipe = with_update(recipe, update) if update else recipe
    shapes = batch_shapes(config, recipe, settings.global_batch)
    optimizers = make_optimizers(recipe, settings)
    state = abstract_train_state(recipe, optimizers, settings, mesh, shapes)
    step = make_step(recipe, lambda batch: batch, optimizers, settings, mesh, state)
    frozen = _with_shardings(recipe.frozen, tree_shardings(recipe.frozen, mesh, settings))
    batch = _with_shardings(shapes, jax.tree.map(lambda leaf: batch_sharding(mesh), shapes))
    return AbstractStep(step, state, frozen, batch)


def described_recipe(config: dict[str, Any]) -> Recipe:
    """The recipe with FRAMER, built without weights: its frozen weights are shapes.

    Raises:
      ConfigError: the shapes of some frozen weights depend on a file.
    """
    section = config["recipe"]
    teachers = [file.knob for file in method_of(section).weight_files if file.role.startswith("teacher")]
    data = training_data(section)
    from_photos = _space(section) in LATENT_SPACES and data != LATENTS
    if teachers or from_photos or _space(section) not in DESCRIBED_SPACES:
        with placeholders(section) as described:
            recipe = build_from_shapes(described, ShapeReader(described), "training", data)
    else:
        recipe = build_recipe(section, "description", data)
    return add_framer(recipe, config["framer"])


def with_update(recipe: Recipe, name: str) -> Recipe:
    """The recipe with one update alone, due in every step.

    Raises:
      ValueError: it has no such update.
    """
    updates = {update.name: update for update in recipe.updates}
    if name not in updates:
        raise ValueError(f"--update: {recipe.name} has no update {name!r}: choose one of {', '.join(updates)}")
    return replace(recipe, updates=(replace(updates[name], every=1, offset=0, start=0, stop=None),))


def training_data(section: dict[str, Any]) -> str:
    """The kind of training data: latents where they can be precomputed and the method trains on them, else photos."""
    photos = CAPTIONED_PHOTOS if "text" in section and section["text"]["condition"] == "captions" else PHOTOS
    if _space(section) not in LATENT_SPACES:
        return photos
    try:
        method_of(section).batch_entries(section, LATENTS)
    except ValueError:
        return photos
    return LATENTS


def _space(section: dict[str, Any]) -> str:
    """Name of the latent space; methods without one need no other weights, as with wavelets."""
    return str(section["space"]["name"]) if "space" in section else "wavelet"


def batch_shapes(config: dict[str, Any], recipe: Recipe, count: int) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes of the entries of a batch of `count` examples."""
    crop, section = config["data"]["crop"], config["recipe"]
    shapes: dict[str, tuple[int, ...]] = {"hr": (crop, crop, 3), "lr": (crop // recipe.scale, crop // recipe.scale, 3)}
    if "space" in section:
        space = build_space(section, "description", READER)
        side = crop // space.image_pixels_per_latent
        shapes |= dict.fromkeys((HR_LATENT, LR_LATENT), (side, side, space.channels))
    if "text" in section:
        shapes |= text_sizes(section).shapes
    return {name: jax.ShapeDtypeStruct((count, *shapes[name]), jnp.float32) for name in recipe.batch_entries}


def _with_shardings(tree: Any, shardings: Any) -> Any:
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), tree, shardings
    )


def table(plans: Sequence[Plan]) -> Table:
    """One row per plan of one topology; changes are relative to the first plan."""
    first = plans[0]
    rows = Table(
        title=f"{first.topology}: {first.chips} chips, global batch {first.global_batch}, mesh {first.mesh}; per chip"
    )
    for heading in ("FRAMER", "arguments", "temporaries", "outputs", "peak", "XLA FLOPs", "traced FLOPs"):
        rows.add_column(heading, justify="left" if heading == "FRAMER" else "right")
    for heading in ("collectives", "compile", "fits"):
        rows.add_column(heading)
    for plan in plans:
        rows.add_row(
            plan.variant,
            *(_mebibytes(size) for size in (plan.arguments, plan.temporaries, plan.outputs)),
            _mebibytes(plan.peak) + _change(plan.peak, first.peak),
            "-" if plan.flops is None else f"{plan.flops:.4g}" + _change(plan.flops, first.flops),
            f"{plan.traced_flops:.4g}" + _change(plan.traced_flops, first.traced_flops),
            ", ".join(f"{kind} {n} ({size / 2**20:.0f} MiB)" for kind, (n, size) in plan.collectives.items()),
            f"{plan.seconds:.0f} s",
            "yes" if plan.fits else f"no: {plan.error[:200]}",
        )
    return rows


def _mebibytes(size: int | None) -> str:
    return "-" if size is None else f"{size / 2**20:.0f} MiB"


def _change(value: float | None, base: float | None) -> str:
    return "" if not value or not base or value == base else f" ({value / base - 1:+.2%})"


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:600]


if __name__ == "__main__":
    sys.exit(main())
