"""Gaussian and Poisson noise of one image, in colour or gray, from the random words of its pixels.

Both follow Real-ESRGAN's formulas. Poisson counts are drawn exactly (each probability to 2⁻³²) from tabulated alias
tables (Walker 1977): an image has at most 256 levels and 9 possible gains, so there is nothing to approximate, and a
count is one look into a table, where `jax.random.poisson` takes a hundred times as long on a CPU.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy.stats import poisson as poisson_distribution

LUMA = (0.2989, 0.587, 0.114)
"""Weights of the luma that gray Poisson noise counts (torchvision's rgb_to_grayscale)."""

GAINS = 9
"""2^0 … 2^8: the power of two at or above the number of distinct levels."""


def grayscale(planes: jax.Array) -> jax.Array:
    """[3, H, W] → [1, H, W], by `LUMA`."""
    red, green, blue = planes
    return (LUMA[0] * red + LUMA[1] * green + LUMA[2] * blue)[None]


def standard_normal(words: jax.Array) -> jax.Array:
    """Standard normal float32 values of uint32 random words, by the inverse distribution function, elementwise."""
    # 2^23 equal steps of (-1, 1), none of them 0 or ±1, all exact in float32.
    uniform = (words >> 9).astype(jnp.float32) * jnp.float32(2.0**-22) - jnp.float32(1.0 - 2.0**-23)
    return math.sqrt(2.0) * jax.lax.erf_inv(uniform)


def gaussian_noise(normal: jax.Array, sigma: jax.Array) -> jax.Array:
    """Additive Gaussian noise: standard normal draws [C, H, W] times sigma (for images in [0, 1]); C = 1 serves all."""
    return normal * sigma


class PoissonRate(NamedTuple):
    """What Poisson counts are drawn from.

    Attributes:
      levels: [C, H, W] int32, the image in 256 levels.
      exponent: int32 scalar, log2 of the gain: counts are Poisson(levels / 255 · 2^exponent).
    """

    levels: jax.Array
    exponent: jax.Array

    @property
    def image(self) -> jax.Array:
        """[C, H, W] float32: the image rounded to 256 levels, in [0, 1]."""
        return self.levels.astype(jnp.float32) / 255.0

    @property
    def gain(self) -> jax.Array:
        """Float32 scalar."""
        return jnp.exp2(self.exponent.astype(jnp.float32))


def poisson_rate(planes: jax.Array, valid: jax.Array | None = None) -> PoissonRate:
    """Levels and gain of an image: the gain is the power of two at or above its number of distinct levels.

    Args:
      planes: [C, H, W] float32; clipped to [0, 1].
      valid: [H, W] bool, which pixels count; all by default.
    """
    levels = jnp.round(jnp.clip(planes * 255.0, 0.0, 255.0)).astype(jnp.int32)
    counted = jnp.ones(planes.shape[1:], bool) if valid is None else valid
    counted = jnp.broadcast_to(counted[None], levels.shape).astype(jnp.int32)
    number = jnp.zeros(256, jnp.int32).at[levels.reshape(-1)].max(counted.reshape(-1)).sum()
    exponent = jnp.sum(number > 2 ** jnp.arange(GAINS - 1, dtype=jnp.int32))
    return PoissonRate(levels, exponent.astype(jnp.int32))


class AliasTables(NamedTuple):
    """Alias tables of Poisson(l / 255 · 2^j), behind each other, for all j and l.

    A row for (j, l) has 2^b columns. A random word's upper b bits choose column i; its other bits, if below the
    column's threshold, say that the count is i, else that it is the column's alias.

    Attributes:
      entries: [N] uint32: threshold in the upper 32 - b bits, alias in the lower b.
      starts: [9] int32: where the rows of each j begin.
      bits: [9] int32: b of each j.
    """

    entries: np.ndarray
    starts: np.ndarray
    bits: np.ndarray


@lru_cache(maxsize=1)
def alias_tables() -> AliasTables:
    """Build the tables (1.3 MB, a tenth of a second), in whole numbers, so that every row's probabilities sum to 1."""
    rows, starts, widths, start = [], [], [], 0
    for exponent in range(GAINS):
        gain = 2.0**exponent
        # Counts beyond 6.5 deviations of the largest rate are rarer than one word in 2^32.
        bits = math.ceil(math.log2(gain + 6.5 * math.sqrt(gain) + 12))
        rows.append(_alias_rows(np.arange(256) / 255.0 * gain, bits).reshape(-1))
        starts.append(start)
        widths.append(bits)
        start += rows[-1].size
    return AliasTables(np.concatenate(rows), np.array(starts, np.int32), np.array(widths, np.int32))


def _alias_rows(rates: np.ndarray, bits: int) -> np.ndarray:
    """Rows [len(rates), 2^bits] uint32 of `AliasTables`, all at once: the richest column fills the poorest."""
    width, capacity = 2**bits, 2 ** (32 - bits)
    exact = poisson_distribution.pmf(np.arange(width)[None, :], rates[:, None]) * 2.0**32
    weight = np.round(exact).astype(np.int64)
    every = np.arange(len(rates))
    weight[every, weight.argmax(axis=1)] += 2**32 - weight.sum(axis=1)  # what rounding lost, to the likeliest count
    threshold, alias = np.zeros_like(weight), np.tile(np.arange(width), (len(rates), 1))
    open_weight = weight.copy()
    for _ in range(width):
        poor = np.where(open_weight < 0, np.iinfo(np.int64).max, open_weight).argmin(axis=1)
        rich = open_weight.argmax(axis=1)
        amount = open_weight[every, poor]
        full = amount >= capacity  # then all open columns are exactly full: each is its own alias
        threshold[every, poor] = np.where(full, 0, amount)
        alias[every, poor] = np.where(full, poor, rich)
        open_weight[every, rich] -= np.where(full, 0, capacity - amount)
        open_weight[every, poor] = -1
    return (threshold.astype(np.uint32) << np.uint32(bits)) | alias.astype(np.uint32)


def poisson_counts(rate: PoissonRate, words: jax.Array) -> jax.Array:
    """Draw counts.

    Args:
      rate: what `poisson_rate` gives.
      words: [C, H, W] uint32 random words.

    Returns:
      [C, H, W] float32 counts.
    """
    tables = alias_tables()
    bits = jnp.asarray(tables.bits)[rate.exponent].astype(jnp.uint32)
    column = words >> (jnp.uint32(32) - bits)
    row = jnp.asarray(tables.starts)[rate.exponent].astype(jnp.uint32) + (rate.levels.astype(jnp.uint32) << bits)
    entry = jnp.take(jnp.asarray(tables.entries), (row + column).astype(jnp.int32), mode="clip")
    rest = words & ((jnp.uint32(1) << (jnp.uint32(32) - bits)) - jnp.uint32(1))
    alias = entry & ((jnp.uint32(1) << bits) - jnp.uint32(1))
    return jnp.where(rest < entry >> bits, column, alias).astype(jnp.float32)


def poisson_noise(rate: PoissonRate, counts: jax.Array, scale: jax.Array) -> jax.Array:
    """Additive Poisson (shot) noise from drawn counts: scale · (counts / gain - image).

    Args:
      rate: what the counts were drawn from, of the image or of its grayscale.
      counts: [C, H, W].
      scale: float32 scalar.

    Returns:
      [C, H, W] float32, to be added to the image; C = 1 serves all three channels.
    """
    return (counts / rate.gain - rate.image) * scale
