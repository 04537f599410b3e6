"""JPEG as arithmetic (DiffJPEG): color conversion, 4:2:0 subsampling, quantized 8 × 8 DCT, and the inverse.

The lossy part of an encoder and decoder, without entropy coding and without the final rounding to 8 bits. Source: Shin
and Song, "JPEG-resistant adversarial images" (2017), as used by Real-ESRGAN; tables and matrices from JPEG / JFIF.
"""

from __future__ import annotations

from typing import Literal, cast

import jax
import jax.numpy as jnp
import numpy as np

from framer_jax.degradations.blur import Size, valid_pixels

# The luminance table of the JPEG standard (ITU T.81, K.1), [vertical frequency, horizontal frequency].
_LUMINANCE = np.array(
    [
        [16, 11, 10, 16, 24, 40, 51, 61],
        [12, 12, 14, 19, 26, 58, 60, 55],
        [14, 13, 16, 24, 40, 57, 69, 56],
        [14, 17, 22, 29, 51, 87, 80, 62],
        [18, 22, 37, 56, 68, 109, 103, 77],
        [24, 35, 55, 64, 81, 104, 113, 92],
        [49, 64, 78, 87, 103, 121, 120, 101],
        [72, 92, 95, 98, 112, 100, 103, 99],
    ],
    np.float32,
)
# The published pipeline uses the transposed table; here parity with it matters more than the standard.
_LUMINANCE_TABLE = _LUMINANCE.T
_CHROMINANCE_TABLE = np.full((8, 8), 99, np.float32)
_CHROMINANCE_TABLE[:4, :4] = [[17, 18, 24, 47], [18, 21, 26, 66], [24, 26, 56, 99], [47, 66, 99, 99]]

_TO_YCBCR = np.array(
    [[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]], np.float32
)  # JFIF, rows Y, Cb, Cr; chroma is centered on 0 here, without the offset of 128
_TO_RGB = np.array([[1.0, 0.0, 1.402], [1.0, -0.344136, -0.714136], [1.0, 1.772, 0.0]], np.float32)


def _dct_matrix() -> np.ndarray:
    """The orthonormal two-dimensional 8 × 8 DCT as one matrix [64, 64] for flattened blocks."""
    position, frequency = np.meshgrid(np.arange(8), np.arange(8))
    dct = np.cos((2 * position + 1) * frequency * np.pi / 16) * 0.5
    dct[0] /= np.sqrt(2.0)
    return np.kron(dct, dct).astype(np.float32)


_DCT = _dct_matrix()


def quality_factor(quality: jax.Array) -> jax.Array:
    """The factor on the quantization tables: 50 / q below quality 50, else 2 - q / 50."""
    return jnp.where(quality < 50.0, 50.0 / quality, 2.0 - quality / 50.0)


def _round(values: jax.Array, rounding: str) -> jax.Array:
    nearest = jnp.round(values)
    if rounding == "hard":
        return nearest
    return nearest + (values - nearest) ** 3


def _quantize(planes: jax.Array, table: np.ndarray, factor: jax.Array, rounding: str) -> jax.Array:
    """Quantize the DCT of each 8 × 8 block: [P, H, W] → [P, H, W], `table` [8, 8]."""
    number, height, width = planes.shape
    step = jnp.asarray(table.reshape(1, 64)) * factor
    blocks = planes.reshape(number, height // 8, 8, width // 8, 8).swapaxes(2, 3)
    blocks = blocks.reshape(-1, 64)  # [P blocks, 64]
    coefficients = jnp.matmul(blocks, jnp.asarray(_DCT.T), precision="highest")
    blocks = jnp.matmul(_round(coefficients / step, rounding) * step, jnp.asarray(_DCT), precision="highest")
    blocks = blocks.reshape(number, height // 8, width // 8, 8, 8).swapaxes(2, 3)
    return blocks.reshape(number, height, width)


def _convert_color(matrix: np.ndarray, planes: jax.Array) -> list[jax.Array]:
    """Multiply three planes by a color matrix [3, 3]."""
    rows = [sum(float(weight) * plane for weight, plane in zip(row, planes, strict=True)) for row in matrix]
    return cast(list[jax.Array], rows)


def jpeg(
    planes: jax.Array,
    quality: jax.Array,
    size: Size | None = None,
    rounding: Literal["hard", "soft"] = "hard",
) -> jax.Array:
    """Compress and decompress an image.

    Args:
      planes: RGB planes [3, H, W] float32 in [0, 1] of any size (padded with black to a multiple of 16 internally).
      quality: float32 scalar from 1 to 100, not necessarily an integer.
      size: valid (height, width) of the image, if smaller than its canvas; may be traced. The rest counts as black.
      rounding: 'hard' rounds coefficients to the nearest level, without a gradient; 'soft' adds the cubed remainder,
        which has a gradient.

    Returns:
      [3, H, W] float32 in [0, 1], not rounded to 8 bits; values outside the valid size are unspecified.

    Raises:
      ValueError: an unknown rounding, or an image without three channels.
    """
    if rounding not in ("hard", "soft"):
        raise ValueError(f"rounding is {rounding!r}: it must be one of hard, soft")
    channels, height, width = planes.shape
    if channels != 3:
        raise ValueError(f"JPEG needs RGB planes [3, H, W], got shape {planes.shape}")
    if size is not None:
        planes = jnp.where(valid_pixels(height, width, size)[None], planes, jnp.float32(0))
    padded = jnp.pad(planes * 255.0, ((0, 0), (0, -height % 16), (0, -width % 16)))
    full_height, full_width = padded.shape[1:]
    luminance, *chroma_planes = _convert_color(_TO_YCBCR, padded)
    chroma = jnp.stack(chroma_planes).reshape(2, full_height // 2, 2, full_width // 2, 2).mean(axis=(2, 4))

    factor = quality_factor(quality)
    luminance = _quantize(luminance[None] - 128.0, _LUMINANCE_TABLE, factor, rounding)[0] + 128.0
    chroma = _quantize(chroma, _CHROMINANCE_TABLE, factor, rounding)
    chroma = jnp.repeat(jnp.repeat(chroma, 2, axis=1), 2, axis=2)  # [2, H, W]

    rgb = jnp.stack(_convert_color(_TO_RGB, jnp.concatenate([luminance[None], chroma])))
    return jnp.clip(rgb, 0.0, 255.0)[:, :height, :width] / 255.0
