"""From the network's output to the result that was asked for: opposite edges that meet, and the exact size."""

from __future__ import annotations

import math

import numpy as np

from framer_jax.images.image_data import ImageData
from framer_jax.inference.resample import resize_pillow
from framer_jax.inference.result_settings import ResultSettings

MARGIN = 32
"""LR pixels by which a periodic image is continued on each side."""

RAMP = 8
"""LR pixels on each side of an edge over which the two computations of the same pixels are blended."""


def extended_size(height: int, width: int, result: ResultSettings) -> tuple[int, int]:
    """Size of what the network gets of an image of this size."""
    margin = 2 * MARGIN if result.wrap else 0
    return height + margin, width + margin


def extended(image: ImageData, result: ResultSettings) -> ImageData:
    """The image as the network gets it: with `wrap`, continued periodically by `MARGIN` pixels on each side."""
    if not result.wrap:
        return image
    alpha = None if image.alpha is None else np.pad(image.alpha, MARGIN, mode="wrap")
    pixels = np.pad(image.pixels, ((MARGIN, MARGIN), (MARGIN, MARGIN), (0, 0)), mode="wrap")
    return image._replace(pixels=pixels, alpha=alpha)


def blended(pixels: np.ndarray, smooth: np.ndarray, strength: float) -> np.ndarray:
    """Strength · pixels + (1 - strength) · smooth, in [0, 1]; both [s H, s W, C] float32, the second not clipped."""
    share = np.float32(strength)
    mixed: np.ndarray = np.clip(share * pixels + (1 - share) * smooth, 0, 1)
    return mixed


def finished(canvas: np.ndarray, size: tuple[int, int], scale: int, result: ResultSettings) -> np.ndarray:
    """The result of an image of `size` (height, width).

    Args:
      canvas: the SR image of what `extended` gives, [s H', s W', C] or [s H', s W'] float32 in [0, 1].
      size: size of the LR image.
      scale: the upsampling factor s.
      result: the settings.

    Returns:
      float32 in [0, 1] of the size that `ResultSettings.size` says: reduced with an antialiased, or enlarged with a
      bicubic filter where that is not the model's own.
    """
    if result.wrap:
        canvas = _joined(_joined(canvas, size[0], scale).swapaxes(0, 1), size[1], scale).swapaxes(0, 1)
        canvas = np.ascontiguousarray(canvas)
    target = result.size(*size, scale)
    if canvas.shape[:2] == target:
        return canvas
    planes = canvas if canvas.ndim == 3 else canvas[:, :, None]
    border = 0
    if result.wrap:  # the filter sees the pixels beyond the edges
        reduction = max(1.0, planes.shape[0] / target[0], planes.shape[1] / target[1])
        border = math.ceil(2 * reduction) + 1
        planes = np.pad(planes, ((border, border), (border, border), (0, 0)), mode="wrap")
    resized = resize_pillow(planes, target, border)
    return resized if canvas.ndim == 3 else resized[:, :, 0]


def _joined(canvas: np.ndarray, length: int, scale: int) -> np.ndarray:
    """One period along the first axis of a canvas that was continued by `MARGIN` LR pixels at both of its ends.

    Both ends were computed twice, once with the pixels beyond the edge on this side and once in the continuation on the
    other. A blend of both, half of each at the edge, makes the edges meet also where the network draws its own detail.
    """
    start, period = MARGIN * scale, length * scale
    ramp = min(RAMP * scale, period // 2)
    joined = canvas[start : start + period].copy()
    weights = (0.5 + 0.5 * (np.arange(ramp, dtype=np.float32) + np.float32(0.5)) / np.float32(max(ramp, 1))).astype(
        np.float32
    )
    weights = weights.reshape(-1, *[1] * (canvas.ndim - 1))
    after = canvas[start + period : start + period + ramp]  # the first rows, computed behind the last ones
    before = canvas[start - ramp : start]  # the last rows, computed before the first ones
    joined[:ramp] = weights * joined[:ramp] + (1 - weights) * after
    joined[period - ramp :] = weights[::-1] * joined[period - ramp :] + (1 - weights[::-1]) * before
    return joined
