"""FRAMER's additional time and memory per training step, as ratios to the base method in the same run.

    python tools/benchmark_framer.py [--denoisers unet dit] [--batch 16] [--steps 20]

Steps with and without FRAMER alternate, so that a busy machine slows both alike. Compilation is reported separately,
the first steps are warm-up, and times are medians with quartiles. Memory is XLA's plan for the temporaries of one step.
"""

from __future__ import annotations

import argparse
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import jax
import numpy as np
from ml_collections import ConfigDict
from rich.console import Console
from rich.table import Table

from framer_jax.checkpoints.open import build_recipe
from framer_jax.config import default, to_dict
from framer_jax.recipes.base import Recipe
from framer_jax.recipes.framer import add_framer
from framer_jax.training.optimizer import make_optimizers
from framer_jax.training.settings import TrainingSettings
from framer_jax.training.sharding import make_mesh
from framer_jax.training.state import TrainState, init_train_state
from framer_jax.training.step import make_step
from tools.timing import time_alternately

VARIANTS = ("none", "paper", "released")
"""Variants of FRAMER; none is the base method alone."""

WARM_UP = 3


class Measurement(NamedTuple):
    """The cost of one training step.

    Attributes:
      compile_seconds: time of compilation.
      temporaries: XLA's plan for the temporaries, bytes.
      seconds: time of every timed step.
    """

    compile_seconds: float
    temporaries: int
    seconds: list[float]


class PreparedStep(NamedTuple):
    """A compiled training step with its inputs.

    Attributes:
      step: (state, frozen, batch) → (state, metrics).
      state: the state that the next call takes.
      batch: random images.
      compile_seconds, temporaries: see `Measurement`.
    """

    step: Any
    state: TrainState
    batch: dict[str, np.ndarray]
    compile_seconds: float
    temporaries: int


def main() -> int:
    parser = argparse.ArgumentParser(description="FRAMER's additional time and memory per training step.")
    parser.add_argument("--denoisers", nargs="+", default=["unet", "dit"], choices=["unet", "dit"], help="networks")
    parser.add_argument(
        "--readings",
        dest="variants",
        metavar="VARIANT",
        nargs="+",
        default=["none", "paper"],
        choices=VARIANTS,
        help="variants of FRAMER: none, paper or released",
    )
    parser.add_argument("--batch", type=int, default=16, help="examples per step")
    parser.add_argument("--crop", type=int, default=128, help="side of the HR images, pixels")
    parser.add_argument("--steps", type=int, default=20, help="number of timed steps")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"], help="compute dtype")
    arguments = parser.parse_args()
    device = jax.devices()[0]
    table = Table(
        title=f"one training step, batch {arguments.batch} of {arguments.crop} px, {arguments.dtype}, "
        f"{device.device_kind} x {jax.device_count()}, jax {jax.__version__}, median of {arguments.steps}"
    )
    for heading in ("denoiser", "FRAMER", "ms (quartiles)", "time ratio", "temporaries", "memory ratio", "compile"):
        table.add_column(heading, justify="left" if heading in ("denoiser", "FRAMER") else "right")
    for denoiser in arguments.denoisers:
        measurements = measure(denoiser, arguments)
        base = measurements["none"]
        for variant, measurement in measurements.items():
            low, middle, high = np.quantile(measurement.seconds, (0.25, 0.5, 0.75)) * 1000
            table.add_row(
                denoiser,
                variant,
                f"{middle:.0f} ({low:.0f} .. {high:.0f})",
                f"{middle / 1000 / np.median(base.seconds):.3f}",
                f"{measurement.temporaries / 2**20:.0f} MiB",
                f"{measurement.temporaries / max(base.temporaries, 1):.3f}",
                f"{measurement.compile_seconds:.0f} s",
            )
    Console(width=120).print(table)
    return 0


def measure(denoiser: str, arguments: argparse.Namespace) -> dict[str, Measurement]:
    """Time the steps of the base and of each variant of FRAMER alternately: variant → measurement."""
    config = to_dict(configuration(denoiser, arguments))
    base = build_recipe(config["recipe"])
    variants = ["none", *(variant for variant in arguments.variants if variant != "none")]
    steps = {
        variant: prepare_step(add_framer(base, {"variant": variant}), arguments)
        for variant in variants
        if not (variant == "released" and denoiser == "unet")
    }

    def advance(variant: str) -> None:
        prepared = steps[variant]
        state, _ = jax.block_until_ready(prepared.step(prepared.state, {}, prepared.batch))
        steps[variant] = prepared._replace(state=state)

    programs = {variant: partial(advance, variant) for variant in steps}
    times = time_alternately(programs, arguments.steps, WARM_UP)
    return {
        variant: Measurement(step.compile_seconds, step.temporaries, times[variant]) for variant, step in steps.items()
    }


def configuration(denoiser: str, arguments: argparse.Namespace) -> ConfigDict:
    """The default configuration with the network and dtype that are measured."""
    config = default()
    config.recipe.denoiser.name = denoiser
    config.recipe.dtype = arguments.dtype
    if "released" in arguments.variants:  # it compares predictions, which only the transformer's taps can be
        config.recipe.denoiser.dit.taps = "prediction"
    return config


def prepare_step(recipe: Recipe, arguments: argparse.Namespace) -> PreparedStep:
    """Compile the training step of a recipe and initialize its state."""
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
    return PreparedStep(compiled, state, batch, seconds, 0 if memory is None else memory.temp_size_in_bytes)


if __name__ == "__main__":
    sys.exit(main())
