"""Seconds per image of ways to upscale, measured alternately and kept on disk."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from framer_jax.evaluation.files import image_files, read_pixels
from framer_jax.porting.files import atomic_write
from tools.quality_images import DataSet, Upsampler, digest_of_json, file_name
from tools.timing import hardware, time_alternately

TIMED_SIDE = 128
"""Side of the LR image whose upscaling is timed, in pixels: one tile."""


def timed_image(data_set: DataSet) -> np.ndarray:
    """The LR image whose upscaling is timed, [H, W, 3] float32 in [0, 1]: the center of the first photograph."""
    pixels = read_pixels(image_files(data_set.lr).paths[0])
    top, left = (max(0, length - TIMED_SIDE) // 2 for length in pixels.shape[:2])
    return np.ascontiguousarray(pixels[top : top + TIMED_SIDE, left : left + TIMED_SIDE])


def measure_seconds(upsamplers: Sequence[Upsampler], image: np.ndarray, rounds: int, output: Path) -> dict[str, float]:
    """Median seconds per image, by label; measured alternately, so that a busy machine slows all models alike.

    Compiling, reading and writing are not included. Times measured earlier on this hardware are taken from disk.

    Args:
      upsamplers: the ways to upscale.
      image: LR image, [H, W, 3] float32 in [0, 1].
      rounds: number of timed runs of each.
      output: folder of the whole report.
    """
    where = {"hardware": hardware(), "size": image.shape, "rounds": rounds}
    files = {
        upsampler.label: output
        / "seconds"
        / f"{file_name(upsampler.label)}-{digest_of_json(where | {'upsampler': upsampler.identity})}.json"
        for upsampler in upsamplers
    }
    programs = {
        upsampler.label: partial(upsampler.run, image)
        for upsampler in upsamplers
        if not files[upsampler.label].is_file()
    }
    for label, times in (time_alternately(programs, rounds, warm_up=1) if programs else {}).items():
        with atomic_write(files[label]) as temporary:
            temporary.write_text(json.dumps({**where, "seconds": times}) + "\n", encoding="utf-8")
    return {
        label: float(np.median(json.loads(file.read_text(encoding="utf-8"))["seconds"]))
        for label, file in files.items()
    }
