"""How far a student's images are from its teacher's, by frequency band.

"DTKD" (Park and Song, Electronics 15(10) 1986, 2026) motivates its wavelet loss with such comparisons (Figs. 3 and 4).
Its available text does not state their measure, so that the ones here are ours: relative distances of the bands of the
two-level Haar transform, which is the loss's, and of the rings of the Fourier spectrum.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from framer_jax.frequency.bands import hermitian_weights, spectrum
from framer_jax.frequency.wavelets import haar_decompose

LEVELS = 2
"""Levels of the Haar transform, DTKD's."""

RINGS = 16
"""Number of rings of the Fourier spectrum between zero and the Nyquist frequency."""

BANDS = ("LL2", *(f"{detail}{level}" for level in range(LEVELS, 0, -1) for detail in ("H", "V", "D")))
"""The bands of the wavelet transform, from coarse to fine: the low band of level 2, then the horizontal, vertical and
diagonal details of each level."""

FREQUENCIES = (np.arange(RINGS) + 0.5) / RINGS
"""The middle of each ring, as a fraction of the Nyquist frequency."""

EPSILON = 1e-12


class BandDiscrepancy(NamedTuple):
    """The discrepancy of images from reference images, one column for each of B images.

    Attributes:
      wavelet: [7, B], mean |W_b(x) - W_b(y)| / mean |W_b(y)| of the bands b in the order of `BANDS`.
      fourier: [R, B], |F_r(x) - F_r(y)| / |F_r(y)| of the rings r, Euclidean lengths.
    """

    wavelet: np.ndarray
    fourier: np.ndarray


def band_discrepancy(images: np.ndarray, references: np.ndarray) -> BandDiscrepancy:
    """Relative distances between images and references by band.

    Args:
      images: x, [B, H, W, C] float32 in [0, 1]; sides are multiples of 4.
      references: y, of the same shape.

    Raises:
      ValueError: the shapes differ, or sides are no multiples of 4.
    """
    if images.shape != references.shape:
        raise ValueError(f"images and references differ in shape: {images.shape} and {references.shape}")
    x, y = jnp.asarray(images, jnp.float32), jnp.asarray(references, jnp.float32)
    differences, sizes = _wavelet_means(x - y), _wavelet_means(y)  # the transform is linear
    energies = _ring_power(x - y), _ring_power(y)
    return BandDiscrepancy(
        np.asarray(differences / (sizes + EPSILON)), np.sqrt(np.asarray(energies[0] / (energies[1] + EPSILON)))
    )


def power_spectrum(images: np.ndarray) -> np.ndarray:
    """Mean power |F|² / (H W) of each ring of the orthonormal spectrum: [B, H, W, C] in [0, 1] → [R, B] float32."""
    return np.asarray(_ring_power(jnp.asarray(images, jnp.float32)))


def _wavelet_means(images: jax.Array) -> jax.Array:
    bands = haar_decompose(images, LEVELS)
    ordered = (bands.low, *(band for detail in bands.details for band in detail))
    return jnp.stack([jnp.abs(band).mean(axis=(1, 2, 3)) for band in ordered])


def _ring_power(images: jax.Array) -> jax.Array:
    height, width = images.shape[1:3]
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None, :]) * 2.0
    ring = np.minimum((frequency * RINGS).astype(int), RINGS)  # the corners beyond the Nyquist frequency come last
    ring[frequency == 1.0] = RINGS - 1
    members = np.stack([(ring == index) * hermitian_weights(width) for index in range(RINGS)])  # [R, H, W // 2 + 1]
    shares = members / np.maximum(members.sum(axis=(1, 2), keepdims=True), 1.0)
    power = jnp.square(jnp.abs(spectrum(images))).mean(axis=-1) / (height * width)
    return jnp.einsum("rhw,bhw->rb", jnp.asarray(shares, power.dtype), power, precision=jax.lax.Precision.HIGHEST)
