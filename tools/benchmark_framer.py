"""FRAMER's extra time and memory per training step, as a ratio to the base in the same run.

    python tools/benchmark_framer.py [--denoisers unet dit] [--batch 16] [--steps 20]

Base and FRAMER steps alternate, so that a busy machine slows both alike. Compile time is apart, the first steps are
warm-up, figures are medians with the quartiles. Memory is what XLA plans for temporaries of one step.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import jax
import numpy as np
from rich.console import Console
from rich.table import Table

from configs import default
from framer_jax.config import to_dict
from framer_jax.recipes.base import Recipe
from framer_jax.recipes.table import add_framer, build_recipe
from framer_jax.training.optimizer import make_optimizers
from framer_jax.training.settings import TrainingSettings
from framer_jax.training.sharding import make_mesh
from framer_jax.training.state import init_train_state
from framer_jax.training.step import make_step
from tools.timing import in_turn

READINGS = ("none", "paper", "released")
WARM_UP = 3


class Measured(NamedTuple):
    """One training step: seconds of compilation, bytes of temporaries, seconds per step."""

    compile_seconds: float
    temporaries: int
    seconds: list[float]


def main() -> int:
    parser = argparse.ArgumentParser(description="FRAMER's extra time and memory per step.")
    parser.add_argument("--denoisers", nargs="+", default=["unet", "dit"], choices=["unet", "dit"])
    parser.add_argument("--readings", nargs="+", default=["none", "paper"], choices=READINGS)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--crop", type=int, default=128, help="HR pixels")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    arguments = parser.parse_args()
    device = jax.devices()[0]
    table = Table(
        title=f"one training step, batch {arguments.batch} of {arguments.crop} px, {arguments.dtype}, "
        f"{device.device_kind} x {jax.device_count()}, jax {jax.__version__}, median of {arguments.steps}"
    )
    for heading in ("denoiser", "FRAMER", "ms (quartiles)", "time ratio", "temporaries", "memory ratio", "compile"):
        table.add_column(heading, justify="left" if heading in ("denoiser", "FRAMER") else "right")
    for denoiser in arguments.denoisers:
        found = measure(denoiser, arguments)
        base = found["none"]
        for reading, measured in found.items():
            low, middle, high = np.quantile(measured.seconds, (0.25, 0.5, 0.75)) * 1000
            table.add_row(
                denoiser,
                reading,
                f"{middle:.0f} ({low:.0f} .. {high:.0f})",
                f"{middle / 1000 / np.median(base.seconds):.3f}",
                f"{measured.temporaries / 2**20:.0f} MiB",
                f"{measured.temporaries / max(base.temporaries, 1):.3f}",
                f"{measured.compile_seconds:.0f} s",
            )
    Console(width=120).print(table)
    return 0


def measure(denoiser: str, arguments: argparse.Namespace) -> dict[str, Measured]:
    """Steps of the base and of each reading, in turn."""
    config = to_dict(default.get_config())
    config["recipe"]["denoiser"]["name"] = denoiser
    config["recipe"]["dtype"] = arguments.dtype
    if "released" in arguments.readings:  # it compares predictions, which only the transformer's taps can be
        config["recipe"]["denoiser"]["dit"]["taps"] = "prediction"
    base = build_recipe(config["recipe"])
    readings = ["none", *(reading for reading in arguments.readings if reading != "none")]
    runs = {
        reading: prepared_step(add_framer(base, {"reading": reading}), arguments)
        for reading in readings
        if not (reading == "released" and denoiser == "unet")
    }

    def taking(reading: str) -> Callable[[], None]:
        def take() -> None:
            step, state, batch, *facts = runs[reading]
            runs[reading] = (step, jax.block_until_ready(step(state, {}, batch))[0], batch, *facts)

        return take

    times = in_turn({reading: taking(reading) for reading in runs}, arguments.steps, WARM_UP)
    return {reading: Measured(run[3], run[4], times[reading]) for reading, run in runs.items()}


def prepared_step(recipe: Recipe, arguments: argparse.Namespace) -> tuple[Any, Any, Any, float, int]:
    """(compiled step, state, batch, seconds of compilation, bytes of temporaries)."""
    settings = TrainingSettings(steps=1000, global_batch=arguments.batch, ema_decay=0.999, clip_norm=1.0)
    mesh = make_mesh(settings)
    optimizers = make_optimizers(recipe, settings)
    rng = np.random.default_rng(0)
    hr = rng.random((arguments.batch, arguments.crop, arguments.crop, 3), np.float32)
    lr = rng.random((arguments.batch, arguments.crop // 4, arguments.crop // 4, 3), np.float32)
    batch = {"hr": hr, "lr": lr}
    state = init_train_state(recipe, optimizers, settings, mesh, batch)
    step = make_step(recipe, lambda batch: batch, optimizers, settings, mesh, state)
    started = time.perf_counter()
    compiled = jax.jit(step, donate_argnums=0).lower(state, {}, batch).compile()
    seconds = time.perf_counter() - started
    memory = compiled.memory_analysis()
    return compiled, state, batch, seconds, 0 if memory is None else memory.temp_size_in_bytes


if __name__ == "__main__":
    sys.exit(main())
