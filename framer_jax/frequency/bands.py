"""Fourier bands of NHWC maps: masks, spectra, and the cosines, magnitudes and densities within a band.

A spectrum is stored in half layout: the H x (W // 2 + 1) coefficients of a real 2-D FFT (unnormalized, zero frequency
in the corner). The omitted coefficients are complex conjugates of stored ones, so a sum over the full spectrum is a sum
over the half with `hermitian_weights`. Everything is float32 whatever the input's dtype (float64 stays float64).

Source: the band split of "FRAMER: Frequency-Aligned Self-Distillation with Adaptive Modulation" (arXiv 2512.01390),
Eq. 1-3 and Figs. 2, 3, 5; framer_jax.losses.framer describes the two variants of its masks.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

_NORM_FLOOR = 1e-24  # squared: a norm below 1e-12 counts as 1e-12 and has no gradient
_RELATIVE_FLOOR = 1e-6


def full_precision(x: jax.Array) -> jax.Array:
    """Cast to float32 (float64 stays float64): sums over whole maps need it whatever the compute dtype."""
    return x if x.dtype == jnp.float64 else x.astype(jnp.float32)


def disc_mask(size: tuple[int, int], radius: float, layout: str = "half") -> np.ndarray:
    """The low band as a disc around zero frequency, including its rim.

    Frequencies are normalized per axis, so the disc is an ellipse in bins if H and W differ: a coefficient belongs to
    it if sqrt(fy^2 + fx^2) <= radius, with f in units of the Nyquist frequency (0.5 cycles per sample is 1). On an
    n x n map it reaches bins up to |k| = radius n / 2; the zero frequency always belongs to it, and the corners of the
    spectrum lie at sqrt(2).

    Args:
      size: (H, W) of the map, any parity.
      radius: fraction of the Nyquist frequency, at least 0.
      layout: 'half' [H, W // 2 + 1] (rfft2), 'full' [H, W] (fft2), or 'centered' [H, W] (fftshift of 'full').

    Returns:
      bool array.

    Raises:
      ValueError: an empty size, a negative radius, or an unknown layout.
    """
    height, width = size
    if height < 1 or width < 1:
        raise ValueError(f"size is {size}: a spectrum needs positive sides")
    if not radius >= 0:
        raise ValueError(f"radius is {radius}: it must be at least 0 (a fraction of the Nyquist frequency)")
    if layout not in ("half", "full", "centered"):
        raise ValueError(f"layout is {layout!r}: it must be one of half, full, centered")
    rows = np.fft.fftfreq(height) * 2.0
    columns = (np.fft.rfftfreq(width) if layout == "half" else np.fft.fftfreq(width)) * 2.0
    mask = _inside(rows[:, None], columns[None, :], radius)
    return np.fft.fftshift(mask) if layout == "centered" else mask


def hermitian_weights(width: int) -> np.ndarray:
    """The number of coefficients of the full spectrum that each column of the half layout represents.

    Returns:
      float32 [W // 2 + 1]: 1 for the zero column and, if W is even, for the Nyquist column; 2 for the others.
    """
    weights = np.full((width // 2 + 1,), 2.0, np.float32)
    weights[0] = 1.0
    if width % 2 == 0:
        weights[-1] = 1.0
    return weights


def spectrum(x: jax.Array) -> jax.Array:
    """2-D FFT of real maps [..., H, W, C], half layout: complex64 [..., H, W // 2 + 1, C]."""
    if x.ndim < 3:
        raise ValueError(f"expected maps [..., H, W, C], got shape {x.shape}")
    return jnp.fft.rfft2(full_precision(x), axes=(-3, -2))


def full_layout(half: jax.Array, width: int) -> jax.Array:
    """Mirror magnitudes or masks [..., H, W // 2 + 1, C] in half layout to the full layout [..., H, W, C]."""
    rows = (-np.arange(half.shape[-3])) % half.shape[-3]
    columns = width - np.arange(half.shape[-2], width)
    mirrored = jnp.take(jnp.take(half, rows, axis=-3), columns, axis=-2)
    return jnp.concatenate([half, mirrored], axis=-2)


def quantile_mask(magnitude: jax.Array, width: int, quantile: float) -> jax.Array:
    """The low band as the coefficients of small magnitude, per image.

    The threshold is the quantile (linearly interpolated, as in torch.quantile) of all H W C magnitudes of an image's
    full spectrum; the coefficients strictly below it form the low band.

    Args:
      magnitude: [..., H, W // 2 + 1, C], half layout.
      width: W of the map.
      quantile: in [0, 1].

    Returns:
      bool, the shape of `magnitude`.
    """
    if not 0 <= quantile <= 1:
        raise ValueError(f"quantile is {quantile}: it must be from 0 to 1")
    mirrored = magnitude[..., 1 : width - width // 2, :]  # columns whose conjugates the half layout omits
    batch = magnitude.shape[:-3]
    values = jnp.concatenate([magnitude.reshape(*batch, -1), mirrored.reshape(*batch, -1)], axis=-1)
    values = jnp.sort(values, axis=-1)
    rank = quantile * (values.shape[-1] - 1)  # a Python float, because float32 would be inexact
    below = math.floor(rank)
    low, high = values[..., below], values[..., min(below + 1, values.shape[-1] - 1)]
    threshold = low + (high - low) * (rank - below)
    return magnitude < threshold[..., None, None, None]


def spectral_features(half: jax.Array, width: int, magnitude_only: bool = False) -> jax.Array:
    """Spectra as real vectors whose dot products are those of the full complex spectra (real part), or of |S|.

    By Parseval's theorem, the former are H W times the dot products of the maps themselves.

    Args:
      half: spectrum [..., H, W // 2 + 1, C], half layout.
      width: W of the map.
      magnitude_only: discard the phase.

    Returns:
      [..., P, H, W // 2 + 1, C] real; P = 2 (real and imaginary part), or 1 with `magnitude_only`.
    """
    parts = jnp.abs(half)[..., None, :, :, :] if magnitude_only else jnp.stack([half.real, half.imag], axis=-4)
    return parts * _columns(np.sqrt(hermitian_weights(width)), parts)


class LowPass(NamedTuple):
    """Orthonormal real basis of the maps whose spectrum lies in a disc: products of row and column functions.

    Attributes:
      rows: cosines and sines over the rows, [P, H].
      columns: cosines and sines over the columns, [Q, W].
      mask: which products belong to the disc, bool [P, Q].
    """

    rows: np.ndarray
    columns: np.ndarray
    mask: np.ndarray


def low_pass(size: tuple[int, int], radius: float) -> LowPass:
    """The basis of `disc_mask(size, radius)`, float64; it is small, because a disc holds few coefficients.

    A disc is symmetric in the sign of either frequency, so products of one-dimensional cosines and sines span it.
    """
    disc_mask(size, radius)  # checks the arguments
    rows, row_frequencies = _fourier_basis(size[0], radius)
    columns, column_frequencies = _fourier_basis(size[1], radius)
    return LowPass(rows, columns, _inside(row_frequencies[:, None], column_frequencies[None, :], radius))


def split_bands(x: jax.Array, basis: LowPass) -> tuple[jax.Array, jax.Array]:
    """Low and high band of maps without a Fourier transform, so that no H x W spectrum or its gradient is needed.

    Dot products of the results are those of the low-passed and of the high-passed maps: 1 / (H W) times those of the
    masked spectra (Parseval's theorem).

    Args:
      x: [..., H, W, C] maps.
      basis: from `low_pass((H, W), radius)`.

    Returns:
      Coefficients of the low band [..., P, Q, C], and the high-passed maps [..., H, W, C].
    """
    # Leading axes are never merged: an axis of examples that is sharded over devices would have to be gathered.
    rows, columns, mask = (jnp.asarray(part, x.dtype) for part in basis)
    batch, (height, width, channels) = x.shape[:-3], x.shape[-3:]
    low = _apply(rows, x.reshape(*batch, height, width * channels))  # [..., P, W C]
    low = _apply(columns, low.reshape(*batch, -1, width, channels))  # [..., P, Q, C]
    low = low * mask.reshape((1,) * len(batch) + (*mask.shape, 1))
    low_map = _apply(columns.T, low)  # [..., P, W, C]
    low_map = _apply(rows.T, low_map.reshape(*batch, -1, width * channels))  # [..., H, W C]
    return low, x - low_map.reshape(x.shape)


def inverse_length(vectors: jax.Array, scale: jax.Array | None = None) -> jax.Array:
    """1 / length of vectors [..., D] → [...]; the cosine of two vectors is their dot product times both results.

    Vectors shorter than 1e-12, or than 1e-6 times `scale` [...] (the length of the vectors before a mask was applied),
    are zero up to rounding: their length is replaced by that bound, without a gradient, so their cosines stay near 0.
    """
    floor = jnp.asarray(_NORM_FLOOR, vectors.dtype)
    if scale is not None:
        floor = jnp.maximum(floor, jax.lax.stop_gradient(jnp.square(scale * _RELATIVE_FLOOR)))
    return jax.lax.rsqrt(jnp.maximum(jnp.sum(jnp.square(vectors), axis=-1), floor))


def similarities(first: jax.Array, second: jax.Array) -> jax.Array:
    """Dot products of all pairs from two sets of vectors: [..., A, D] and [..., B, D] → [..., A, B]."""
    return jnp.einsum("...ad,...bd->...ab", first, second, precision=jax.lax.Precision.HIGHEST)


def band_cosine(x: jax.Array, y: jax.Array, low_mask: np.ndarray | jax.Array) -> tuple[jax.Array, jax.Array]:
    """Cosine of the low-passed and of the high-passed maps, Re<X, Y> / (|X| |Y|) per image.

    Args:
      x: [..., H, W, C] maps.
      y: maps of the same shape.
      low_mask: half layout [H, W // 2 + 1], such as that of `disc_mask`.

    Returns:
      (low, high), each [...] in [-1, 1]; 0 if the band of either map is zero.
    """
    first, second = _unit_bands(x, low_mask), _unit_bands(y, low_mask)
    low, high = (jnp.sum(a * b, axis=-1) for a, b in zip(first, second, strict=True))
    return low, high


def band_similarity_matrices(
    x: jax.Array, y: jax.Array, low_mask: np.ndarray | jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Between-image cosines per band (Fig. 5): x [A, H, W, C] and y [B, H, W, C] → (low, high), each [A, B]."""
    first, second = _unit_bands(x, low_mask), _unit_bands(y, low_mask)
    low, high = (similarities(a, b) for a, b in zip(first, second, strict=True))
    return low, high


def band_magnitude(
    magnitude: jax.Array, mask: jax.Array, width: int, per_channel: bool = False, epsilon: float = 1e-9
) -> jax.Array:
    """Mean spectral magnitude of a band, E_b = sum(|S| M_b) / (sum M_b + epsilon) over the full spectrum (Eq. 3).

    Args:
      magnitude: |S| [..., H, W // 2 + 1, C], half layout.
      mask: bool, half layout, of the same rank; axes of size 1 are broadcast.
      width: W of the map.
      per_channel: compute the quotient per channel and average over channels, instead of one quotient per image. There
        is no difference if all channels share one mask.
      epsilon: avoids a division by zero for an empty band.

    Returns:
      [...] per image.
    """
    weighted = mask.astype(magnitude.dtype) * _columns(hermitian_weights(width), magnitude)  # [..., H, W', C or 1]
    total = jnp.sum(magnitude * weighted, axis=(-3, -2))  # [..., C]
    count = jnp.sum(weighted, axis=(-3, -2))  # [..., C or 1]
    if per_channel:
        return jnp.mean(total / (count + epsilon), axis=-1)
    channels_per_count = magnitude.shape[-1] // count.shape[-1]
    return jnp.sum(total, axis=-1) / (jnp.sum(count, axis=-1) * channels_per_count + epsilon)


def log_magnitude_density(
    x: jax.Array, low_mask: np.ndarray | jax.Array, edges: np.ndarray | jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Densities of log(1 + |S|) in the two bands (Fig. 2), over all images, channels and coefficients.

    Args:
      x: [..., H, W, C] maps.
      low_mask: half layout [H, W // 2 + 1].
      edges: increasing bin edges [K + 1]; values outside of them count towards the total but fall into no bin.

    Returns:
      (low, high), each [K]: fraction of the band's coefficients per unit of log(1 + |S|); 0 for an empty band.
    """
    low_mask = np.asarray(low_mask)
    edges = jnp.asarray(edges, jnp.float32)
    values = jnp.log1p(jnp.abs(spectrum(x))).astype(jnp.float32)
    weights = _columns(hermitian_weights(x.shape[-2]), values)

    def density(mask: np.ndarray) -> jax.Array:
        mask_weights = weights * _aligned(jnp.asarray(mask, jnp.float32)[..., None], values)
        mask_weights = jnp.broadcast_to(mask_weights, values.shape)
        counts, _ = jnp.histogram(values, bins=edges, weights=mask_weights)
        return counts / (jnp.maximum(jnp.sum(mask_weights), 1.0) * jnp.diff(edges))

    return density(low_mask), density(~low_mask)


def _columns(weights: np.ndarray, like: jax.Array) -> jax.Array:
    """Reshape weights [W'] so that they broadcast against `like` [..., W', C]."""
    return jnp.asarray(weights, like.dtype).reshape((1,) * (like.ndim - 2) + (-1, 1))


def _apply(matrix: jax.Array, x: jax.Array) -> jax.Array:
    """Multiply [A, N] with each [N, D] of [..., N, D] as a batched product, 3x faster on a CPU than one contraction."""
    matrix = jnp.broadcast_to(matrix, (*x.shape[:-2], *matrix.shape))
    return jnp.einsum("...an,...nd->...ad", matrix, x, precision=jax.lax.Precision.HIGHEST)


def _aligned(mask: jax.Array, like: jax.Array) -> jax.Array:
    """Prepend axes of size 1 to a mask, up to the rank of `like`."""
    return mask.reshape((1,) * (like.ndim - mask.ndim) + mask.shape)


def _inside(row_frequency: np.ndarray | float, column_frequency: np.ndarray | float, radius: float) -> np.ndarray:
    # The tolerance keeps coefficients on the rim inside the disc in spite of rounding.
    return np.hypot(row_frequency, column_frequency) <= radius * (1.0 + 1e-9)


def _fourier_basis(size: int, radius: float) -> tuple[np.ndarray, np.ndarray]:
    """Orthonormal cosines and sines [K, size] up to a fraction of the Nyquist frequency, and their frequencies [K]."""
    functions, frequencies = [], []
    for k in range(size // 2 + 1):
        if not _inside(2 * k / size, 0.0, radius):
            break
        angle = 2 * np.pi * ((k * np.arange(size)) % size) / size
        has_sine = k != 0 and 2 * k != size
        for wave in (np.cos(angle), np.sin(angle)) if has_sine else (np.cos(angle),):
            functions.append(wave * np.sqrt((2 if has_sine else 1) / size))
            frequencies.append(2 * k / size)
    return np.stack(functions), np.asarray(frequencies)


def _unit(vectors: jax.Array) -> jax.Array:
    return vectors * inverse_length(vectors)[..., None]


def _unit_bands(x: jax.Array, low_mask: np.ndarray | jax.Array) -> tuple[jax.Array, jax.Array]:
    """Unit vectors [..., D] of the low and the high band of maps [..., H, W, C]."""
    features = spectral_features(spectrum(x), x.shape[-2])
    mask = _aligned(jnp.asarray(low_mask)[..., None], features)
    low, high = (_unit((features * part.astype(features.dtype)).reshape(*x.shape[:-3], -1)) for part in (mask, ~mask))
    return low, high
