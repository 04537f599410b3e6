"""Fourier bands of NHWC maps: masks, spectra, and what is compared in them.

A spectrum is kept in half layout: the H x (W // 2 + 1) coefficients of a real 2-D FFT (unnormalised, zero frequency in
the corner). The coefficients that are left out are complex conjugates of kept ones, so sums over the full spectrum are
sums over the half with `hermitian_weights`. Everything is float32 whatever the input's dtype (float64 stays float64).

Source: the band split of "FRAMER: Frequency-Aligned Self-Distillation with Adaptive Modulation" (arXiv 2512.01390),
Eq. 1-3 and Figs. 2, 3, 5; the two readings of its masks are told apart in framer_jax.losses.framer.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np

VECTOR_AXES = (-4, -3, -2, -1)
"""The axes (part, H, W', C) of `spectral_features`: one image's spectrum as a real vector."""

_NORM_FLOOR = 1e-24  # squared; a norm below 1e-12 is taken as 1e-12, and its gradient as zero


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
    mask = np.hypot(rows[:, None], columns[None, :]) <= radius * (1.0 + 1e-9)  # a rim hit by rounding stays inside
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
    return jnp.fft.rfft2(x.astype(jnp.promote_types(x.dtype, jnp.float32)), axes=(-3, -2))


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


def unit(features: jax.Array) -> jax.Array:
    """Scale each image's vector (the last four axes) to length 1; vectors shorter than 1e-12 stay short."""
    squared = jnp.sum(jnp.square(features), axis=VECTOR_AXES, keepdims=True)
    return features * jax.lax.rsqrt(jnp.maximum(squared, _NORM_FLOOR))


def similarities(first: jax.Array, second: jax.Array) -> jax.Array:
    """Dot products between all images of two batches of vectors: [..., A, P, H, W', C] x [..., B, ...] to [..., A, B].

    With `unit` vectors these are cosines; between an image batch's and the teacher's, the matrices of Fig. 5.
    """
    first, second = (x.reshape(*x.shape[:-4], -1) for x in (first, second))
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
    low_mask = jnp.asarray(low_mask)[..., None]
    first, second = (spectral_features(spectrum(z), x.shape[-2]) for z in (x, y))
    low, high = (
        jnp.sum(unit(_masked(first, mask)) * unit(_masked(second, mask)), axis=VECTOR_AXES)
        for mask in (low_mask, ~low_mask)
    )
    return low, high


def band_similarity_matrices(
    x: jax.Array, y: jax.Array, low_mask: np.ndarray | jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Between-image cosines per band (Fig. 5): x [A, H, W, C] and y [B, H, W, C] to (low, high), each [A, B]."""
    low_mask = jnp.asarray(low_mask)[..., None]
    first, second = (spectral_features(spectrum(z), x.shape[-2]) for z in (x, y))
    low, high = (
        similarities(unit(_masked(first, mask)), unit(_masked(second, mask))) for mask in (low_mask, ~low_mask)
    )
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


def _aligned(mask: jax.Array, like: jax.Array) -> jax.Array:
    """A mask with leading axes of size 1 up to the rank of `like`."""
    return mask.reshape((1,) * (like.ndim - mask.ndim) + mask.shape)


def _masked(features: jax.Array, mask: jax.Array) -> jax.Array:
    return features * _aligned(mask, features).astype(features.dtype)
