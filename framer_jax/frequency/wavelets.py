"""Discrete wavelet bands of NHWC maps, and a training-free autoencoder made of them.

Band names follow PyWavelets: `horizontal` is high-pass along the rows axis (H) and low-pass along the columns axis (W),
so it responds to horizontal edges; `vertical` is the reverse; `diagonal` is high-pass along both. Haar, which training
uses, is implemented with strided slices; every other wavelet goes through jaxwt.

Source: I. Daubechies, "Ten Lectures on Wavelets" (1992); S. Mallat, "A Theory for Multiresolution Signal
Decomposition", IEEE TPAMI 11(7), 1989.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from framer_jax.frequency.bands import full_precision

Array = Any
"""A JAX or NumPy array; `haar_decompose` accepts both and returns the same kind."""

PADDING_MODES = ("symmetric", "reflect", "zero", "periodization")
"""The padding modes that agree with PyWavelets. 'periodization', which keeps orthonormal wavelets orthonormal, is
implemented here: jaxwt has no equivalent (its 'periodic' fails, and its 'constant' differs without a warning)."""

# Measured on 479 photos (BSDS500 train and test without BSD100, General100), cropped to multiples of 16.
IMAGE_SCALE = (2.0018, 0.28427, 0.26675, 0.15024, 0.12704, 0.11914, 0.059332)
"""Standard deviations of the bands (in the order of `WaveletCodec.scale`) of photos in [-1, 1]."""

RESIDUAL_SCALE = (0.13929, 0.22856, 0.21211, 0.14590, 0.11580, 0.10812, 0.058867)
"""Standard deviations of the bands of hr - up(down(hr)), photos in [-1, 1]; down is jax.image.resize 'cubic' x1/4 with
antialiasing, up is jax.image.resize 'cubic-pytorch' x4 without."""


class Detail(NamedTuple):
    """The three detail bands of one level, each [B, h, w, C]."""

    horizontal: Array
    vertical: Array
    diagonal: Array


class WaveletBands(NamedTuple):
    """A decomposition: the low band [B, h, w, C] of the coarsest level, and the details from coarsest to finest."""

    low: Array
    details: tuple[Detail, ...]


class WaveletCodec(NamedTuple):
    """Settings of the latent codec: only Python numbers, so that it is hashable and can be a static argument.

    Attributes:
      levels: number of Haar levels; a latent position represents 2^levels x 2^levels pixels.
      scale: standard deviation of each band, in the order low, then horizontal, vertical, diagonal of the coarsest
        level, ..., horizontal, vertical, diagonal of level 1: 3 levels + 1 numbers. `encode` divides by it.
    """

    levels: int = 2
    scale: tuple[float, ...] = IMAGE_SCALE


def haar_decompose(image: Array, levels: int) -> WaveletBands:
    """Orthonormal Haar transform; equals pywt 'haar' with 'periodization' (and with every other padding mode).

    Args:
      image: [B, H, W, C] floating point; H and W multiples of 2^levels.
      levels: number of levels, at least 1; each splits the low band of the previous one.

    Returns:
      Bands of the image's dtype; level l has size H / 2^l x W / 2^l.

    Raises:
      ValueError: an unsupported shape or dtype.
    """
    check_map(image)
    check_multiple(image.shape, levels)
    low, details = image, []
    for _ in range(levels):
        a, b = low[:, 0::2, 0::2], low[:, 0::2, 1::2]  # [B, h/2, w/2, C] each
        c, d = low[:, 1::2, 0::2], low[:, 1::2, 1::2]
        top, bottom, top_difference, bottom_difference = a + b, c + d, a - b, c - d
        details.append(
            Detail(
                horizontal=(top - bottom) * 0.5,
                vertical=(top_difference + bottom_difference) * 0.5,
                diagonal=(top_difference - bottom_difference) * 0.5,
            )
        )
        low = (top + bottom) * 0.5
    return WaveletBands(low, tuple(reversed(details)))


def haar_reconstruct(bands: WaveletBands) -> jax.Array:
    """Inverse (and transpose) of `haar_decompose`: [B, H, W, C] from its bands."""
    low = jnp.asarray(bands.low)
    for horizontal, vertical, diagonal in bands.details:
        if not low.shape == horizontal.shape == vertical.shape == diagonal.shape:
            raise ValueError(f"Haar bands of one level differ in shape: low {low.shape}, horizontal {horizontal.shape}")
        batch, height, width, channels = low.shape
        plus, minus = low + horizontal, low - horizontal  # upper and lower row of each 2x2 block
        cross_plus, cross_minus = vertical + diagonal, vertical - diagonal
        upper = jnp.stack([plus + cross_plus, plus - cross_plus], axis=3)  # [B, h, w, 2, C]
        lower = jnp.stack([minus + cross_minus, minus - cross_minus], axis=3)
        blocks = jnp.stack([upper, lower], axis=2) * 0.5  # [B, h, 2, w, 2, C]
        low = blocks.reshape(batch, 2 * height, 2 * width, channels)
    return low


def decompose(
    image: jax.Array, wavelet: str = "haar", levels: int = 2, padding_mode: str = "symmetric"
) -> WaveletBands:
    """Transform with any discrete wavelet of PyWavelets ('db2', 'sym4', 'bior2.2', ...), computed by jaxwt.

    Args:
      image: [B, H, W, C] floating point, any H and W; with long filters the bands are larger than H / 2^l.
      wavelet: a PyWavelets name.
      levels: number of levels, at least 1.
      padding_mode: one of `PADDING_MODES`.

    Returns:
      The bands of `pywt.wavedec2(image, wavelet, padding_mode, levels, axes=(1, 2))`.

    Raises:
      ValueError: an unsupported shape, dtype, wavelet, number of levels or padding mode.
    """
    import jaxwt

    check_map(image)
    check_wavelet(wavelet)
    if padding_mode not in PADDING_MODES:
        raise ValueError(f"padding mode {padding_mode!r} is not supported: use one of {', '.join(PADDING_MODES)}")
    if levels < 1:
        raise ValueError(f"levels must be at least 1, got {levels}")
    if padding_mode == "periodization":
        return _decompose_periodic(jnp.asarray(image), wavelet, levels)
    planes = jnp.asarray(image).transpose(0, 3, 1, 2)  # jaxwt's own `axes` fails under jit
    low, *details = jaxwt.wavedec2(planes, wavelet, mode=padding_mode, level=levels)
    return jax.tree.map(
        lambda band: band.transpose(0, 2, 3, 1), WaveletBands(low, tuple(Detail(*detail) for detail in details))
    )


def max_levels(shape: tuple[int, ...], wavelet: str) -> int:
    """The largest useful number of levels for a shape [B, H, W, C], as `pywt.dwt_max_level` counts them.

    Beyond it, a band would be shorter than the filter.
    """
    import pywt

    return int(pywt.dwt_max_level(min(shape[1:3]), pywt.Wavelet(wavelet).dec_len))


def along_both_axes(rows: jax.Array, columns: jax.Array, image: jax.Array) -> jax.Array:
    """Apply low- and high-pass matrices along the rows axis and the columns axis.

    Args:
      rows: [2, h, H], the low-pass and the high-pass matrix for the rows axis.
      columns: [2, w, W], the same for the columns axis.
      image: [B, H, W, C].

    Returns:
      [2, 2, B, h, w, C]: low or high along H, low or high along W.
    """
    return jnp.einsum("phH,qwW,bHWc->pqbhwc", rows, columns, image, precision=jax.lax.Precision.HIGHEST)


def _analysis(wavelet: str, length: int) -> np.ndarray:
    """Matrices [2, length / 2, length] of the low- and high-pass filter on a periodic signal of even length."""
    import pywt

    filters = pywt.Wavelet(wavelet)
    matrices = np.zeros((2, length // 2, length))
    rows = np.arange(length // 2)
    for matrix, taps in zip(matrices, (filters.dec_lo, filters.dec_hi), strict=True):
        for index, tap in enumerate(taps):  # centered as in PyWavelets
            np.add.at(matrix, (rows, (2 * rows + len(taps) // 2 - index) % length), tap)
    return matrices


def _decompose_periodic(image: jax.Array, wavelet: str, levels: int) -> WaveletBands:
    low, details = image, []
    for _ in range(levels):
        low = jnp.pad(low, ((0, 0), (0, low.shape[1] % 2), (0, low.shape[2] % 2), (0, 0)), mode="edge")
        rows, columns = (jnp.asarray(_analysis(wavelet, side), low.dtype) for side in low.shape[1:3])
        bands = along_both_axes(rows, columns, low)
        details.append(Detail(horizontal=bands[1, 0], vertical=bands[0, 1], diagonal=bands[1, 1]))
        low = bands[0, 0]
    return WaveletBands(low, tuple(reversed(details)))


def encode(image: jax.Array, codec: WaveletCodec) -> jax.Array:
    """Encode an image as a latent: Haar bands, divided by their scales, rearranged to the coarsest level's size.

    Channel order: the bands in the order of `WaveletCodec.scale`; within a band of level l, the 2^(levels - l) x
    2^(levels - l) positions that share a latent position, row by row; within a position, the color channels. For two
    levels and RGB (48 channels): 0:3 low, 3:6 horizontal 2, 6:9 vertical 2, 9:12 diagonal 2, 12:24 horizontal 1,
    24:36 vertical 1, 36:48 diagonal 1.

    Args:
      image: [B, H, W, C]; H and W multiples of 2^levels; in [-1, 1] for `IMAGE_SCALE`.
      codec: levels and scale.

    Returns:
      [B, H / 2^levels, W / 2^levels, C 4^levels], float32 (float64 for float64 input).
    """
    _check_codec(codec)
    image = jnp.asarray(image)
    check_map(image)
    bands = haar_decompose(full_precision(image), codec.levels)
    channels = [bands.low * (1.0 / codec.scale[0])]
    for index, detail in enumerate(bands.details):
        for band, scale in zip(detail, codec.scale[3 * index + 1 :], strict=False):
            channels.append(_space_to_depth(band, 2**index) * (1.0 / scale))
    return jnp.concatenate(channels, axis=-1)


def decode(latent: jax.Array, codec: WaveletCodec) -> jax.Array:
    """Inverse of `encode`: [B, h, w, C 4^levels] to [B, h 2^levels, w 2^levels, C]; not clipped."""
    _check_codec(codec)
    latent = jnp.asarray(latent)
    check_map(latent)
    if latent.shape[-1] % 4**codec.levels:
        raise ValueError(f"the latent has {latent.shape[-1]} channels: it needs a multiple of {4**codec.levels}")
    latent = full_precision(latent)
    colors = latent.shape[-1] // 4**codec.levels
    edges = np.cumsum([colors * count for count in _positions(codec)])
    low, *parts = jnp.split(latent, edges[:-1].tolist(), axis=-1)
    parts = [
        _depth_to_space(part * scale, 2 ** (index // 3))
        for index, (part, scale) in enumerate(zip(parts, codec.scale[1:], strict=True))
    ]
    details = tuple(Detail(*parts[start : start + 3]) for start in range(0, len(parts), 3))
    return haar_reconstruct(WaveletBands(low * codec.scale[0], details))


def band_of_channel(codec: WaveletCodec, colors: int = 3) -> np.ndarray:
    """The band of each latent channel, int32 [colors 4^levels]: an index into `codec.scale` (0 is the low band)."""
    _check_codec(codec)
    return np.repeat(np.arange(len(codec.scale), dtype=np.int32), [colors * count for count in _positions(codec)])


def _positions(codec: WaveletCodec) -> list[int]:
    """The number of positions of each band that share one latent position."""
    return [1] + [4**index for index in range(codec.levels) for _ in range(3)]


def _space_to_depth(x: jax.Array, block: int) -> jax.Array:
    batch, height, width, channels = x.shape
    x = x.reshape(batch, height // block, block, width // block, block, channels).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(batch, height // block, width // block, block * block * channels)


def _depth_to_space(x: jax.Array, block: int) -> jax.Array:
    batch, height, width, channels = x.shape
    x = x.reshape(batch, height, width, block, block, channels // block**2).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(batch, height * block, width * block, channels // block**2)


def check_map(x: Array) -> None:
    """Raise a ValueError unless x is a floating-point map [B, H, W, C]."""
    if x.ndim != 4:
        raise ValueError(f"expected a map [B, H, W, C], got shape {x.shape}")
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise ValueError(f"expected floating-point values, got {x.dtype}: convert first (uint8 photos: x / 127.5 - 1)")


def check_multiple(shape: tuple[int, ...], levels: int) -> None:
    """Raise a ValueError unless H and W of a shape [B, H, W, C] are multiples of 2^levels, levels at least 1."""
    if levels < 1:
        raise ValueError(f"levels must be at least 1, got {levels}")
    if shape[1] % 2**levels or shape[2] % 2**levels:
        raise ValueError(f"sides {shape[1:3]} are not multiples of {2**levels}: pad the map, or use `decompose`")


def check_wavelet(wavelet: str) -> None:
    """Raise a ValueError unless PyWavelets has a discrete wavelet of that name."""
    import pywt

    if wavelet not in pywt.wavelist(kind="discrete"):
        raise ValueError(
            f"unknown wavelet {wavelet[:20]!r}: use a discrete one of pywt.wavelist(), such as haar or db2"
        )


def _check_codec(codec: WaveletCodec) -> None:
    if codec.levels < 1 or len(codec.scale) != 3 * codec.levels + 1:
        raise ValueError(
            f"a codec of {codec.levels} levels needs {3 * codec.levels + 1} scales, got {len(codec.scale)}"
        )
