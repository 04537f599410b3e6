"""Checkerboard artifacts: how much of an image's error repeats with the grid of a pixel shuffle."""

from __future__ import annotations

from functools import partial

import jax

from framer_jax.evaluation.psnr import crop
from framer_jax.losses.pixel import (
    CHECKERBOARD_CELLS,
    CHECKERBOARD_TEXTURE_CELLS,
    checkerboard_error,
    checkerboard_texture_error,
)

PERIOD = 4
"""Pixels after which a pattern repeats: of networks for x4, and of those whose layers double the size."""

SMALLEST_SIDE = CHECKERBOARD_CELLS * PERIOD
SMALLEST_TEXTURE_SIDE = CHECKERBOARD_TEXTURE_CELLS * PERIOD


@partial(jax.jit, static_argnames="crop_border")
def checkerboard(sr: jax.Array, reference: jax.Array, crop_border: int = 0) -> jax.Array:
    """Mean absolute error that repeats every `PERIOD` pixels, see framer_jax.losses.pixel.checkerboard_error.

    Errors that do not repeat leave something, too, as a window has no more than 64 cells: compare images of the same
    photographs.

    Args:
      sr: [B, H, W, 3] in [0, 1].
      reference: the same shape.
      crop_border: pixels ignored on every side.

    Returns:
      [B] float32 in levels of 255; 0 for equal images.

    Raises:
      ValueError: a side is shorter than `SMALLEST_SIDE`.
    """
    return 255.0 * checkerboard_error(crop(sr, crop_border), crop(reference, crop_border), PERIOD)


@partial(jax.jit, static_argnames="crop_border")
def checkerboard_texture(sr: jax.Array, reference: jax.Array, crop_border: int = 0) -> jax.Array:
    """Pattern of `PERIOD` pixels in the strength of texture, see framer_jax.losses.pixel.checkerboard_texture_error.

    It sees patterns whose sign changes from place to place, which cancel in `checkerboard`. Arguments, result and
    errors are as of that, for sides of at least `SMALLEST_TEXTURE_SIDE`.
    """
    return 255.0 * checkerboard_texture_error(crop(sr, crop_border), crop(reference, crop_border), PERIOD)
