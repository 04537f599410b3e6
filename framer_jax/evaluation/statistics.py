"""Confidence intervals of means over images."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def bootstrap_interval(
    values: npt.ArrayLike, seed: int | np.random.Generator = 0, resamples: int = 2000, level: float = 0.95
) -> tuple[float, float]:
    """Percentile bootstrap interval of a mean (Efron 1979).

    The same seed resamples the same images for every metric.

    Args:
      values: [N], one number per image.
      seed: seed of the resampling, or a random generator.
      resamples: number of bootstrap resamples.
      level: confidence level.

    Returns:
      (low, high); both NaN for a single value, whose spread is unknown.

    Raises:
      ValueError: no values, values that are not finite, or settings out of range.
    """
    values = np.asarray(values, np.float64).reshape(-1)
    if values.size == 0 or not np.isfinite(values).all():
        raise ValueError("a bootstrap interval needs one or more finite values")
    if resamples < 100 or not 0 < level < 1:
        raise ValueError(f"resamples must be at least 100 and 0 < level < 1; got {resamples} and {level}")
    if values.size == 1:
        return float("nan"), float("nan")
    generator = np.random.default_rng(seed)
    # One resample at a time, so that memory does not grow with the number of images.
    means = [values[generator.integers(0, values.size, values.size)].mean() for _ in range(resamples)]
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
