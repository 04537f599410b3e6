"""Where a recipe's diffusion lives: a latent space of images, and the LR image carried into it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np

from framer_jax.frequency import wavelets
from framer_jax.recipes.base import Batch, Frozen


@dataclass(frozen=True)
class LatentSpace:
    """An autoencoder as two pure functions.

    Attributes:
      channels: C of a latent.
      image_pixels_per_latent: side of a latent position in HR pixels.
      encode: (frozen, image [B, H, W, 3] in [-1, 1]) → latent [B, H / p, W / p, C].
      decode: the inverse, or its approximation.
      channel_scale: [C] float32, the image-domain standard deviation of one unit of each channel; ones if unknown.
    """

    channels: int
    image_pixels_per_latent: int
    encode: Callable[[Frozen, jax.Array], jax.Array]
    decode: Callable[[Frozen, jax.Array], jax.Array]
    channel_scale: np.ndarray

    def latents_per_lr_pixel(self, scale: int) -> Fraction:
        """Latent positions per LR pixel and axis, for an enlargement by `scale`."""
        return Fraction(scale, self.image_pixels_per_latent)


def wavelet_space(codec: wavelets.WaveletCodec) -> LatentSpace:
    """The training-free orthonormal Haar codec: for two levels, [B, H, W, 3] ↔ [B, H / 4, W / 4, 48]."""
    pixels = 2**codec.levels
    return LatentSpace(
        channels=3 * pixels**2,
        image_pixels_per_latent=pixels,
        encode=lambda frozen, image: wavelets.encode(image, codec),
        decode=lambda frozen, latent: wavelets.decode(latent, codec),
        channel_scale=np.asarray(codec.scale, np.float32)[wavelets.band_of_channel(codec)],
    )


def to_model_range(image: jax.Array) -> jax.Array:
    """[0, 1] → [-1, 1]."""
    return image * 2.0 - 1.0


def from_model_range(image: jax.Array) -> jax.Array:
    """[-1, 1] → [0, 1], not clipped."""
    return image * 0.5 + 0.5


def enlarge(lr: jax.Array, scale: int) -> jax.Array:
    """Bicubic enlargement as PyTorch does it (A = -0.75, half-pixel centres): [B, H, W, 3] → [B, sH, sW, 3]."""
    batch, height, width, channels = lr.shape
    return jax.image.resize(
        lr.astype(jnp.float32), (batch, height * scale, width * scale, channels), "cubic-pytorch", antialias=False
    )


def encode_pair(space: LatentSpace, frozen: Frozen, batch: Batch, scale: int) -> tuple[jax.Array, jax.Array, jax.Array]:
    """A training batch in the latent space: (z_hr, z_lr, lr in [-1, 1])."""
    hr, lr = to_model_range(batch["hr"]), to_model_range(batch["lr"])
    return space.encode(frozen, hr), space.encode(frozen, enlarge(lr, scale)), lr
