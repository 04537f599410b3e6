"""Gaussian and Poisson noise, in colour or gray, each image from its own random key.

Both follow Real-ESRGAN's formulas. Poisson counts are drawn exactly (to the 2⁻²³ steps of a float32 uniform) by
inverting tabulated distribution functions: an image has at most 256 levels and 9 possible gains, so there is nothing
to approximate, and `jax.random.poisson` is a hundred times slower on a CPU.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy.stats import poisson as poisson_distribution

_LUMA = np.array([0.2989, 0.587, 0.114], np.float32)  # torchvision's rgb_to_grayscale
_GAINS = 9  # 2^0 … 2^8: the power of two at or above the number of distinct levels


def grayscale(images: jax.Array) -> jax.Array:
    """[B, H, W, 3] → [B, H, W, 1], luma weights 0.2989, 0.587, 0.114."""
    return jnp.einsum("bhwc,c->bhw", images, jnp.asarray(_LUMA), precision=jax.lax.Precision.HIGHEST)[..., None]


def standard_normal(uniform: jax.Array) -> jax.Array:
    """Standard normal values from uniform ones in [0, 1), by the inverse distribution function, elementwise."""
    above_minus_one = float(np.nextafter(np.float32(-1), np.float32(0)))
    return math.sqrt(2.0) * jax.lax.erf_inv(jnp.maximum(2.0 * uniform - 1.0, above_minus_one))


def gaussian_noise(normal: jax.Array, sigma: jax.Array) -> jax.Array:
    """Additive Gaussian noise: standard normal draws [B, H, W, C] times sigma [B] (for images in [0, 1])."""
    return normal * sigma[:, None, None, None]


class PoissonRate(NamedTuple):
    """What Poisson counts are drawn from.

    Attributes:
      levels: [B, H, W, C] int32, the image in 256 levels.
      exponent: [B] int32, log2 of the gain: counts are Poisson(levels / 255 · 2^exponent).
    """

    levels: jax.Array
    exponent: jax.Array

    @property
    def rate(self) -> jax.Array:
        """[B, H, W, C] float32."""
        return self.image * self.gain

    @property
    def image(self) -> jax.Array:
        """[B, H, W, C] float32: the image rounded to 256 levels, in [0, 1]."""
        return self.levels.astype(jnp.float32) / 255.0

    @property
    def gain(self) -> jax.Array:
        """[B, 1, 1, 1] float32."""
        return jnp.exp2(self.exponent.astype(jnp.float32))[:, None, None, None]


def poisson_rate(images: jax.Array, valid: jax.Array | None = None) -> PoissonRate:
    """Levels and gain of each image: the gain is the power of two at or above its number of distinct levels.

    Args:
      images: [B, H, W, C] float32; clipped to [0, 1].
      valid: [B, H, W] bool, which pixels count; all by default.
    """
    levels = jnp.round(jnp.clip(images * 255.0, 0.0, 255.0)).astype(jnp.int32)

    def distinct(levels: jax.Array, valid: jax.Array) -> jax.Array:
        return jnp.zeros(256, jnp.int32).at[levels.reshape(-1)].max(valid.reshape(-1)).sum()

    counted = jnp.ones(images.shape[:3], bool) if valid is None else valid
    counted = jnp.broadcast_to(counted[..., None], levels.shape).astype(jnp.int32)
    number = jax.vmap(distinct)(levels, counted)
    exponent = jnp.sum(number[:, None] > (2 ** jnp.arange(_GAINS - 1, dtype=jnp.int32))[None, :], axis=1)
    return PoissonRate(levels, exponent.astype(jnp.int32))


@lru_cache(maxsize=1)
def _poisson_tables() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Distribution functions of Poisson(l / 255 · 2^j), one row for each (j, l).

    Returns:
      the rows behind each other, float32; for each j where its rows start, and how long one is (int32). A row is long
      enough for float32 to be 1 at its end.
    """
    rows, starts, widths, start = [], [], [], 0
    for exponent in range(_GAINS):
        gain = 2.0**exponent
        width = int(gain + 6.5 * np.sqrt(gain) + 12)
        rates = np.arange(256)[:, None] / 255.0 * gain
        rows.append(poisson_distribution.cdf(np.arange(width)[None, :], rates).astype(np.float32).reshape(-1))
        starts.append(start)
        widths.append(width)
        start += rows[-1].size
    return np.concatenate(rows), np.array(starts, np.int32), np.array(widths, np.int32)


def poisson_counts(rate: PoissonRate, uniform: jax.Array) -> jax.Array:
    """Invert the Poisson distribution functions: the number of table entries at or below each uniform draw.

    Args:
      rate: what `poisson_rate` gives.
      uniform: [B, H, W, C] float32 in [0, 1).

    Returns:
      [B, H, W, C] float32 counts.
    """
    table, starts, widths = _poisson_tables()
    cdf = jnp.asarray(table)
    width = jnp.asarray(widths)[rate.exponent][:, None, None, None]
    row = jnp.asarray(starts)[rate.exponent][:, None, None, None] + rate.levels * width

    def halve(_: int, bounds: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        low, high = bounds  # the count lies in [low, high]
        middle = (low + high) // 2
        above = (cdf[row + middle] <= uniform) & (low < high)
        return jnp.where(above, middle + 1, low), jnp.where(above, high, middle)

    bounds = (jnp.zeros_like(rate.levels), jnp.broadcast_to(width - 1, rate.levels.shape))
    # A loop, not unrolled: unrolled, XLA computes what `uniform` came from again at every step.
    low, _ = jax.lax.fori_loop(0, int(widths.max()).bit_length(), halve, bounds)
    return low.astype(jnp.float32)


def poisson_noise(rate: PoissonRate, counts: jax.Array, scale: jax.Array) -> jax.Array:
    """Additive Poisson (shot) noise from drawn counts: scale · (counts / gain - image).

    Args:
      rate: what the counts were drawn from, of the images or of their grayscale.
      counts: [B, H, W, C].
      scale: [B] float32.

    Returns:
      [B, H, W, C] float32, to be added to the images; C = 1 serves all three channels.
    """
    return (counts / rate.gain - rate.image) * scale[:, None, None, None]
