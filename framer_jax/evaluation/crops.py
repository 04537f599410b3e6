"""Which part of an image shows best how methods differ."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

CROP_SHARE = 4
"""The shorter side of an image over the side of an automatic crop."""

SMALLEST_CROP = 16
"""Side in pixels of the smallest automatic crop."""


class Crop(NamedTuple):
    """A square part of an image.

    Attributes:
      x, y: column and row of its top left pixel.
      size: its side in pixels.
    """

    x: int
    y: int
    size: int


def default_crop_size(height: int, width: int) -> int:
    """Side of an automatic crop: a quarter of the shorter side, at least 16 pixels, at most the shorter side."""
    shorter = min(height, width)
    return min(shorter, max(SMALLEST_CROP, shorter // CROP_SHARE))


def automatic_crop(images: Sequence[npt.NDArray[np.uint8]], size: int) -> Crop:
    """The square in which the images disagree most.

    Disagreement of a pixel is the variance of its values across the images, added up over the three channels; of a
    square, the sum over its pixels. All numbers are integers, so that the result is the same on every machine; of equal
    squares, the first from the top, then from the left, is taken. A single image, or equal ones, give the center.

    Args:
      images: at least one, each [H, W, 3].
      size: side of the square, at most the shorter side of the images.

    Raises:
      ValueError: the square is larger than the images.
    """
    height, width = images[0].shape[:2]
    if not 0 < size <= min(height, width):
        raise ValueError(f"a crop of {size} pixels does not fit into an image of {width}x{height}")
    total = np.zeros((height, width, 3), np.int64)
    squares = np.zeros((height, width, 3), np.int64)
    for image in images:
        values = image.astype(np.int64)
        total += values
        squares += values * values
    disagreement = (len(images) * squares - total * total).sum(axis=2)  # variance times the squared number of images
    if not disagreement.any():
        return Crop((width - size) // 2, (height - size) // 2, size)
    table = np.zeros((height + 1, width + 1), np.int64)
    table[1:, 1:] = disagreement.cumsum(axis=0).cumsum(axis=1)
    sums = table[size:, size:] - table[:-size, size:] - table[size:, :-size] + table[:-size, :-size]
    y, x = np.unravel_index(int(np.argmax(sums)), sums.shape)
    return Crop(int(x), int(y), size)
