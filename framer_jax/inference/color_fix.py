"""Give a super-resolved picture the colours of its low-resolution source, over the whole picture at once.

Fixing each tile for itself would give neighbouring tiles different tones. Everything runs on the host, one channel at
a time, so that the size of a picture is limited by host memory alone.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from framer_jax.inference.resample import upsample_bicubic

LEVELS = 5
"""Levels of the wavelet fix: dilations 1, 2, 4, 8, 16, a low pass of about 63 pixels."""

STRIP = 256
"""Rows or columns that are blurred at a time: temporaries stay small."""


def adain(output: np.ndarray, source: np.ndarray) -> np.ndarray:
    """Give a channel the mean and standard deviation of another (Huang & Belongie, 2017, eq. 8).

    Args:
      output: [H, W] float32, one channel.
      source: the same of the picture with the right colours.

    Returns:
      [H, W] float32; variances are unbiased, with 1e-5 added under the root.
    """

    def moments(channel: np.ndarray) -> tuple[float, float]:
        variance = np.var(channel, dtype=np.float64, ddof=min(1, channel.size - 1))
        return float(np.mean(channel, dtype=np.float64)), float(np.sqrt(variance + 1e-5))

    (mean, deviation), (source_mean, source_deviation) = moments(output), moments(source)
    gain = source_deviation / deviation
    return output * np.float32(gain) + np.float32(source_mean - mean * gain)


def low_pass(channel: np.ndarray, levels: int = LEVELS) -> np.ndarray:
    """Blur with the 3x3 binomial kernel at dilations 1, 2, 4, ... (the 'à trous' wavelet's low band).

    Args:
      channel: [H, W] float32; borders repeat the edge pixel at every level.
      levels: number of blurs.

    Returns:
      [H, W] float32.
    """
    result = channel.copy()
    for level in range(levels):
        for axis in (0, 1):  # the binomial kernel is separable
            places = np.arange(result.shape[axis])
            for first in range(0, result.shape[1 - axis], STRIP):
                chosen = slice(first, first + STRIP)
                strip = result[:, chosen] if axis == 0 else result[chosen]  # a view; strips do not mix
                blurred = np.take(strip, places - 2**level, axis=axis, mode="clip")
                blurred += np.take(strip, places + 2**level, axis=axis, mode="clip")
                blurred *= np.float32(0.25)
                blurred += np.float32(0.5) * strip
                strip[...] = blurred
    return result


def wavelet(output: np.ndarray, source: np.ndarray) -> np.ndarray:
    """Take the low band from `source` and all finer bands from `output` ([H, W] float32 both)."""
    result = output - low_pass(output)
    result += low_pass(source)
    return result


COLOR_FIXES: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray] | None] = {
    "none": None,
    "adain": adain,
    "wavelet": wavelet,
}
"""Name of a fix to its function of (output channel, source channel)."""


def fix_color(
    output: np.ndarray,
    low_resolution: np.ndarray,
    method: str,
    scale: int,
    strength: float = 1.0,
    out: np.ndarray | None = None,
) -> np.ndarray:
    """Match the colours of a super-resolved picture to the bicubic enlargement of its source.

    Args:
      output: [sH, sW, 3] float32, not clipped.
      low_resolution: [H, W, 3] float32 in [0, 1].
      method: a name of `COLOR_FIXES`.
      scale: s.
      strength: 1 for the whole fix, 0 for none, between for a blend.
      out: where to put the result (`output` itself is allowed); a new array if None.

    Returns:
      [sH, sW, 3] float32, not clipped.

    Raises:
      ValueError: unknown method, or shapes that do not fit.
    """
    if method not in COLOR_FIXES:
        raise ValueError(f"unknown colour fix {method!r}: use one of {', '.join(COLOR_FIXES)}")
    height, width, channels = low_resolution.shape
    if output.shape != (height * scale, width * scale, channels):
        raise ValueError(f"output {output.shape} is not {scale} times the source {low_resolution.shape}")
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
