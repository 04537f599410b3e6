"""Gaussian and Poisson noise of one image, color or gray, from the random words of its pixels.

Both follow Real-ESRGAN's formulas. Poisson counts are drawn exactly (each probability to 2⁻³²) from precomputed alias
tables (Walker 1977): an image has at most 256 levels and 9 possible gains, so no approximation is needed. A count is
one table lookup, whereas `jax.random.poisson` takes a hundred times as long on a CPU.
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
"""Weights of the luma for gray Poisson noise (those of torchvision's rgb_to_grayscale)."""

NUM_GAINS = 9
"""Number of possible gains, 2^0 … 2^8: the smallest power of two that is at least the number of distinct levels."""


def grayscale(planes: jax.Array) -> jax.Array:
    """Luma of RGB planes: [3, H, W] → [1, H, W]."""
    red, green, blue = planes
    return (LUMA[0] * red + LUMA[1] * green + LUMA[2] * blue)[None]


def standard_normal(words: jax.Array) -> jax.Array:
    """Map uint32 random words to standard normal float32 values by the inverse distribution function, elementwise."""
    # 2^23 equally spaced values in (-1, 1), without 0 and ±1, all exact in float32.
    uniform = (words >> 9).astype(jnp.float32) * jnp.float32(2.0**-22) - jnp.float32(1.0 - 2.0**-23)
    return math.sqrt(2.0) * jax.lax.erf_inv(uniform)


def gaussian_noise(normal: jax.Array, sigma: jax.Array) -> jax.Array:
    """Additive Gaussian noise for images in [0, 1]: standard normal draws [C, H, W] times sigma; C = 1 if gray."""
    return normal * sigma


class PoissonRate(NamedTuple):
    """Rates of the Poisson counts of an image.

    Attributes:
      levels: the image rounded to 256 levels, [C, H, W] int32.
      exponent: log2 of the gain, int32 scalar: counts are Poisson(levels / 255 · 2^exponent).
    """

    levels: jax.Array
    exponent: jax.Array

    @property
    def image(self) -> jax.Array:
        """The image rounded to 256 levels, [C, H, W] float32 in [0, 1]."""
        return self.levels.astype(jnp.float32) / 255.0

    @property
    def gain(self) -> jax.Array:
        """The gain, float32 scalar."""
        return jnp.exp2(self.exponent.astype(jnp.float32))


def poisson_rate(planes: jax.Array, valid: jax.Array | None = None) -> PoissonRate:
    """Levels and gain of an image; the gain is the smallest power of two not below its number of distinct levels.

    Args:
      planes: [C, H, W] float32; clipped to [0, 1].
      valid: pixels whose levels are counted, bool [H, W]; all by default.
    """
    levels = jnp.round(jnp.clip(planes * 255.0, 0.0, 255.0)).astype(jnp.int32)
    mask = jnp.ones(planes.shape[1:], bool) if valid is None else valid
    mask = jnp.broadcast_to(mask[None], levels.shape).astype(jnp.int32)
    distinct_levels = jnp.zeros(256, jnp.int32).at[levels.reshape(-1)].max(mask.reshape(-1)).sum()
    exponent = jnp.sum(distinct_levels > 2 ** jnp.arange(NUM_GAINS - 1, dtype=jnp.int32))
    return PoissonRate(levels, exponent.astype(jnp.int32))


class AliasTables(NamedTuple):
    """Alias tables of Poisson(l / 255 · 2^j) for all j and l, concatenated.

    The row of (j, l) has 2^b columns. The upper b bits of a random word choose column i; the count is i if the other
    bits are below the column's threshold, and the column's alias otherwise.

    Attributes:
      entries: [N] uint32, the threshold in the upper 32 - b bits and the alias in the lower b.
      starts: index of the first entry of each j, [9] int32.
      bits: b of each j, [9] int32.
    """

    entries: np.ndarray
    starts: np.ndarray
    bits: np.ndarray


@lru_cache(maxsize=1)
def alias_tables() -> AliasTables:
    """Build the tables (1.3 MB, a tenth of a second) in integers, so that the probabilities of every row sum to 1."""
    rows, starts, widths, start = [], [], [], 0
    for exponent in range(NUM_GAINS):
        gain = 2.0**exponent
        # Counts beyond 6.5 standard deviations of the largest rate have a probability below 2^-32.
        bits = math.ceil(math.log2(gain + 6.5 * math.sqrt(gain) + 12))
        rows.append(_alias_rows(np.arange(256) / 255.0 * gain, bits).reshape(-1))
        starts.append(start)
        widths.append(bits)
        start += rows[-1].size
    return AliasTables(np.concatenate(rows), np.array(starts, np.int32), np.array(widths, np.int32))


def _alias_rows(rates: np.ndarray, bits: int) -> np.ndarray:
    """Rows [len(rates), 2^bits] uint32 of `AliasTables`; in each step the largest column tops up the smallest."""
    width, capacity = 2**bits, 2 ** (32 - bits)
    exact = poisson_distribution.pmf(np.arange(width)[None, :], rates[:, None]) * 2.0**32
    weight = np.round(exact).astype(np.int64)
    rows = np.arange(len(rates))
    weight[rows, weight.argmax(axis=1)] += 2**32 - weight.sum(axis=1)  # the rounding error goes to the likeliest count
    threshold, alias = np.zeros_like(weight), np.tile(np.arange(width), (len(rates), 1))
    open_weight = weight.copy()
    for _ in range(width):
        smallest = np.where(open_weight < 0, np.iinfo(np.int64).max, open_weight).argmin(axis=1)
        largest = open_weight.argmax(axis=1)
        amount = open_weight[rows, smallest]
        full = amount >= capacity  # then all open columns are exactly full: each is its own alias
        threshold[rows, smallest] = np.where(full, 0, amount)
        alias[rows, smallest] = np.where(full, smallest, largest)
        open_weight[rows, largest] -= np.where(full, 0, capacity - amount)
        open_weight[rows, smallest] = -1
    return (threshold.astype(np.uint32) << np.uint32(bits)) | alias.astype(np.uint32)


def poisson_counts(rate: PoissonRate, words: jax.Array) -> jax.Array:
    """Draw Poisson counts.

    Args:
      rate: from `poisson_rate`.
      words: random words, [C, H, W] uint32.

    Returns:
      counts, [C, H, W] float32.
    """
    tables = alias_tables()
    bits = jnp.asarray(tables.bits)[rate.exponent].astype(jnp.uint32)
    column = words >> (jnp.uint32(32) - bits)
    row = jnp.asarray(tables.starts)[rate.exponent].astype(jnp.uint32) + (rate.levels.astype(jnp.uint32) << bits)
    entry = jnp.take(jnp.asarray(tables.entries), (row + column).astype(jnp.int32), mode="clip")
    remainder = words & ((jnp.uint32(1) << (jnp.uint32(32) - bits)) - jnp.uint32(1))
    alias = entry & ((jnp.uint32(1) << bits) - jnp.uint32(1))
    return jnp.where(remainder < entry >> bits, column, alias).astype(jnp.float32)


def poisson_noise(rate: PoissonRate, counts: jax.Array, scale: jax.Array) -> jax.Array:
    """Additive Poisson (shot) noise from drawn counts: scale · (counts / gain - image).

    Args:
      rate: the rate that the counts were drawn from, of the image or of its luma.
      counts: from `poisson_counts`, [C, H, W].
      scale: factor on the noise, float32 scalar.

    Returns:
      noise to be added to the image, [C, H, W] float32; C = 1 for gray noise.
    """
    return (counts / rate.gain - rate.image) * scale
