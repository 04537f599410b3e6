"""Metrics by frequency: PSNR and relative error of FRAMER's two bands, and the distance of radial power spectra.

All of them compare BT.601 luma with that of a reference. The bands are those of FRAMER's band masks ("FRAMER:
Frequency-Aligned Self-Distillation with Adaptive Modulation", arXiv 2512.01390): the low band holds the frequencies
within `BAND_RADIUS` of zero, the high band all others (framer_jax.frequency.bands.disc_mask). Images are not windowed
for them, so that the squared errors of the two bands add up to that of the image.
"""

from __future__ import annotations

import math
from functools import lru_cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

from framer_jax.evaluation.psnr import crop, decibel, luma_studio
from framer_jax.frequency.bands import band_magnitude, disc_mask, hermitian_weights, spectrum

BAND_RADIUS = 0.2
"""Boundary of the low band in units of the Nyquist frequency; the metrics' own, whatever radius a model trains with."""

SMALLEST_SIDE = 10
"""The smallest side of an image, at which the low band holds more than the mean."""

EMPTY_BAND = 1e-9
"""A band whose mean magnitude per root of the number of pixels is below this is empty: no 8-bit image comes close."""

QUANTISATION_POWER = 1 / (12 * 255.0**2)
"""Power per pixel of rounding to 8 bits, for a peak of 1: power spectra are compared down to this level."""


def _inner_size(images: jax.Array, crop_border: int) -> tuple[int, int]:
    """(H, W) of images without their borders, if they are large enough."""
    height, width = (side - 2 * crop_border for side in images.shape[1:3])
    if min(height, width) < SMALLEST_SIDE:
        least = f"{SMALLEST_SIDE}x{SMALLEST_SIDE}"
        raise ValueError(f"metrics by frequency need images of at least {least} pixels; got {height}x{width}")
    return height, width


@lru_cache(maxsize=8)
def _low_mask(size: tuple[int, int]) -> npt.NDArray[np.bool_]:
    return disc_mask(size, BAND_RADIUS)


def _unit_luma(images: jax.Array, crop_border: int) -> jax.Array:
    """BT.601 luma from 0 (black) to 1 (white), [B, H, W] float32."""
    return (luma_studio(crop(images, crop_border)) - 16.0) / 219.0


def _total(values: jax.Array) -> jax.Array:
    """Sums [B] of [B, H, W], row by row, which keeps rounding small in large images."""
    return values.sum(axis=2).sum(axis=1)


@partial(jax.jit, static_argnames="crop_border")
def _band_squared_errors(
    sr: jax.Array, reference: jax.Array, low_mask: jax.Array, crop_border: int
) -> tuple[jax.Array, jax.Array]:
    """Mean squared errors [B] of the low and the high band of studio luma, for a peak of 1.

    By Parseval's theorem they are sums over |S|^2 / (H W)^2, and their sum is the mean squared error of the luma.
    """
    difference = (luma_studio(crop(sr, crop_border)) - luma_studio(crop(reference, crop_border))) / 255.0
    height, width = difference.shape[1:]
    half = spectrum(difference[..., None])[..., 0] / (height * width)
    power = (half.real**2 + half.imag**2) * hermitian_weights(width)[None, None, :]
    low = low_mask[None]
    return _total(jnp.where(low, power, 0.0)), _total(jnp.where(low, 0.0, power))


def psnr_low(sr: jax.Array, reference: jax.Array, crop_border: int = 0) -> jax.Array:
    """PSNR of the low band: the peak signal-to-noise ratio as if only frequencies up to `BAND_RADIUS` differed.

    On unrounded BT.601 studio luma with peak 255, as `psnr_y`. The squared errors of the bands add up:
    10^(-low / 10) + 10^(-high / 10) = 10^(-psnr_y / 10), up to the 1e-8 that is added to each.

    Args:
      sr: [B, H, W, 3] in [0, 1].
      reference: the same shape.
      crop_border: pixels ignored on every side.

    Returns:
      [B] float32 in dB; 80 for equal images.

    Raises:
      ValueError: a side is shorter than `SMALLEST_SIDE`.
    """
    mask = _low_mask(_inner_size(sr, crop_border))
    return decibel(_band_squared_errors(sr, reference, mask, crop_border)[0])


def psnr_high(sr: jax.Array, reference: jax.Array, crop_border: int = 0) -> jax.Array:
    """PSNR of the high band, the frequencies beyond `BAND_RADIUS`; everything else as for `psnr_low`."""
    mask = _low_mask(_inner_size(sr, crop_border))
    return decibel(_band_squared_errors(sr, reference, mask, crop_border)[1])


def _centered_spectrum(planes: jax.Array) -> jax.Array:
    """Spectrum [B, H, W // 2 + 1, 1] of [B, H, W]; the mean is transformed apart, so that it rounds no other value."""
    mean = _total(planes) / (planes.shape[1] * planes.shape[2])
    half = spectrum((planes - mean[:, None, None])[..., None])
    return half.at[:, 0, 0, 0].set((mean * (planes.shape[1] * planes.shape[2])).astype(half.dtype))


@partial(jax.jit, static_argnames="crop_border")
def _relative_band_errors(
    sr: jax.Array, reference: jax.Array, low_mask: jax.Array, crop_border: int
) -> tuple[jax.Array, jax.Array]:
    """Relative errors [B] of the low and the high band; NaN where the reference has nothing in the band."""
    first, second = _unit_luma(sr, crop_border), _unit_luma(reference, crop_border)
    height, width = first.shape[1:]
    error, magnitude = (jnp.abs(_centered_spectrum(planes)) for planes in (first - second, second))
    mask = low_mask[None, :, :, None]

    def ratio(band: jax.Array) -> jax.Array:
        wrong, whole = (band_magnitude(values, band, width) for values in (error, magnitude))
        empty = whole <= EMPTY_BAND * math.sqrt(height * width)
        return jnp.where(empty, jnp.nan, wrong / jnp.where(empty, 1.0, whole))

    return ratio(mask), ratio(~mask)


def error_low(sr: jax.Array, reference: jax.Array, crop_border: int = 0) -> jax.Array:
    """LF error: E_LF(SR - reference) / E_LF(reference), the relative mean absolute error of the low band.

    E_b(x) is the mean magnitude |S| of the Fourier coefficients of x in band b (FRAMER, Eq. 3,
    framer_jax.frequency.bands.band_magnitude), x the BT.601 luma from 0 (black) to 1 (white); the difference is taken
    before the magnitude, so that phase counts. The mean brightness belongs to the low band.

    Args:
      sr: [B, H, W, 3] in [0, 1].
      reference: the same shape.
      crop_border: pixels ignored on every side.

    Returns:
      [B] float32, at least 0; 0 for equal images, 1 if the band of the SR image is zero; NaN for a black reference.

    Raises:
      ValueError: a side is shorter than `SMALLEST_SIDE`.
    """
    mask = _low_mask(_inner_size(sr, crop_border))
    return _relative_band_errors(sr, reference, mask, crop_border)[0]


def error_high(sr: jax.Array, reference: jax.Array, crop_border: int = 0) -> jax.Array:
    """HF error: the same as `error_low` for the high band.

    Returns:
      [B] float32, at least 0; 0 for equal images, 1 for an SR image without high frequencies; NaN for a reference
      without them, such as a flat one.
    """
    mask = _low_mask(_inner_size(sr, crop_border))
    return _relative_band_errors(sr, reference, mask, crop_border)[1]


@lru_cache(maxsize=8)
def radial_bins(size: tuple[int, int]) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.float32]]:
    """The bin of each Fourier coefficient by its radial frequency.

    There are K = min(H, W) // 2 bins of equal width, centered at k / K of the Nyquist frequency for k = 1 .. K. The
    zero frequency, and the corners of the spectrum beyond bin K, are in none.

    Args:
      size: (H, W).

    Returns:
      the bins, int32 [H, W // 2 + 1] in half layout, 0 for coefficients in none; and the number of coefficients of the
      full spectrum in bins 1 .. K, float32 [K].
    """
    height, width = size
    count = min(size) // 2
    radius = np.hypot(np.fft.fftfreq(height)[:, None] * 2.0, np.fft.rfftfreq(width)[None, :] * 2.0)
    bins = np.rint(radius * count).astype(np.int32)
    bins[bins > count] = 0
    weights = np.broadcast_to(hermitian_weights(width), bins.shape)
    return bins, np.bincount(bins.ravel(), weights.ravel(), count + 1)[1:].astype(np.float32)


def _hann(length: int) -> npt.NDArray[np.float32]:
    """A Hann window [length] that is symmetric and nowhere zero."""
    wave: npt.NDArray[np.float64] = np.sin(np.pi * (np.arange(length) + 0.5) / length)
    return (wave**2).astype(np.float32)


@partial(jax.jit, static_argnames="crop_border")
def _radial_distance(
    sr: jax.Array, reference: jax.Array, bins: jax.Array, counts: jax.Array, crop_border: int
) -> jax.Array:
    height, width = (side - 2 * crop_border for side in sr.shape[1:3])
    rows, columns = _hann(height), _hann(width)
    window = jnp.asarray(rows[:, None] * columns[None, :])[None]
    total, energy = float(rows.sum() * columns.sum()), float((rows**2).sum() * (columns**2).sum())
    weights = jnp.broadcast_to(hermitian_weights(width), bins.shape).reshape(-1)

    def levels(images: jax.Array) -> jax.Array:
        """Power per pixel in dB, averaged over each bin, [B, K]."""
        planes = _unit_luma(images, crop_border)
        mean = _total(planes * window) / total
        half = spectrum(((planes - mean[:, None, None]) * window)[..., None])[..., 0]
        power = (half.real**2 + half.imag**2).reshape(half.shape[0], -1) * weights[None] / energy
        sums = jax.ops.segment_sum(power.T, bins.reshape(-1), counts.shape[0] + 1)[1:]  # [K, B]
        return 10.0 * jnp.log10(sums.T / counts[None] + QUANTISATION_POWER)

    difference = levels(sr) - levels(reference)
    return jnp.sqrt((difference * difference).mean(axis=1))


def spectrum_distance(sr: jax.Array, reference: jax.Array, crop_border: int = 0) -> jax.Array:
    """Distance of the radial power spectra of BT.601 luma: the RMS over frequencies of their difference in dB.

    D = sqrt( mean over k of (10 log10 (P_SR(k) + q) - 10 log10 (P_ref(k) + q))^2 ). P(k) is the mean of
    |FFT(w (x - m))|^2 / sum(w^2) over the coefficients of bin k of `radial_bins`: x is luma from 0 to 1, w a Hann
    window in both directions (without it, the jump between opposite edges of the image would leak into all
    frequencies), m the windowed mean. q, the power of rounding to 8 bits, is the level below which differences do not
    count. Phase does not count: detail that is plausible but elsewhere is no error; blur and noise are.

    Args:
      sr: [B, H, W, 3] in [0, 1].
      reference: the same shape.
      crop_border: pixels ignored on every side.

    Returns:
      [B] float32 in dB, at least 0; 0 for equal images.

    Raises:
      ValueError: a side is shorter than `SMALLEST_SIDE`.
    """
    bins, counts = radial_bins(_inner_size(sr, crop_border))
    return _radial_distance(sr, reference, bins, counts, crop_border)
