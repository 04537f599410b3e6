"""Training steps with and without FRAMER, and what the data cost next to the steps."""

from __future__ import annotations

import argparse
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

DENOISERS = ("unet", "dit")
"""The small networks whose steps are timed."""

BATCH, CROP = 16, 128
"""Of these steps."""

RUN = "resshift_narrow"
"""The configuration whose run is measured."""

PHOTOGRAPHS, PHOTOGRAPH_SIDE, LOG_EVERY = 24, 320, 20
"""The run's data, which are copies of noise at every scale, and its log."""


def measure_step(denoiser: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """A training step of a network without FRAMER (`none`) and with it (`paper`)."""
    from tools.benchmark_framer import measure

    settings = argparse.Namespace(
        variants=["none", "paper"], batch=BATCH, crop=CROP, steps=arguments.rounds, dtype="float32"
    )
    programs = {
        variant: {
            "median_seconds": float(np.median(one.seconds)),
            "seconds": one.seconds,
            "first_seconds": one.compile_seconds,
            "temporaries": one.temporaries,
            "relative_error": None,
        }
        for variant, one in measure(denoiser, settings).items()
    }
    return {"programs": programs, "images": BATCH, "notes": []}


def measure_run(arguments: argparse.Namespace) -> dict[str, Any]:
    """A run of `RUN` on photographs that are read and degraded as usual: shares of its steps' time.

    `data` is the time that steps waited for photographs; `degradation` that of the compiled degradation alone, which is
    a part of each step. Both are relative to waiting and steps together.
    """
    from PIL import Image

    from framer_jax.commands.train import train_from_config
    from framer_jax.config import load_config, to_dict
    from framer_jax.data.settings import degradation_preset
    from framer_jax.training.wall_time import COMPILATION, DATA, TRAINING
    from tools.benchmark_degradation import random_images, time_batches

    steps = max(2 * LOG_EVERY, arguments.rounds)
    with tempfile.TemporaryDirectory() as folder:
        for number in range(PHOTOGRAPHS):
            noise = random_images(1, PHOTOGRAPH_SIDE)[0][:, :: (-1) ** number]
            Image.fromarray(np.uint8(np.rint(255 * noise))).save(Path(folder) / f"{number}.jpg", quality=95)
        overrides = {
            "data.train": folder,
            "data.validation_count": 0,
            "training.best_metric": None,
            "training.steps": steps,
            "training.log_every": LOG_EVERY,
            "training.warmup_steps": 0,
        }
        config = to_dict(load_config(RUN, [f"{name}={value}" for name, value in overrides.items()]))
        result = train_from_config(config, str(Path(folder) / "run"), quiet=True)
    batch, crop = config["training"]["global_batch"], config["data"]["crop"]
    preset = degradation_preset(config["data"], config["recipe"]["scale"])
    settings = argparse.Namespace(size=crop, batches=arguments.rounds, peer=None, threads=arguments.threads)
    _, times, _, _ = time_batches(preset, batch, settings)
    waiting, total = result.seconds[DATA], result.seconds[DATA] + result.seconds[TRAINING]
    step = total / (steps - 1)  # the first one counts as compilation
    return {
        "programs": {
            "steps": {
                "median_seconds": step,
                "seconds": [step],
                "first_seconds": result.seconds[COMPILATION],
                "temporaries": None,
                "relative_error": None,
            }
        },
        "images": batch,
        "shares": {"data": waiting / total, "degradation": float(np.mean(times)) / step},
        "notes": [f"{steps} steps of {batch} crops of {crop} pixels, degradation {preset.name}"],
    }


CASES = {f"step-{denoiser}": partial(measure_step, denoiser) for denoiser in DENOISERS} | {"run": measure_run}
"""Name → measurement."""
