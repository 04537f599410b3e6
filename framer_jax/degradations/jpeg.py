"""JPEG as arithmetic (DiffJPEG): colour conversion, 4:2:0 subsampling, quantised 8 × 8 DCT, and back.

What an encoder does between pixels and entropy coding, without the final rounding to 8 bits. Source: Shin & Song,
"JPEG-resistant adversarial images" (2017), as used by Real-ESRGAN; tables and matrices are those of JPEG / JFIF.
"""

from __future__ import annotations

from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

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
# The published pipeline uses it transposed; parity with it matters more than the standard here.
_LUMINANCE_TABLE = _LUMINANCE.T
_CHROMINANCE_TABLE = np.full((8, 8), 99, np.float32)
_CHROMINANCE_TABLE[:4, :4] = [[17, 18, 24, 47], [18, 21, 26, 66], [24, 26, 56, 99], [47, 66, 99, 99]]

_TO_YCBCR = np.array(
    [[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]], np.float32
)  # JFIF, rows Y, Cb, Cr; chroma is kept centred on 0 here, so the offset of 128 drops out
_TO_RGB = np.array([[1.0, 0.0, 1.402], [1.0, -0.344136, -0.714136], [1.0, 1.772, 0.0]], np.float32)


def _dct_matrix() -> np.ndarray:
    """The orthonormal two-dimensional 8 × 8 DCT as one [64, 64] matrix acting on flattened blocks."""
    place, frequency = np.meshgrid(np.arange(8), np.arange(8))
    one = np.cos((2 * place + 1) * frequency * np.pi / 16) * 0.5
    one[0] /= np.sqrt(2.0)
    return np.kron(one, one).astype(np.float32)


_DCT = _dct_matrix()


def quality_factor(quality: jax.Array) -> jax.Array:
    """The factor on the tables: 50 / q below quality 50, else 2 - q / 50."""
    return jnp.where(quality < 50.0, 50.0 / quality, 2.0 - quality / 50.0)


def _round(values: jax.Array, rounding: str) -> jax.Array:
    nearest = jnp.round(values)
    if rounding == "hard":
        return nearest
    return nearest + (values - nearest) ** 3


def _quantised(planes: jax.Array, table: np.ndarray, factor: jax.Array, rounding: str) -> jax.Array:
    """Quantise the DCT of each 8 × 8 block: [B, P, H, W] → [B, P, H, W], `table` [8, 8], `factor` [B]."""
    batch, number, height, width = planes.shape
    precision = jax.lax.Precision.HIGHEST
    step = jnp.asarray(table.reshape(1, 1, 1, 64)) * factor[:, None, None, None]
    blocks = planes.reshape(batch, number, height // 8, 8, width // 8, 8).swapaxes(3, 4)
    blocks = blocks.reshape(batch, number, -1, 64)  # [B, P, blocks, 64]
    coefficients = jnp.matmul(blocks, jnp.asarray(_DCT.T), precision=precision)
    blocks = jnp.matmul(_round(coefficients / step, rounding) * step, jnp.asarray(_DCT), precision=precision)
    blocks = blocks.reshape(batch, number, height // 8, width // 8, 8, 8).swapaxes(3, 4)
    return blocks.reshape(batch, number, height, width)


def jpeg(images: jax.Array, quality: jax.Array, rounding: Literal["hard", "soft"] = "hard") -> jax.Array:
    """Compress and decompress each image at its own quality.

    Args:
      images: [B, H, W, 3] float32 in [0, 1]; any size (padded with black to a multiple of 16 inside).
      quality: [B] float32, 1 to 100, not necessarily whole.
      rounding: 'hard' rounds coefficients to the nearest level (no gradient through it); 'soft' adds the cubed
        remainder, which has one.

    Returns:
      [B, H, W, 3] float32 in [0, 1], not rounded to 8 bits.

    Raises:
      ValueError: another rounding, or images without three channels.
    """
    if rounding not in ("hard", "soft"):
        raise ValueError(f"JPEG rounding is 'hard' or 'soft'; got {rounding!r}")
    batch, height, width, channels = images.shape
    if channels != 3:
        raise ValueError(f"JPEG takes RGB images [B, H, W, 3]; got {images.shape}")
    precision = jax.lax.Precision.HIGHEST
    padded = jnp.pad(images * 255.0, ((0, 0), (0, -height % 16), (0, -width % 16), (0, 0)))
    full_height, full_width = padded.shape[1:3]
    ycbcr = jnp.einsum("bhwc,yc->byhw", padded, jnp.asarray(_TO_YCBCR), precision=precision)
    luminance, chroma = ycbcr[:, :1], ycbcr[:, 1:]

    factor = quality_factor(quality)
    luminance = _quantised(luminance - 128.0, _LUMINANCE_TABLE, factor, rounding) + 128.0
    chroma = chroma.reshape(batch, 2, full_height // 2, 2, full_width // 2, 2).mean(axis=(3, 5))
    chroma = _quantised(chroma, _CHROMINANCE_TABLE, factor, rounding)
    chroma = jnp.repeat(jnp.repeat(chroma, 2, axis=2), 2, axis=3)  # [B, 2, H, W]

    ycbcr = jnp.concatenate([luminance, chroma], axis=1)
    rgb = jnp.einsum("byhw,cy->bhwc", ycbcr, jnp.asarray(_TO_RGB), precision=precision)
    return jnp.clip(rgb, 0.0, 255.0)[:, :height, :width] / 255.0
