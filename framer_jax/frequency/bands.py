"""Fourier bands of NHWC maps: masks, spectra, and what is compared in them.

A spectrum is kept in half layout: the H x (W // 2 + 1) coefficients of a real 2-D FFT (unnormalised, zero frequency in
the corner). The coefficients that are left out are complex conjugates of kept ones, so sums over the full spectrum are
sums over the half with `hermitian_weights`. Everything is float32 whatever the input's dtype (float64 stays float64).

Source: the band split of "FRAMER: Frequency-Aligned Self-Distillation with Adaptive Modulation" (arXiv 2512.01390),
Eq. 1-3 and Figs. 2, 3, 5; the two readings of its masks are told apart in framer_jax.losses.framer.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

_NORM_FLOOR = 1e-24  # squared; a norm below 1e-12 is taken as 1e-12, and its gradient as zero
_RELATIVE_FLOOR = 1e-6


def full_precision(x: jax.Array) -> jax.Array:
    """float32, or float64 as it is: sums over whole maps need it whatever the compute dtype."""
    return x if x.dtype == jnp.float64 else x.astype(jnp.float32)


def disc_mask(size: tuple[int, int], radius: float, layout: str = "half") -> np.ndarray:
    """The low band as a disc around zero frequency, the rim included.

    Frequencies are normalised per axis, so the disc is an ellipse in bins where H and W differ: a coefficient belongs
    to it if sqrt(fy^2 + fx^2) <= radius, f in units of the Nyquist frequency (0.5 cycles per sample is 1). On an
    n x n map it reaches bins up to |k| = radius n / 2; the zero frequency always belongs to it, and the corners of the
    spectrum lie at sqrt(2).

    Args:
      size: (H, W) of the map, any parity.
      radius: fraction of the Nyquist frequency, at least 0.
      layout: 'half' [H, W // 2 + 1] (rfft2), 'full' [H, W] (fft2), or 'centred' [H, W] (fftshift of 'full').

    Returns:
      bool array.

    Raises:
      ValueError: an empty size, a negative radius, or an unknown layout.
    """
    height, width = size
    if height < 1 or width < 1:
        raise ValueError(f"a map of size {size} has no spectrum: give positive sides")
    if not radius >= 0:
        raise ValueError(f"mask radius must be at least 0 (a fraction of Nyquist), got {radius}")
    if layout not in ("half", "full", "centred"):
        raise ValueError(f"unknown spectrum layout {layout!r}: use 'half', 'full' or 'centred'")
    rows = np.fft.fftfreq(height) * 2.0
    columns = (np.fft.rfftfreq(width) if layout == "half" else np.fft.fftfreq(width)) * 2.0
    mask = _inside(rows[:, None], columns[None, :], radius)
    return np.fft.fftshift(mask) if layout == "centred" else mask


def hermitian_weights(width: int) -> np.ndarray:
    """How many coefficients of the full spectrum each column of the half layout stands for: float32 [W // 2 + 1].

    1 for the zero column and, if W is even, for the Nyquist column; 2 for the others.
    """
    weights = np.full((width // 2 + 1,), 2.0, np.float32)
    weights[0] = 1.0
    if width % 2 == 0:
        weights[-1] = 1.0
    return weights


def spectrum(x: jax.Array) -> jax.Array:
    """2-D FFT of real maps [..., H, W, C], half layout: complex64 [..., H, W // 2 + 1, C]."""
    if x.ndim < 3:
        raise ValueError(f"need maps [..., H, W, C], got shape {x.shape}")
    return jnp.fft.rfft2(full_precision(x), axes=(-3, -2))


def full_layout(half: jax.Array, width: int) -> jax.Array:
    """Magnitudes or masks [..., H, W // 2 + 1, C] in half layout, mirrored to the full layout [..., H, W, C]."""
    rows = (-np.arange(half.shape[-3])) % half.shape[-3]
    columns = width - np.arange(half.shape[-2], width)
    mirrored = jnp.take(jnp.take(half, rows, axis=-3), columns, axis=-2)
    return jnp.concatenate([half, mirrored], axis=-2)


def quantile_mask(magnitude: jax.Array, width: int, quantile: float) -> jax.Array:
    """The low band as the coefficients of small magnitude, per image.

    The threshold is the quantile (linear interpolation, as in torch.quantile) of all H W C magnitudes of an image's
    full spectrum; coefficients strictly below it are the low band.

    Args:
      magnitude: [..., H, W // 2 + 1, C], half layout.
      width: W of the map.
      quantile: in [0, 1].

    Returns:
      bool, the shape of `magnitude`.
    """
    if not 0 <= quantile <= 1:
        raise ValueError(f"quantile must be in [0, 1], got {quantile}")
    twice = magnitude[..., 1 : width - width // 2, :]  # columns whose mirror image the half layout leaves out
    lead = magnitude.shape[:-3]
    values = jnp.sort(jnp.concatenate([magnitude.reshape(*lead, -1), twice.reshape(*lead, -1)], axis=-1), axis=-1)
    rank = quantile * (values.shape[-1] - 1)  # a Python float: exact where float32 is not
    below = math.floor(rank)
    low, high = values[..., below], values[..., min(below + 1, values.shape[-1] - 1)]
    threshold = low + (high - low) * (rank - below)
    return magnitude < threshold[..., None, None, None]


def spectral_features(half: jax.Array, width: int, magnitude_only: bool = False) -> jax.Array:
    """Spectra as real vectors whose dot products are those of the full complex spectra (real part), or of |S|.

    By Parseval the first are H W times the dot products of the maps themselves.

    Args:
      half: [..., H, W // 2 + 1, C] spectrum, half layout.
      width: W of the map.
      magnitude_only: drop the phase.

    Returns:
      [..., P, H, W // 2 + 1, C] real; P = 2 (real and imaginary part), or 1 with `magnitude_only`.
    """
    parts = jnp.abs(half)[..., None, :, :, :] if magnitude_only else jnp.stack([half.real, half.imag], axis=-4)
    return parts * _columns(np.sqrt(hermitian_weights(width)), parts)


class LowPass(NamedTuple):
    """Orthonormal real basis of the maps whose spectrum lies in a disc: products of row and column functions.

    Attributes:
      rows: [P, H] cosines and sines over the rows.
      columns: [Q, W] over the columns.
      mask: bool [P, Q], which products belong to the disc.
    """

    rows: np.ndarray
    columns: np.ndarray
    mask: np.ndarray


def low_pass(size: tuple[int, int], radius: float) -> LowPass:
    """The basis of `disc_mask(size, radius)`, float64; few functions, since the disc is a few coefficients.

    A disc is symmetric in the sign of either frequency, so products of one-dimensional cosines and sines span it.
    """
    disc_mask(size, radius)  # the same checks
    rows, row_frequencies = _fourier_basis(size[0], radius)
    columns, column_frequencies = _fourier_basis(size[1], radius)
    return LowPass(rows, columns, _inside(row_frequencies[:, None], column_frequencies[None, :], radius))


def split_bands(x: jax.Array, basis: LowPass) -> tuple[jax.Array, jax.Array]:
    """Low and high band of maps without a Fourier transform, so that products need no H x W spectrum or its gradient.

    Dot products of the two results are those of the low-passed and high-passed maps: 1 / (H W) times those of the
    masked spectra (Parseval).

    Args:
      x: [..., H, W, C] maps.
      basis: from `low_pass((H, W), radius)`.

    Returns:
      Coefficients of the low band [..., P, Q, C], and the high-passed maps [..., H, W, C].
    """
    # Leading axes are never joined: an axis of examples split over devices would have to be gathered for that.
    rows, columns, mask = (jnp.asarray(part, x.dtype) for part in basis)
    lead, (height, width, channels) = x.shape[:-3], x.shape[-3:]
    low = _apply(rows, x.reshape(*lead, height, width * channels))  # [..., P, W C]
    low = _apply(columns, low.reshape(*lead, -1, width, channels))  # [..., P, Q, C]
    low = low * mask.reshape((1,) * len(lead) + (*mask.shape, 1))
    back = _apply(columns.T, low)  # [..., P, W, C]
    back = _apply(rows.T, back.reshape(*lead, -1, width * channels))  # [..., H, W C]
    return low, x - back.reshape(x.shape)


def inverse_length(vectors: jax.Array, scale: jax.Array | None = None) -> jax.Array:
    """1 / length of vectors [..., D]: [...]; a cosine is a dot product times two of them.

    Vectors shorter than 1e-12, or than 1e-6 of `scale` [...] (the length of what they were cut from), are empty up to
    rounding: their length is taken as that bound and passes no gradient, so their cosines stay near 0.
    """
    floor = jnp.asarray(_NORM_FLOOR, vectors.dtype)
    if scale is not None:
        floor = jnp.maximum(floor, jax.lax.stop_gradient(jnp.square(scale * _RELATIVE_FLOOR)))
    return jax.lax.rsqrt(jnp.maximum(jnp.sum(jnp.square(vectors), axis=-1), floor))


def similarities(first: jax.Array, second: jax.Array) -> jax.Array:
    """Dot products between two batches of vectors: [..., A, D] and [..., B, D] to [..., A, B]."""
    return jnp.einsum("...ad,...bd->...ab", first, second, precision=jax.lax.Precision.HIGHEST)


def band_cosine(x: jax.Array, y: jax.Array, low_mask: np.ndarray | jax.Array) -> tuple[jax.Array, jax.Array]:
    """Cosine of the low-passed and of the high-passed maps, Re<X, Y> / (|X| |Y|) per image.

    Args:
      x: [..., H, W, C] maps.
      y: the same shape.
      low_mask: half layout [H, W // 2 + 1], as from `disc_mask`.

    Returns:
      (low, high), each [...] in [-1, 1]; 0 where a band of either map is empty.
    """
    first, second = _unit_bands(x, low_mask), _unit_bands(y, low_mask)
    low, high = (jnp.sum(a * b, axis=-1) for a, b in zip(first, second, strict=True))
    return low, high


def band_similarity_matrices(
    x: jax.Array, y: jax.Array, low_mask: np.ndarray | jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Between-image cosines per band (Fig. 5): x [A, H, W, C] and y [B, H, W, C] to (low, high), each [A, B]."""
    first, second = _unit_bands(x, low_mask), _unit_bands(y, low_mask)
    low, high = (similarities(a, b) for a, b in zip(first, second, strict=True))
    return low, high


def band_magnitude(
    magnitude: jax.Array, mask: jax.Array, width: int, per_channel: bool = False, epsilon: float = 1e-9
) -> jax.Array:
    """Mean spectral magnitude of a band, E_b = sum(|S| M_b) / (sum M_b + epsilon) over the full spectrum (Eq. 3).

    Args:
      magnitude: |S| [..., H, W // 2 + 1, C], half layout.
      mask: bool, half layout, the same rank; axes of size 1 are shared.
      width: W of the map.
      per_channel: take the quotient per channel and average the channels, instead of one quotient per image. Where
        the mask is the same for all channels there is no difference.
      epsilon: guards an empty band.

    Returns:
      [...] per image.
    """
    weighted = mask.astype(magnitude.dtype) * _columns(hermitian_weights(width), magnitude)  # [..., H, W', C or 1]
    total = jnp.sum(magnitude * weighted, axis=(-3, -2))  # [..., C]
    count = jnp.sum(weighted, axis=(-3, -2))  # [..., C or 1]
    if per_channel:
        return jnp.mean(total / (count + epsilon), axis=-1)
    shared = magnitude.shape[-1] // count.shape[-1]  # channels that one count stands for
    return jnp.sum(total, axis=-1) / (jnp.sum(count, axis=-1) * shared + epsilon)


def log_magnitude_density(
    x: jax.Array, low_mask: np.ndarray | jax.Array, edges: np.ndarray | jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Densities of log(1 + |S|) in the two bands (Fig. 2), over all images, channels and coefficients.

    Args:
      x: [..., H, W, C] maps.
      low_mask: half layout [H, W // 2 + 1].
      edges: [K + 1] increasing bin edges; values outside count for the total but fall in no bin.

    Returns:
      (low, high), each [K]: fraction of the band's coefficients per unit of log(1 + |S|); 0 for an empty band.
    """
    low_mask = np.asarray(low_mask)
    edges = jnp.asarray(edges, jnp.float32)
    values = jnp.log1p(jnp.abs(spectrum(x))).astype(jnp.float32)
    weights = _columns(hermitian_weights(x.shape[-2]), values)

    def density(mask: np.ndarray) -> jax.Array:
        shares = jnp.broadcast_to(weights * _aligned(jnp.asarray(mask, jnp.float32)[..., None], values), values.shape)
        counts, _ = jnp.histogram(values, bins=edges, weights=shares)
        return counts / (jnp.maximum(jnp.sum(shares), 1.0) * jnp.diff(edges))

    return density(low_mask), density(~low_mask)


def _columns(weights: np.ndarray, like: jax.Array) -> jax.Array:
    """[W'] weights with the rank of `like` [..., W', C]."""
    return jnp.asarray(weights, like.dtype).reshape((1,) * (like.ndim - 2) + (-1, 1))


def _apply(matrix: jax.Array, x: jax.Array) -> jax.Array:
    """[A, N] times every [N, D] of [..., N, D], as a batched product: 3x faster on a CPU than a contraction inside."""
    matrix = jnp.broadcast_to(matrix, (*x.shape[:-2], *matrix.shape))
    return jnp.einsum("...an,...nd->...ad", matrix, x, precision=jax.lax.Precision.HIGHEST)


def _aligned(mask: jax.Array, like: jax.Array) -> jax.Array:
    """A mask with leading axes of size 1 up to the rank of `like`."""
    return mask.reshape((1,) * (like.ndim - mask.ndim) + mask.shape)


def _inside(row_frequency: np.ndarray | float, column_frequency: np.ndarray | float, radius: float) -> np.ndarray:
    return np.hypot(row_frequency, column_frequency) <= radius * (1.0 + 1e-9)  # a rim hit by rounding stays inside


def _fourier_basis(size: int, radius: float) -> tuple[np.ndarray, np.ndarray]:
    """Orthonormal cosines and sines [K, size] up to a fraction of Nyquist, and their frequencies [K]."""
    functions, frequencies = [], []
    for k in range(size // 2 + 1):
        if not _inside(2 * k / size, 0.0, radius):
            break
        angle = 2 * np.pi * ((k * np.arange(size)) % size) / size
        alone = k == 0 or 2 * k == size  # their sines are zero
        for wave in (np.cos(angle),) if alone else (np.cos(angle), np.sin(angle)):
            functions.append(wave * np.sqrt((1 if alone else 2) / size))
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
