"""How much of its chips' peak a run reaches: model FLOPs utilization (PaLM, arXiv 2204.02311, appendix B)."""

from __future__ import annotations

import re
from typing import Any

import jax

from framer_jax.macs import products

PEAK_TERAFLOPS = {
    "TPU v4": 275,
    "TPU v5 lite": 197,
    "TPU v5e": 197,
    "TPU v5": 459,
    "TPU v5p": 459,
    "TPU v6 lite": 918,
    "TPU v6e": 918,
    "NVIDIA A100": 312,
    "NVIDIA H100": 989,
    "NVIDIA H100 PCIe": 756,
    "NVIDIA H100 NVL": 835,
    "NVIDIA H200": 989,
    "NVIDIA L4": 121,
    "Tesla V100": 125,
    "Tesla T4": 65,
}
"""Whole words at the beginning of `jax.Device.device_kind` → published dense peak in TFLOP/s, of bfloat16 (of
float16 on V100 and T4). NVIDIA's are those of the SXM modules, except where the name says otherwise."""


def peak_teraflops(device_kind: str) -> float | None:
    """The published peak of a kind of device, in TFLOP/s; None for one that is not in the table."""
    names = [name for name in PEAK_TERAFLOPS if re.match(rf"{name}(?![0-9A-Za-z])", device_kind)]
    return float(PEAK_TERAFLOPS[max(names, key=len)]) if names else None


def step_teraflops(step_function: Any, arguments: tuple[Any, ...]) -> float:
    """TFLOPs of the products of one call, over all devices: two for each multiply-accumulate, loops counted in full.

    Args:
      step_function: a function made by `jax.jit`. Its trace is kept for the call, so that nothing is traced twice.
      arguments: of the call; only shapes matter.
    """
    return 2e-12 * sum(product.macs for product in products(step_function.trace(*arguments).jaxpr))


def utilization(teraflops: float, seconds: float, devices: int, peak: float) -> float:
    """The fraction of the peak: TFLOPs of a step, its seconds, the number of devices and the peak of one in TFLOP/s."""
    return teraflops / (seconds * devices * peak)


def peak_of_mesh(mesh: jax.sharding.Mesh) -> float | None:
    """The published peak of one device of a mesh, in TFLOP/s; None if it is unknown."""
    return peak_teraflops(mesh.devices.flat[0].device_kind)
