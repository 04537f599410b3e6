"""SwinIR-small, 128x128 to 512x512: framer_jax against the original in PyTorch, eager and compiled, in one run.

    python tools/benchmark_swinir.py --swinir-checkout CHECKOUT [--size 128] [--rounds 20] [--dtype bfloat16]
        [--threads 2] [--device gpu] [--json FILE]

The original is built from your clone of the SwinIR repository (extra [torch]). All programs have the same random
weights, converted by framer_jax.porting; their outputs are compared before anything is timed. They run alternately, so
that a busy machine slows all alike; a ratio is the median over the rounds of the peer's time divided by framer_jax's in
the same round. Compilation and warm-up are not part of the times. bfloat16 is the compute dtype: parameters are float32
in all programs (autocast in PyTorch).
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

from tools.timing import time_alternately

WARM_UP = 2

PAUSE = 0.05
"""Seconds between calls, in which the threads of the previous call become idle."""

DTYPES = ("float32", "bfloat16")

LARGEST_ERROR = {
    ("cpu", "float32"): 1e-4,
    ("gpu", "float32"): 2e-2,
    ("cpu", "bfloat16"): 0.1,
    ("gpu", "bfloat16"): 0.1,
}
"""(device, dtype) → largest RMS difference to PyTorch's float32 output on the CPU, relative to that output's standard
deviation. A GPU multiplies float32 in TF32."""


class Program(NamedTuple):
    """One way to run the network.

    Attributes:
      run: computes the SR output and waits for it.
      output: computes the SR output, [B, s H, s W, 3], on the host.
      first_seconds: time of the compilation, or of the first call where that includes it.
      temporaries: XLA's plan for its temporaries, in bytes; None for a peer.
    """

    run: Callable[[], Any]
    output: Callable[[], np.ndarray]
    first_seconds: float
    temporaries: int | None = None


def main() -> int:
    return run("benchmark_swinir", parse(), benchmark, markdown)


def run(
    name: str,
    arguments: argparse.Namespace,
    benchmark: Callable[[argparse.Namespace], dict[str, Any]],
    markdown: Callable[[dict[str, Any]], str],
) -> int:
    """Run a benchmark, print its report and write it to --json: the exit status."""
    limit_threads(arguments)
    try:
        report = benchmark(arguments)
    except (ValueError, OSError, ImportError) as error:
        print(f"{name}: {error}", file=sys.stderr)
        return 2
    print(markdown(report))
    if arguments.json:
        arguments.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return 0


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Time SwinIR-small against PyTorch.")
    parser.add_argument("--swinir-checkout", type=Path, required=True, metavar="PATH", help="your clone of SwinIR")
    parser.add_argument("--size", type=int, default=128, help="side of the LR image, pixels")
    parser.add_argument("--batch", type=int, default=1, help="images per call")
    parser.add_argument("--rounds", type=int, default=20, help="number of timed calls of each program")
    parser.add_argument("--dtype", default="float32", choices=DTYPES, help="compute dtype")
    parser.add_argument("--threads", type=int, help="threads of every program; default: one per core")
    parser.add_argument("--device", default="cpu", choices=["cpu", "gpu"], help="where to run")
    parser.add_argument("--compile-mode", default="default", help="mode of torch.compile; none: only eager PyTorch")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures, with those of every round")
    arguments = parser.parse_args()
    for name in ("size", "batch", "rounds", "threads"):
        if (value := getattr(arguments, name)) is not None and value < 1:
            parser.error(f"--{name} must be at least 1, got {value}")
    return arguments


def limit_threads(arguments: argparse.Namespace) -> None:
    """Restrict the process to some cores; before jax is imported, as XLA starts a thread for every core it may use."""
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # PyTorch needs the GPU's memory too
    os.environ["JAX_PLATFORMS"] = "cpu" if arguments.device == "cpu" else "cuda"
    if not hasattr(os, "sched_getaffinity"):
        arguments.threads = arguments.threads or os.cpu_count()
        return
    cores = sorted(os.sched_getaffinity(0))
    arguments.threads = min(arguments.threads or len(cores), len(cores))
    os.sched_setaffinity(0, cores[: arguments.threads])


def benchmark(arguments: argparse.Namespace) -> dict[str, Any]:
    """Build the programs, compare their outputs, and time them."""
    import jax
    import torch

    from tools.benchmark_degradation import Load
    from tools.peers import swinir

    torch.set_num_threads(arguments.threads)
    torch.set_float32_matmul_precision("high")  # as XLA does on a GPU; no effect on a CPU
    if arguments.device == "gpu" and not torch.cuda.is_available():
        raise ValueError("--device gpu: PyTorch finds no GPU; use --device cpu")
    network = swinir.build(arguments.swinir_checkout, arguments.size)
    image = np.random.default_rng(0).random((arguments.batch, arguments.size, arguments.size, 3), np.float32)
    with torch.inference_mode():
        reference = network(torch.from_numpy(image).permute(0, 3, 1, 2)).permute(0, 2, 3, 1).numpy()
    programs = {"framer_jax, jit": framer_jax_program(swinir.state_of(network), image, arguments)}
    programs["PyTorch, eager"] = torch_program(network, image, arguments, None)
    if arguments.compile_mode != "none":
        programs[f"PyTorch, compile ({arguments.compile_mode})"] = torch_program(
            network, image, arguments, arguments.compile_mode
        )
    errors = {
        name: relative_error(name, program, reference, LARGEST_ERROR[arguments.device, arguments.dtype])
        for name, program in programs.items()
    }
    load = Load()
    times = time_alternately(
        {name: program.run for name, program in programs.items()}, arguments.rounds, WARM_UP, PAUSE
    )
    others = load.others()
    device = jax.devices()[0].device_kind if arguments.device == "gpu" else f"cpu, {arguments.threads} threads"
    settings = {name: getattr(arguments, name) for name in ("size", "batch", "rounds", "dtype", "threads")}
    return {
        **settings,
        "device": device,
        "versions": {"jax": jax.__version__, "torch": torch.__version__},
        "others_load": others,
        "programs": {
            name: {
                "seconds": times[name],
                "first_seconds": program.first_seconds,
                "relative_error": errors[name],
            }
            for name, program in programs.items()
        },
    }


def framer_jax_program(state: dict[str, np.ndarray], image: np.ndarray, arguments: argparse.Namespace) -> Program:
    """The network of framer_jax with the original's weights, compiled."""
    import jax

    from framer_jax.models.swinir import SwinIR
    from framer_jax.porting.maps import to_flax
    from framer_jax.porting.swinir import SWINIR

    params, module_arguments, _ = to_flax(SWINIR, state, "the peer")
    module = SwinIR(**module_arguments, dtype=jax.numpy.dtype(arguments.dtype))
    return compiled_program(lambda params, image: module.apply({"params": params}, image)[0], params, image)


def compiled_program(function: Callable[..., Any], *inputs: Any) -> Program:
    """A function of arrays, compiled; its output is an array in the layout of framer_jax."""
    import jax

    inputs = jax.device_put(inputs)
    lowered = jax.jit(function).lower(*inputs)
    started = time.perf_counter()
    compiled = lowered.compile()
    seconds = time.perf_counter() - started
    memory = compiled.memory_analysis()
    return Program(
        lambda: jax.block_until_ready(compiled(*inputs)),
        lambda: np.asarray(compiled(*inputs)),
        seconds,
        None if memory is None else memory.temp_size_in_bytes,
    )


def torch_program(network: Any, image: np.ndarray, arguments: argparse.Namespace, mode: str | None) -> Program:
    """The original, eager (`mode` None) or compiled with a mode of torch.compile."""
    import torch

    device = "cuda" if arguments.device == "gpu" else "cpu"
    network = network.to(device)
    x = torch.from_numpy(image).permute(0, 3, 1, 2).contiguous().to(device)
    call = network if mode is None else torch.compile(network, mode=mode)

    def run() -> Any:
        with torch.inference_mode(), torch.autocast(device, torch.bfloat16, enabled=arguments.dtype == "bfloat16"):
            output = call(x)
        if device == "cuda":
            torch.cuda.synchronize()
        return output

    started = time.perf_counter()
    run()
    seconds = time.perf_counter() - started
    return Program(run, lambda: run().float().permute(0, 2, 3, 1).cpu().numpy(), seconds)


def relative_error(name: str, program: Program, reference: np.ndarray, largest: float) -> float:
    """RMS error of a program's output, relative to the standard deviation of the reference.

    Raises:
      ValueError: the error exceeds `largest`.
    """
    error = float(np.sqrt(np.mean((program.output() - reference) ** 2)) / reference.std())
    if not error <= largest:
        raise ValueError(f"{name}: relative error {error:.2g} of its output exceeds {largest:g}: nothing was timed")
    return error


def markdown(report: dict[str, Any]) -> str:
    """A heading and a table."""
    load = "unknown" if report["others_load"] is None else f"{report['others_load']:.1%}"
    lines = [
        f"SwinIR-small, x4, {report['size']} x {report['size']}, batch {report['batch']}, {report['dtype']}, "
        f"{report['device']}, jax {report['versions']['jax']}, torch {report['versions']['torch']}, "
        f"{report['rounds']} rounds, load of other programs {load}",
        "",
        "| program | ms, median (quartiles) | ratio to framer_jax (quartiles) | compilation | relative error |",
        "|---|---|---|---|---|",
    ]
    reference = np.asarray(next(iter(report["programs"].values()))["seconds"])
    for name, program in report["programs"].items():
        low, middle, high = np.quantile(program["seconds"], (0.25, 0.5, 0.75)) * 1e3
        ratios = np.quantile(np.asarray(program["seconds"]) / reference, (0.25, 0.5, 0.75))
        lines.append(
            f"| {name} | {middle:.1f} ({low:.1f} to {high:.1f}) | {ratios[1]:.2f} x ({ratios[0]:.2f} to "
            f"{ratios[2]:.2f}) | {program['first_seconds']:.1f} s | {program['relative_error']:.1e} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
