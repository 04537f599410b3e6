"""PSNR of RGB and of luma, and what all metrics on pixels share: the cropped border, and BT.601 luma."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp


def crop(images: jax.Array, crop_border: int) -> jax.Array:
    """Images [B, H, W, C] without `crop_border` pixels on every side."""
    height, width = images.shape[1:3]
    return images[:, crop_border : height - crop_border, crop_border : width - crop_border]


def luma_studio(images: jax.Array) -> jax.Array:
    """Unrounded luma of ITU-R BT.601 in studio range (16..235), [B, H, W, 3] in [0, 1] to [B, H, W] float32."""
    red, green, blue = (images[..., channel].astype(jnp.float32) for channel in range(3))
    return 65.481 * red + 128.553 * green + 24.966 * blue + 16.0


def decibel(mean_squared_error: jax.Array) -> jax.Array:
    """PSNR in dB for a peak of 1, of any shape; the 1e-8 (from pyiqa) gives equal images 80 dB."""
    return -10.0 * jnp.log10(mean_squared_error + 1e-8)


@partial(jax.jit, static_argnames="crop_border")
def psnr_rgb(sr: jax.Array, reference: jax.Array, crop_border: int = 0) -> jax.Array:
    """Peak signal-to-noise ratio over all three channels.

    Args:
      sr: [B, H, W, 3] in [0, 1].
      reference: the same shape.
      crop_border: pixels ignored on every side.

    Returns:
      [B] float32 in dB; 80 for equal images.
    """
    difference = crop(sr, crop_border).astype(jnp.float32) - crop(reference, crop_border).astype(jnp.float32)
    return decibel((difference * difference).mean(axis=(1, 2, 3)))


@partial(jax.jit, static_argnames="crop_border")
def psnr_y(sr: jax.Array, reference: jax.Array, crop_border: int = 0) -> jax.Array:
    """Peak signal-to-noise ratio of unrounded BT.601 studio luma with peak 255; arguments as for `psnr_rgb`."""
    difference = (luma_studio(crop(sr, crop_border)) - luma_studio(crop(reference, crop_border))) / 255.0
    return decibel((difference * difference).mean(axis=(1, 2)))
