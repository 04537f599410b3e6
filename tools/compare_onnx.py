"""One-pass networks as ONNX files in ONNX Runtime and OpenVINO: PSNR of their results against float32 in JAX.

    python tools/compare_onnx.py [--networks srvgg-general,rrdb-x4plus,swinir-small] [--sizes 48x64,64x96,104x80]

Each network, with random weights, is exported once for all sizes and run on random
images of these sizes (HEIGHTxWIDTH, LR pixels). The result is one table in Markdown. It needs the extra onnx, and
openvino for its column.
"""

from __future__ import annotations

import argparse
import importlib.util
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import jax
import numpy as np

from framer_jax.checkpoints.networks import build_network, network_shapes
from framer_jax.inference.export import model_program
from framer_jax.inference.onnx_export import INPUT, export_onnx
from framer_jax.recipes.supervised_l1.recipe import supervised_l1
from tools.benchmark_one_pass import NETWORKS, Network

Run = Callable[[np.ndarray], np.ndarray]


def main(command_line: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Compare ONNX files of one-pass networks with JAX.")
    parser.add_argument("--networks", default=",".join(NETWORKS))
    parser.add_argument("--sizes", default="48x64,64x96,104x80", help="LR images, HEIGHTxWIDTH")
    arguments = parser.parse_args(command_line)
    sizes = [(int(height), int(width)) for height, width in (size.split("x") for size in arguments.sizes.split(","))]
    print("| network | LR image | ONNX Runtime, PSNR in dB (largest difference) | OpenVINO |\n|---|---|---|---|")
    for name in arguments.networks.split(","):
        for size, *cells in rows(name, sizes):
            print(f"| {name} | {size[1]}x{size[0]} | {' | '.join(cells)} |", flush=True)
    return 0


def random_weights(network: Network) -> Any:
    """Random weights that keep the size of the signal (He et al. 2015), so that every layer has a part in it."""
    rng = np.random.default_rng(1)

    def drawn(path: Any, leaf: Any) -> np.ndarray:
        noise = rng.standard_normal(leaf.shape).astype(np.float32)
        if leaf.ndim > 1:
            return noise * np.float32(np.sqrt(1.9 / np.prod(leaf.shape[:-1])))
        centre = {"scale": 1.0, "slope": 0.25}.get(path[-1].key, 0.0)
        return np.float32(centre) + np.float32(0.02) * noise

    shapes = network_shapes(network.model, build_network(network.model, network.arguments))
    return jax.tree_util.tree_map_with_path(drawn, shapes)


def rows(name: str, sizes: Sequence[tuple[int, int]]) -> list[tuple[tuple[int, int], str, str]]:
    """(size, ONNX Runtime, OpenVINO) of one network."""
    network = NETWORKS[name]
    module = build_network(network.model, network.arguments)
    recipe, params = supervised_l1(module, 4), {"student": random_weights(network)}
    original = jax.jit(model_program(recipe, params, "sample"))
    content = export_onnx(recipe, params).model.SerializeToString()
    runtimes = (onnxruntime_run(content), openvino_run(content))
    table = []
    for size in sizes:
        image = np.random.default_rng(0).random((1, *size, 3), np.float32)
        expected = np.asarray(original(image, np.uint32(0)))
        first, second = ("not installed" if run is None else difference(run(image), expected) for run in runtimes)
        table.append((size, first, second))
    return table


def difference(result: np.ndarray, expected: np.ndarray) -> str:
    """PSNR for values in [0, 1], and the largest difference."""
    error = result.astype(np.float64) - expected
    squared = float(np.mean(error**2))
    psnr = "equal" if squared == 0 else f"{-10 * math.log10(squared):.1f}"
    return f"{psnr} ({np.abs(error).max():.1e})"


def onnxruntime_run(content: bytes) -> Run:
    import onnxruntime

    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    return lambda image: np.asarray(session.run(None, {INPUT: image})[0])


def openvino_run(content: bytes) -> Run | None:
    """None if OpenVINO is not installed."""
    if importlib.util.find_spec("openvino") is None:
        return None
    import openvino

    core = openvino.Core()
    # The plugin may choose bfloat16 on processors that have it.
    compiled = core.compile_model(core.read_model(content), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return lambda image: np.asarray(compiled(image)[0])


if __name__ == "__main__":
    sys.exit(main())
