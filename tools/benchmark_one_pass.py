"""One-pass networks, x4, float32, on the CPU: framer_jax against PyTorch, ONNX Runtime and OpenVINO, in one run.

    python tools/benchmark_one_pass.py [--networks srvgg-general,rrdb-x4plus,swinir-small] [--sizes 128,512]
        [--swinir-checkout CHECKOUT] [--programs framer_jax,eager,compile,onnxruntime,openvino] [--rounds 20]
        [--seconds 300] [--threads 2] [--clock wall] [--json FILE]

All programs of a case have the same random weights, converted by framer_jax.porting; their outputs are compared before
anything is timed. They run alternately, so that a busy machine slows all alike; a ratio is the median over the rounds
of the peer's time divided by framer_jax's in the same round. Compilation and warm-up are not part of the times. On a
machine with other work, `--threads 1 --clock processor` compares the processor's time, in which waiting does not count;
threads that wait for each other would.
Programs whose package is not installed are left out, with a note: torch, onnxruntime (with onnx), openvino; the PyTorch
peer of SwinIR is the original, from your clone of its repository.
"""

from __future__ import annotations

import argparse
import importlib.util
import io
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

from tools.benchmark_swinir import (
    LARGEST_ERROR,
    PAUSE,
    Program,
    compiled_program,
    relative_error,
    run,
    torch_program,
)
from tools.timing import time_alternately

FEWEST_ROUNDS, WARM_UP = 3, 1

CLOCKS = {"wall": time.perf_counter, "processor": time.process_time}
"""What is measured of a call."""

LARGEST = LARGEST_ERROR["cpu", "float32"]


class Network(NamedTuple):
    """One network: its weight map and constructor arguments."""

    model: str
    arguments: Mapping[str, Any]


NETWORKS: Mapping[str, Network] = {
    "srvgg-general": Network(
        "srvgg", {"scale": 4, "channels": 64, "depth": 32, "activation": "prelu", "image_channels": 3}
    ),
    "rrdb-x4plus": Network("rrdbnet", {"scale": 4, "channels": 64, "blocks": 23, "growth": 32, "image_channels": 3}),
    "swinir-small": Network("swinir", {"scale": 4}),
}

NEEDS: Mapping[str, tuple[str, ...]] = {
    "framer_jax": (),
    "eager": ("torch",),
    "compile": ("torch",),
    "onnxruntime": ("torch", "onnx", "onnxruntime"),
    "openvino": ("torch", "openvino"),
}
"""Program → the packages that it needs besides framer_jax; ONNX Runtime and OpenVINO get what PyTorch exports."""


def main(command_line: Sequence[str] | None = None) -> int:
    return run("benchmark_one_pass", parse(command_line), benchmark, markdown)


def parse(command_line: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Time one-pass networks against PyTorch, ONNX Runtime and OpenVINO.")
    parser.add_argument("--networks", default=",".join(NETWORKS), help="names, separated by commas (all)")
    parser.add_argument("--sizes", default="128,512", help="sides of the LR image, pixels, separated by commas")
    parser.add_argument("--programs", default=",".join(NEEDS), help="names, separated by commas (all)")
    parser.add_argument("--swinir-checkout", type=Path, metavar="PATH", help="your clone of SwinIR, for its peers")
    parser.add_argument("--rounds", type=int, default=20, help="most timed calls of each program")
    parser.add_argument(
        "--seconds", type=float, default=300.0, help=f"time of a case; at least {FEWEST_ROUNDS} calls of each program"
    )
    parser.add_argument("--threads", type=int, help="threads of every program; default: one per core")
    parser.add_argument(
        "--clock", default="wall", choices=CLOCKS, help="time of the call, or of the processor (with --threads 1)"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures, with those of every round")
    arguments = parser.parse_args(command_line, argparse.Namespace(device="cpu", dtype="float32"))
    for option, known in (("networks", NETWORKS), ("programs", NEEDS)):
        names = getattr(arguments, option).split(",")
        if unknown := [name for name in names if name not in known]:
            parser.error(f"--{option}: {unknown[0]!r} is none of {', '.join(known)}")
        setattr(arguments, option, names)
    sizes = arguments.sizes.split(",")
    if not all(size.isdigit() and int(size) > 0 for size in sizes):
        parser.error(f"--sizes {arguments.sizes!r}: give sides in pixels, such as 128,512")
    arguments.sizes = list(map(int, sizes))
    if arguments.rounds < FEWEST_ROUNDS or (arguments.threads or 1) < 1:
        parser.error(f"--rounds must be at least {FEWEST_ROUNDS}, --threads at least 1")
    if arguments.clock == "processor" and arguments.threads != 1:
        parser.error("--clock processor counts threads that wait for each other as work: add --threads 1")
    if "framer_jax" not in arguments.programs:
        parser.error("--programs: ratios are to framer_jax, which must be among them")
    return arguments


def benchmark(arguments: argparse.Namespace) -> dict[str, Any]:
    """Time every network at every size."""
    from importlib.metadata import PackageNotFoundError, version

    from tools.benchmark_degradation import Load

    def version_of(package: str) -> str:
        try:
            return version(package)
        except PackageNotFoundError:
            return "not installed"

    load = Load()
    cases = [time_case(name, size, arguments) for name in arguments.networks for size in arguments.sizes]
    packages = ("jax", "jaxlib", "torch", "onnxruntime", "openvino")
    return {
        "dtype": "float32",
        "clock": arguments.clock,
        "threads": arguments.threads,
        "versions": {package: version_of(package) for package in packages},
        "others_load": load.others(),
        "cases": cases,
    }


def time_case(name: str, size: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """Build the programs of one network and size, compare their outputs, and time them."""
    from framer_jax.checkpoints.networks import build_network

    network = NETWORKS[name]
    module = build_network(network.model, network.arguments)
    params = random_params(network, module)
    image = np.random.default_rng(0).random((1, size, size, 3), np.float32)
    print(f"{name}, {size} x {size}", file=sys.stderr)
    programs, notes = {"framer_jax": framer_jax_program(module, params, image)}, []
    reference = programs["framer_jax"].output()
    peer = None
    for program in arguments.programs[:]:
        if program not in PROGRAMS:  # framer_jax, or one that knows other cases of tools/benchmark.py
            continue
        if reason := _why_not(program, network, arguments):
            notes.append(f"{program}: {reason}")
            continue
        peer = peer if peer is not None else torch_peer(network, params, size, arguments)
        programs[program] = PROGRAMS[program](peer, image, arguments)
    return {"network": name, "size": size, "programs": figures(programs, reference, arguments), "notes": notes}


def figures(
    programs: Mapping[str, Program], reference: np.ndarray | None, arguments: argparse.Namespace
) -> dict[str, dict[str, Any]]:
    """Compare the outputs of programs with a reference, where there is one, and time the programs alternately.

    Raises:
      ValueError: an output differs by more than a relative error of 1e-4.
    """
    errors = {
        name: None if reference is None else relative_error(name, program, reference, LARGEST)
        for name, program in programs.items()
    }
    calls = {name: program.run for name, program in programs.items()}
    times = time_alternately(calls, _rounds(programs, arguments), WARM_UP, PAUSE, CLOCKS[arguments.clock])
    return {
        name: {
            "median_seconds": float(np.median(times[name])),
            "seconds": times[name],
            "first_seconds": program.first_seconds,
            "relative_error": errors[name],
            "temporaries": program.temporaries,
        }
        for name, program in programs.items()
    }


def random_params(network: Network, module: Any) -> Any:
    """Random weights that keep the size of the signal, so that every layer has a part in the output."""
    import jax

    from framer_jax.checkpoints.networks import KINDS

    inputs = (np.zeros(value.shape, np.float32) for value in KINDS[network.model].inputs(module))
    params = jax.jit(module.init)(jax.random.key(0), *inputs)["params"]
    rng = np.random.default_rng(1)

    def drawn(leaf: Any) -> np.ndarray:
        noise = rng.standard_normal(leaf.shape).astype(np.float32)
        if leaf.ndim == 4:  # He et al. 2015, for slopes near 0.2
            return noise * np.float32(np.sqrt(1.9 / np.prod(leaf.shape[:3])))
        return np.asarray(leaf) + np.float32(0.02) * noise

    return jax.tree.map(drawn, params)


def _why_not(program: str, network: Network, arguments: argparse.Namespace) -> str:
    """Why a program cannot run, '' if it can."""
    missing = [package for package in NEEDS[program] if importlib.util.find_spec(package) is None]
    if missing:
        return f"{' and '.join(missing)} not installed"
    if network.model == "swinir" and arguments.swinir_checkout is None:
        return "needs --swinir-checkout"
    return ""


def _rounds(programs: Mapping[str, Program], arguments: argparse.Namespace) -> int:
    """How many rounds fit into the time of a case."""
    started = time.perf_counter()
    for program in programs.values():
        program.run()
    fitting = int(arguments.seconds / (time.perf_counter() - started)) - WARM_UP - 1
    return max(FEWEST_ROUNDS, min(arguments.rounds, fitting))


def framer_jax_program(module: Any, params: Any, image: np.ndarray) -> Program:
    """The network of framer_jax, compiled."""
    return compiled_program(lambda params, image: module.apply({"params": params}, image)[0], params, image)


def torch_peer(network: Network, params: Any, size: int, arguments: argparse.Namespace) -> Any:
    """The same network in PyTorch, with the same weights."""
    import torch

    from framer_jax.porting.maps import to_torch
    from framer_jax.porting.swin import INDEX, MASK
    from framer_jax.porting.table import MAPS
    from tools.peers import generators, swinir

    torch.set_num_threads(arguments.threads)
    if network.model == "swinir":
        module = swinir.build(arguments.swinir_checkout, size)
    else:
        module = generators.build(network.model, network.arguments)
    state = to_torch(MAPS[network.model], params, "the parameters")
    tensors = {key: torch.from_numpy(np.array(value)) for key, value in state.items()}
    # Constants that SwinIR registers depend on the nominal size, so they stay those of the module.
    constants = {key: value for key, value in module.state_dict().items() if key.endswith((INDEX, MASK))}
    module.load_state_dict(tensors | constants)
    return module


def onnx_bytes(peer: Any, image: np.ndarray) -> bytes:
    """The peer as an ONNX model for images of this size."""
    import torch

    buffer = io.BytesIO()
    with torch.inference_mode():
        torch.onnx.export(peer, (_channels_first(image),), buffer, dynamo=False, opset_version=17)
    return buffer.getvalue()


def onnxruntime_program(peer: Any, image: np.ndarray, arguments: argparse.Namespace) -> Program:
    """ONNX Runtime on the CPU."""
    import onnxruntime

    model = onnx_bytes(peer, image)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = arguments.threads
    started = time.perf_counter()
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    seconds = time.perf_counter() - started
    feed = {session.get_inputs()[0].name: _channels_first(image).numpy()}
    return Program(lambda: session.run(None, feed), lambda: session.run(None, feed)[0].transpose(0, 2, 3, 1), seconds)


def openvino_program(peer: Any, image: np.ndarray, arguments: argparse.Namespace) -> Program:
    """OpenVINO on the CPU, in float32 (its default may be shorter)."""
    import openvino

    x = _channels_first(image)
    model = openvino.convert_model(peer, example_input=x, input=tuple(x.shape))
    settings = {
        "INFERENCE_PRECISION_HINT": "f32",
        "INFERENCE_NUM_THREADS": arguments.threads,
        "PERFORMANCE_HINT": "LATENCY",
    }
    started = time.perf_counter()
    compiled = openvino.compile_model(model, "CPU", settings)
    seconds = time.perf_counter() - started
    values = x.numpy()
    return Program(lambda: compiled(values), lambda: compiled(values)[0].transpose(0, 2, 3, 1), seconds)


PROGRAMS: Mapping[str, Callable[[Any, np.ndarray, argparse.Namespace], Program]] = {
    "eager": lambda peer, image, arguments: torch_program(peer, image, arguments, None),
    "compile": lambda peer, image, arguments: torch_program(peer, image, arguments, "default"),
    "onnxruntime": onnxruntime_program,
    "openvino": openvino_program,
}
"""Program → (PyTorch module, image, options) → what is timed."""


def _channels_first(image: np.ndarray) -> Any:
    import torch

    return torch.from_numpy(image).permute(0, 3, 1, 2).contiguous()


def markdown(report: dict[str, Any]) -> str:
    """A heading, a table, and what was left out."""
    load = "unknown" if report["others_load"] is None else f"{report['others_load']:.1%}"
    versions = ", ".join(f"{name} {text}" for name, text in report["versions"].items())
    lines = [
        f"x4, batch 1, float32, cpu, {report['threads']} threads, {report['clock']} time, {versions}, load of other "
        f"programs {load}",
        "",
        "| network | LR side | program | ms, median (quartiles) | ratio to framer_jax | compilation | relative error |",
        "|---|---|---|---|---|---|---|",
    ]
    for case in report["cases"]:
        reference = np.asarray(case["programs"]["framer_jax"]["seconds"])
        for name, program in case["programs"].items():
            low, middle, high = np.quantile(program["seconds"], (0.25, 0.5, 0.75)) * 1e3
            ratio = float(np.median(np.asarray(program["seconds"]) / reference))
            lines.append(
                f"| {case['network']} | {case['size']} | {name} | {middle:.1f} ({low:.1f} to {high:.1f}) | "
                f"{ratio:.2f} x | {program['first_seconds']:.1f} s | {program['relative_error']:.1e} |"
            )
    notes = sorted({f"{case['network']}: {note}" for case in report["cases"] for note in case["notes"]})
    return "\n".join([*lines, *(["", "Left out:", *(f"- {note}" for note in notes)] if notes else [])])


if __name__ == "__main__":
    sys.exit(main())
