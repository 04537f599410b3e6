"""Color fixes: match the colors of an SR image to those of its LR image, over the whole image at once.

Fixing every tile separately would give neighboring tiles different tones. Everything runs on the host, one channel at
a time, so only host memory limits the size of an image.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from framer_jax.inference.resample import upsample_bicubic

LEVELS = 5
"""Levels of the wavelet fix: dilations 1, 2, 4, 8, 16, a low-pass filter about 63 pixels wide."""

STRIP = 256
"""Number of rows or columns blurred at a time, which keeps temporary arrays small."""


def adain(output: np.ndarray, source: np.ndarray) -> np.ndarray:
    """Adaptive instance normalization: match mean and standard deviation (Huang and Belongie 2017, Eq. 8).

    Args:
      output: [H, W] float32, one channel of the SR image.
      source: [H, W] float32, the same channel of an image with the right colors.

    Returns:
      [H, W] float32; variances are unbiased, with 1e-5 added before the square root.
    """

    def moments(channel: np.ndarray) -> tuple[float, float]:
        variance = np.var(channel, dtype=np.float64, ddof=min(1, channel.size - 1))
        return float(np.mean(channel, dtype=np.float64)), float(np.sqrt(variance + 1e-5))

    (mean, std), (source_mean, source_std) = moments(output), moments(source)
    gain = source_std / std
    return output * np.float32(gain) + np.float32(source_mean - mean * gain)


def low_pass(channel: np.ndarray, levels: int = LEVELS) -> np.ndarray:
    """Blur with the 3x3 binomial kernel at dilations 1, 2, 4, ... (the low band of the "à trous" wavelet transform).

    Args:
      channel: [H, W] float32; edge pixels are repeated beyond the border at every level.
      levels: number of blurs.

    Returns:
      [H, W] float32.
    """
    result = channel.copy()
    for level in range(levels):
        for axis in (0, 1):  # the binomial kernel is separable
            indices = np.arange(result.shape[axis])
            for first in range(0, result.shape[1 - axis], STRIP):
                window = slice(first, first + STRIP)
                strip = result[:, window] if axis == 0 else result[window]  # a view; strips are independent
                blurred = np.take(strip, indices - 2**level, axis=axis, mode="clip")
                blurred += np.take(strip, indices + 2**level, axis=axis, mode="clip")
                blurred *= np.float32(0.25)
                blurred += np.float32(0.5) * strip
                strip[...] = blurred
    return result


def wavelet(output: np.ndarray, source: np.ndarray) -> np.ndarray:
    """Combine the low band of `source` with all finer bands of `output`; both are [H, W] float32."""
    result = output - low_pass(output)
    result += low_pass(source)
    return result


COLOR_FIXES: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray] | None] = {
    "none": None,
    "adain": adain,
    "wavelet": wavelet,
}
"""Name of a color fix → function of (output channel, source channel)."""


def fix_color(
    output: np.ndarray,
    low_resolution: np.ndarray,
    method: str,
    scale: int,
    strength: float = 1.0,
    out: np.ndarray | None = None,
) -> np.ndarray:
    """Match the colors of an SR image to its bicubically upsampled LR image.

    Args:
      output: SR image, [sH, sW, 3] float32, not clipped.
      low_resolution: LR image, [H, W, 3] float32 in [0, 1].
      method: name of a color fix in `COLOR_FIXES`.
      scale: upsampling factor s.
      strength: interpolation between `output` (0) and the fixed image (1).
      out: array for the result (`output` itself is allowed); None allocates one.

    Returns:
      [sH, sW, 3] float32, not clipped.

    Raises:
      ValueError: an unknown method, or shapes that do not fit.
    """
    if method not in COLOR_FIXES:
        raise ValueError(f"unknown color fix {method!r}: use one of {', '.join(COLOR_FIXES)}")
    height, width, channels = low_resolution.shape
    if output.shape != (height * scale, width * scale, channels):
        raise ValueError(f"output {output.shape} is not {scale} times the LR image {low_resolution.shape}")
    function = COLOR_FIXES[method]
    if function is None or strength == 0:
        if out is None:
            return output.copy()
        if out is not output:
            out[...] = output
        return out
    result = np.empty_like(output) if out is None else out
    for channel in range(channels):
        before = np.ascontiguousarray(output[:, :, channel])
        fixed = function(before, upsample_bicubic(low_resolution[:, :, channel], scale))
        result[:, :, channel] = fixed if strength == 1 else before + np.float32(strength) * (fixed - before)
    return result
