"""SwinIR-small, 128x128 to 512x512: ours against the original in PyTorch, eager and compiled, in one run.

    python tools/benchmark_swinir.py --swinir-checkout CHECKOUT [--size 128] [--rounds 20] [--dtype bfloat16]
        [--threads 2] [--device gpu] [--json FILE]

The original is built from your clone of the SwinIR repository (extra [torch]). All programs have the same random
weights, carried over by framer_jax.porting; before anything is timed their outputs are compared. They run in turn, so
that a busy machine hits all alike; a ratio is the median over the rounds of the peer's time by ours in the same round.
Compilation and warm-up are apart. bfloat16 is the compute dtype: parameters are float32 in all (autocast in PyTorch).
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

from tools.timing import in_turn

WARM_UP = 2

PAUSE = 0.05
"""Seconds between calls, in which the threads of the one before come to rest."""

DTYPES = ("float32", "bfloat16")

LARGEST_ERROR = {
    ("cpu", "float32"): 1e-4,
    ("gpu", "float32"): 2e-2,
    ("cpu", "bfloat16"): 0.1,
    ("gpu", "bfloat16"): 0.1,
}
"""Device and dtype → RMS of a picture's difference to PyTorch's in float32 on the CPU, by that one's deviation. A GPU
multiplies float32 in TF32."""


class Program(NamedTuple):
    """One way to run the network.

    Attributes:
      run: computes the picture and waits for it.
      picture: [B, s H, s W, 3] of the last run, on the host.
      first_seconds: of the first call, or of the compilation where that is apart.
    """

    run: Callable[[], Any]
    picture: Callable[[], np.ndarray]
    first_seconds: float


def main() -> int:
    arguments = parse()
    limit_threads(arguments)
    try:
        facts = benchmark(arguments)
    except (ValueError, OSError, ImportError) as error:
        print(f"benchmark_swinir: {error}", file=sys.stderr)
        return 2
    print(markdown(facts))
    if arguments.json:
        arguments.json.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    return 0


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="SwinIR-small: ours against PyTorch.")
    parser.add_argument("--swinir-checkout", type=Path, required=True, metavar="PATH", help="your clone of SwinIR")
    parser.add_argument("--size", type=int, default=128, help="LR pixels of a side")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=20, help="timed calls of each")
    parser.add_argument("--dtype", default="float32", choices=DTYPES)
    parser.add_argument("--threads", type=int, help="of all programs; as many as there are cores")
    parser.add_argument("--device", default="cpu", choices=["cpu", "gpu"])
    parser.add_argument("--compile-mode", default="default", help="of torch.compile; 'none' leaves it out")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures, each round's too")
    arguments = parser.parse_args()
    for name in ("size", "batch", "rounds", "threads"):
        if (value := getattr(arguments, name)) is not None and value < 1:
            parser.error(f"--{name} must be at least 1, got {value}")
    return arguments


def limit_threads(arguments: argparse.Namespace) -> None:
    """XLA takes as many threads as it may use cores when it starts; so this comes before jax is imported."""
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # the GPU's memory is for both
    os.environ["JAX_PLATFORMS"] = "cpu" if arguments.device == "cpu" else "cuda"
    if not hasattr(os, "sched_getaffinity"):
        arguments.threads = arguments.threads or os.cpu_count()
        return
    cores = sorted(os.sched_getaffinity(0))
    arguments.threads = min(arguments.threads or len(cores), len(cores))
    os.sched_setaffinity(0, cores[: arguments.threads])


def benchmark(arguments: argparse.Namespace) -> dict[str, Any]:
    """Build, compare, time."""
    import jax
    import torch

    from tools.benchmark_degradation import Load
    from tools.peers import swinir

    torch.set_num_threads(arguments.threads)
    torch.set_float32_matmul_precision("high")  # on a GPU XLA multiplies float32 in TF32 too; no effect on a CPU
    if arguments.device == "gpu" and not torch.cuda.is_available():
        raise ValueError("--device gpu: this PyTorch sees no GPU; use --device cpu")
    network = swinir.build(arguments.swinir_checkout, arguments.size)
    image = np.random.default_rng(0).random((arguments.batch, arguments.size, arguments.size, 3), np.float32)
    with torch.inference_mode():
        truth = network(torch.from_numpy(image).permute(0, 3, 1, 2)).permute(0, 2, 3, 1).numpy()
    programs = {"framer_jax, jit": ours(swinir.state_of(network), image, arguments)}
    programs["PyTorch, eager"] = peer(network, image, arguments, None)
    if arguments.compile_mode != "none":
        programs[f"PyTorch, compile ({arguments.compile_mode})"] = peer(
            network, image, arguments, arguments.compile_mode
        )
    errors = {
        name: compared(name, program, truth, LARGEST_ERROR[arguments.device, arguments.dtype])
        for name, program in programs.items()
    }
    load = Load()
    times = in_turn({name: program.run for name, program in programs.items()}, arguments.rounds, WARM_UP, PAUSE)
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


def ours(state: dict[str, np.ndarray], image: np.ndarray, arguments: argparse.Namespace) -> Program:
    """Our network with the original's weights, compiled."""
    import jax

    from framer_jax.models.swinir import SwinIR
    from framer_jax.porting.maps import to_flax
    from framer_jax.porting.swinir import SWINIR

    params, found, _ = to_flax(SWINIR, state, "the peer")
    module = SwinIR(**found, dtype=jax.numpy.dtype(arguments.dtype))
    inputs = jax.device_put(({"params": params}, image))
    lowered = jax.jit(lambda params, image: module.apply(params, image)[0]).lower(*inputs)
    started = time.perf_counter()
    compiled = lowered.compile()
    seconds = time.perf_counter() - started
    return Program(lambda: jax.block_until_ready(compiled(*inputs)), lambda: np.asarray(compiled(*inputs)), seconds)


def peer(network: Any, image: np.ndarray, arguments: argparse.Namespace, mode: str | None) -> Program:
    """The original, eager or compiled with a mode of torch.compile."""
    import torch

    device = "cuda" if arguments.device == "gpu" else "cpu"
    network = network.to(device)
    x = torch.from_numpy(image).permute(0, 3, 1, 2).contiguous().to(device)
    call = network if mode is None else torch.compile(network, mode=mode)

    def run() -> Any:
        with torch.inference_mode(), torch.autocast(device, torch.bfloat16, enabled=arguments.dtype == "bfloat16"):
            picture = call(x)
        if device == "cuda":
            torch.cuda.synchronize()
        return picture

    started = time.perf_counter()
    run()
    seconds = time.perf_counter() - started
    return Program(run, lambda: run().float().permute(0, 2, 3, 1).cpu().numpy(), seconds)


def compared(name: str, program: Program, truth: np.ndarray, largest: float) -> float:
    """The relative error of a program's picture.

    Raises:
      ValueError: it is not the same picture.
    """
    error = float(np.sqrt(np.mean((program.picture() - truth) ** 2)) / truth.std())
    if not error <= largest:
        raise ValueError(f"{name}: its picture differs by {error:.2g} of the original's variation: nothing was timed")
    return error


def markdown(facts: dict[str, Any]) -> str:
    """A heading and a table."""
    load = "unknown" if facts["others_load"] is None else f"{facts['others_load']:.1%}"
    lines = [
        f"SwinIR-small, x4, {facts['size']} x {facts['size']}, batch {facts['batch']}, {facts['dtype']}, "
        f"{facts['device']}, jax {facts['versions']['jax']}, torch {facts['versions']['torch']}, "
        f"{facts['rounds']} rounds, load of other programs {load}",
        "",
        "| program | ms, median (quartiles) | time by ours (quartiles) | compilation or first call | relative error |",
        "|---|---|---|---|---|",
    ]
    own = np.asarray(next(iter(facts["programs"].values()))["seconds"])
    for name, program in facts["programs"].items():
        low, middle, high = np.quantile(program["seconds"], (0.25, 0.5, 0.75)) * 1e3
        ratios = np.quantile(np.asarray(program["seconds"]) / own, (0.25, 0.5, 0.75))
        lines.append(
            f"| {name} | {middle:.1f} ({low:.1f} to {high:.1f}) | {ratios[1]:.2f} x ({ratios[0]:.2f} to "
            f"{ratios[2]:.2f}) | {program['first_seconds']:.1f} s | {program['relative_error']:.1e} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
