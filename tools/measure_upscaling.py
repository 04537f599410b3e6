"""Memory, compilations and time of `framer-jax upscale`: one large image, or a folder of many small ones.

    python tools/measure_upscaling.py large [--side 8192] [--height 8192] [-- OPTION …]
    python tools/measure_upscaling.py folder [--count 1500] [-- OPTION …]

Everything is made in a temporary folder: a narrow SRVGG with random weights, x4, and images of smooth noise, of which
those of the folder have sides of 8 to 96 pixels. Further options go to `framer-jax upscale`. The process that upscales
samples its resident memory ten times a second: in the folder, the largest value of each fifth of the run shows whether
memory grows.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from PIL import Image

SCALE = 4

PERIOD = 0.1
"""Seconds between two samples of the memory."""

NETWORK = {"channels": 8, "depth": 2}


def main(command_line: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Measure framer-jax upscale.")
    parser.add_argument("what", choices=("large", "folder"))
    parser.add_argument("--side", type=int, default=8192, help="side of the large result, pixels")
    parser.add_argument("--height", type=int, help="its height, if it is not square")
    parser.add_argument("--count", type=int, default=1500, help="number of images of the folder")
    parser.add_argument("--folder", help=argparse.SUPPRESS)  # of the process that upscales
    words = list(sys.argv[1:] if command_line is None else command_line)
    end = words.index("--") if "--" in words else len(words)
    arguments, options = parser.parse_args(words[:end]), words[end + 1 :]
    if arguments.folder:
        print(json.dumps(upscale(Path(arguments.folder), options)))
        return 0
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_model(folder / "model.safetensors")
        if arguments.what == "large":
            height = arguments.height or arguments.side
            write_image(folder / "in" / "large.png", height // SCALE, arguments.side // SCALE, 0)
        else:
            rng = np.random.default_rng(0)
            for index, (height, width) in enumerate(rng.integers(8, 97, (arguments.count, 2)).tolist()):
                write_image(folder / "in" / f"{index:04d}.png", height, width, index)
        words = [sys.executable, __file__, arguments.what, "--folder", str(folder), "--", *options]
        result = subprocess.run(words, capture_output=True, text=True, check=False)
        if result.returncode:
            print(result.stderr, file=sys.stderr)
            return result.returncode
        print(result.stdout.splitlines()[-1])
        print(f"outputs: {sum(1 for _ in (folder / 'out').glob('*.png'))}")
    return 0


def write_model(path: Path) -> None:
    """A narrow SRVGG with random weights."""
    import jax

    from framer_jax.checkpoints.open import build_recipe
    from framer_jax.config import default, to_dict
    from framer_jax.inference.model import save_model
    from framer_jax.recipes.base import expected_params

    config = default("supervised_l1")
    config.recipe.student.name = "srvgg"
    for name, value in NETWORK.items():
        config.recipe.student.srvgg[name] = value
    settings = to_dict(config)
    recipe, rng = build_recipe(settings["recipe"], "inference"), np.random.default_rng(0)
    params = jax.tree.map(
        lambda leaf: 0.05 * rng.standard_normal(leaf.shape).astype(np.float32), expected_params(recipe)
    )
    save_model(path, recipe, params, {"config": settings, "step": 0})


def write_image(path: Path, height: int, width: int, seed: int) -> None:
    """Smooth noise."""
    path.parent.mkdir(exist_ok=True)
    noise = np.random.default_rng(seed).integers(0, 256, (max(height // 8, 2), max(width // 8, 2), 3), np.uint8)
    Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC).save(path)


def upscale(folder: Path, options: Sequence[str]) -> dict[str, Any]:
    """Upscale, and what it took: MiB of resident memory, compilations, seconds."""
    import jax
    from jax import monitoring

    from framer_jax import cli

    compilations, samples, ended = [0], [], threading.Event()

    def count(event: str, duration_secs: float, **_: Any) -> None:
        compilations[0] += event == "/jax/core/compile/backend_compile_duration"

    def sample() -> None:
        while not ended.wait(PERIOD):
            samples.append(resident())

    monitoring.register_event_duration_secs_listener(count)
    jax.config.update("jax_enable_compilation_cache", False)
    words = ["upscale", str(folder / "in"), str(folder / "out"), "--weights", str(folder / "model.safetensors")]
    before, start, thread = resident(), time.perf_counter(), threading.Thread(target=sample)
    thread.start()
    status = cli.main([*words, *options])
    seconds = time.perf_counter() - start
    ended.set()
    thread.join()
    fifths = [max(part.tolist(), default=0) for part in np.array_split(np.array(samples), 5)]
    return {
        "status": status,
        "MiB before": before,
        "largest MiB in each fifth": fifths,
        "compilations": compilations[0],
        "seconds": round(seconds, 1),
    }


def resident() -> int:
    """MiB of memory that this process holds now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") // 2**20


if __name__ == "__main__":
    sys.exit(main())
