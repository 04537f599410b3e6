"""Bicubic resizing on the host: enlargement as PyTorch does it, and any size as Pillow does it."""

from __future__ import annotations

import numpy as np
from PIL import Image

A = -0.75
"""The free coefficient of the cubic kernel: PyTorch's (and jax.image's 'cubic-pytorch'); Pillow and MATLAB use -0.5."""


def upsample_bicubic(image: np.ndarray, scale: int) -> np.ndarray:
    """Enlarge by a whole factor, with little memory beyond the result.

    It equals torch's `interpolate(mode='bicubic', align_corners=False)`.

    Keys, 'Cubic convolution interpolation for digital image processing', 1981, eq. 15 with a = -3/4; borders repeat
    the edge pixel.

    Args:
      image: [H, W] or [H, W, C] float32.
      scale: s >= 1.

    Returns:
      [sH, sW(, C)] float32, not clipped (the kernel overshoots).
    """
    if scale == 1:
        return image.astype(np.float32)
    return _upsample_axis(_upsample_axis(image, scale, 0), scale, 1)


def resize_pillow(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize as Pillow does with BICUBIC (a = -1/2; a reduction is antialiased), in float32 and clipped to [0, 1].

    Args:
      image: [H, W, C] float32.
      size: (height, width).

    Returns:
      [height, width, C] float32; the image itself where it has that size.
    """
    if image.shape[:2] == size:
        return image
    height, width = size
    result = np.empty((height, width, image.shape[2]), np.float32)
    for channel in range(image.shape[2]):
        one = Image.fromarray(np.ascontiguousarray(image[:, :, channel], np.float32))
        result[:, :, channel] = np.asarray(one.resize((width, height), Image.Resampling.BICUBIC))
    return np.clip(result, 0, 1, out=result)


def _kernel(distance: float) -> float:
    d = abs(distance)
    if d <= 1:
        return (A + 2) * d**3 - (A + 3) * d**2 + 1
    return A * d**3 - 5 * A * d**2 + 8 * A * d - 4 * A if d < 2 else 0.0


def _upsample_axis(image: np.ndarray, scale: int, axis: int) -> np.ndarray:
    """All output positions of one phase share their four weights, so each phase is four shifted sums."""
    length = image.shape[axis]
    shape = list(image.shape)
    shape[axis] = length * scale
    result = np.empty(shape, np.float32)
    for phase in range(scale):
        place = (phase + 0.5) / scale - 0.5  # of the output pixel, relative to its input pixel
        first = int(np.floor(place)) - 1
        where = [slice(None)] * image.ndim
        where[axis] = slice(phase, None, scale)
        part = np.zeros(image.shape, np.float32)
        for tap in range(first, first + 4):
            weight = np.float32(_kernel(place - tap))
            part += weight * np.take(image, np.arange(length) + tap, axis=axis, mode="clip")
        result[tuple(where)] = part
    return result
