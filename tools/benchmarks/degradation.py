"""The degradation pipeline, next to the original one in PyTorch."""

from __future__ import annotations

import argparse
from functools import partial
from typing import Any

import numpy as np

PRESET, SIDE, BATCHES = "framer_paper", 512, (1, 8)
"""What is degraded: the preset, the side of the HR images, and the batch sizes."""


def measure(batch: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """Batches of new parameters; a peer needs --basicsr CLONE."""
    from framer_jax.degradations.lookup import preset_by_name
    from tools.benchmark_degradation import time_batches

    peer = arguments.basicsr if "eager" in arguments.programs else None
    settings = argparse.Namespace(size=SIDE, batches=2 * arguments.rounds, peer=peer, threads=arguments.threads)
    program, times, peer_times, _ = time_batches(preset_by_name(PRESET), batch, settings)
    seconds = {"framer_jax": times, **({"eager": peer_times} if peer_times else {})}
    return {
        "programs": {
            name: {
                "median_seconds": float(np.median(values)),
                "seconds": values,
                "first_seconds": program.compile_seconds if name == "framer_jax" else None,
                "temporaries": program.temporaries if name == "framer_jax" else None,
                "relative_error": None,
            }
            for name, values in seconds.items()
        },
        "images": batch,
        "statistic": "mean",  # every batch is other work, which a training run has to do
        "notes": [] if peer_times or peer is not None else ["eager: needs --basicsr"],
    }


CASES = {f"degradation-{batch}": partial(measure, batch) for batch in BATCHES}
"""Name → measurement."""
