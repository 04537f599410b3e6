"""The compiler's plan of a training step: memory, FLOPs and communication of a chip, also of one that is not there."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import jax
from jax.experimental import topologies
from rich.table import Table

from framer_jax.commands.memory_plan.abstract_step import abstract_step, training_settings
from framer_jax.commands.memory_plan.hlo import collectives
from framer_jax.macs import products
from framer_jax.training.sharding import make_mesh

MEMORY = {"v4": 32, "v5e": 16, "v5p": 95, "v6e": 32}
"""TPU generation → published memory of a chip in GiB, of which the compiler reserves about 0.25."""


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
      fits: whether the step fits into the chip's memory; None if that is unknown.
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
    fits: bool | None
    error: str = ""


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


def memory_of(topology: str, device: jax.Device) -> int | None:
    """The memory of one device in bytes: as published for a topology, else as the device reports it, or None."""
    published = MEMORY.get(topology.partition(":")[0])
    if published is not None:
        return published * 2**30
    limit = (device.memory_stats() or {}).get("bytes_limit")
    return None if limit is None else int(limit)


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
    available = memory_of(topology, devices[0])
    memory, text = compiled.memory_analysis(), compiled.as_text()
    outputs = memory.output_size_in_bytes - memory.alias_size_in_bytes
    peak = memory.peak_memory_in_bytes
    if devices[0].platform == "cpu":  # whose compiler leaves temporaries out of the peak
        peak = memory.argument_size_in_bytes + memory.temp_size_in_bytes + outputs
    if hlo is not None:
        hlo.mkdir(parents=True, exist_ok=True)
        (hlo / f"{topology.replace(':', '-')}-{variant}.hlo").write_text(text)
    return Plan(
        *common,
        memory.argument_size_in_bytes,
        memory.temp_size_in_bytes,
        outputs,
        peak,
        float(compiled.cost_analysis()["flops"]),
        traced_flops,
        collectives(text),
        seconds,
        None if available is None else peak <= available,
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
            "unknown" if plan.fits is None else "yes" if plan.fits else f"no: {plan.error[:200]}",
        )
    return rows


def _mebibytes(size: int | None) -> str:
    return "-" if size is None else f"{size / 2**20:.0f} MiB"


def _change(value: float | None, base: float | None) -> str:
    return "" if not value or not base or value == base else f" ({value / base - 1:+.2%})"


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:600]
