"""Bicubic resizing on the host: upsampling as in PyTorch, and resizing to any size as in Pillow."""

from __future__ import annotations

import numpy as np
from PIL import Image

CUBIC_COEFFICIENT = -0.75
"""Free coefficient of the cubic kernel in PyTorch (and jax.image's 'cubic-pytorch'); Pillow and MATLAB use -0.5."""


def upsample_bicubic(image: np.ndarray, scale: int) -> np.ndarray:
    """Upsample bicubically by an integer factor; it needs little memory besides the result.

    Equal to torch's `interpolate(mode='bicubic', align_corners=False)`: Keys, "Cubic Convolution Interpolation for
    Digital Image Processing", 1981, Eq. 15 with a = -3/4; edge pixels are repeated beyond the border.

    Args:
      image: [H, W] or [H, W, C] float32.
      scale: upsampling factor s >= 1.

    Returns:
      [sH, sW(, C)] float32, not clipped (the kernel overshoots).
    """
    if scale == 1:
        return image.astype(np.float32)
    return _upsample_axis(_upsample_axis(image, scale, 0), scale, 1)


def resize_pillow(image: np.ndarray, size: tuple[int, int], border: int = 0) -> np.ndarray:
    """Resize like Pillow's BICUBIC (a = -1/2, antialiased when downsampling), in float32 and clipped to [0, 1].

    Args:
      image: [H, W, C] float32.
      size: (height, width) of the result.
      border: pixels on each side that are seen by the filter, and are no part of what is resized.

    Returns:
      [height, width, C] float32; the image itself if it already has that size.
    """
    if image.shape[:2] == size and not border:
        return image
    height, width = size
    box = (border, border, image.shape[1] - border, image.shape[0] - border)
    result = np.empty((height, width, image.shape[2]), np.float32)
    for channel in range(image.shape[2]):
        plane = Image.fromarray(np.ascontiguousarray(image[:, :, channel], np.float32))
        result[:, :, channel] = np.asarray(plane.resize((width, height), Image.Resampling.BICUBIC, box))
    return np.clip(result, 0, 1, out=result)


def _cubic_kernel(distance: float) -> float:
    a, d = CUBIC_COEFFICIENT, abs(distance)
    if d <= 1:
        return (a + 2) * d**3 - (a + 3) * d**2 + 1
    return a * d**3 - 5 * a * d**2 + 8 * a * d - 4 * a if d < 2 else 0.0


def _upsample_axis(image: np.ndarray, scale: int, axis: int) -> np.ndarray:
    """Upsample one axis. Output pixels of the same phase share four weights, so a phase is a sum of four shifts."""
    length = image.shape[axis]
    shape = list(image.shape)
    shape[axis] = length * scale
    result = np.empty(shape, np.float32)
    for phase in range(scale):
        position = (phase + 0.5) / scale - 0.5  # of the output pixel, relative to its input pixel
        first = int(np.floor(position)) - 1
        outputs = [slice(None)] * image.ndim
        outputs[axis] = slice(phase, None, scale)
        total = np.zeros(image.shape, np.float32)
        for tap in range(first, first + 4):
            weight = np.float32(_cubic_kernel(position - tap))
            total += weight * np.take(image, np.arange(length) + tap, axis=axis, mode="clip")
        result[tuple(outputs)] = total
    return result
