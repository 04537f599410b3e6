"""TAESD: tiny autoencoders for the latents of Stable Diffusion, small enough for a laptop.

Ollin Boer Bohan, "Tiny AutoEncoder for Stable Diffusion" (TAESD, MIT licence). Its latents are those that denoisers
work on: it stands for the KL autoencoder of Stable Diffusion 1 and 2 (4 channels) or 3 (16 channels) together with its
scaling and shift. Published weights are read by framer_jax.porting.tiny_autoencoder.
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from framer_jax.models.layers import Dtype
from framer_jax.models.resampling import upsampling_conv

PAD = ((1, 1), (1, 1))
"""One pixel of zeros on every side, also with stride 2."""

LEVEL_BLOCKS = 3
"""Residual blocks of a level; the encoder's first level and the decoder's last have one."""

RANGE = 3.0
"""Latents enter the decoder through RANGE · tanh(z / RANGE)."""


class Block(nn.Module):
    """Three convolutions with ReLU and a skip.

    Attributes:
      channels: width.
      dtype: compute dtype.
    """

    channels: int
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, H, W, C] → [B, H, W, C]."""
        h = x
        for index in (0, 2, 4):  # the indices in the checkpoints' list of modules
            h = nn.Conv(self.channels, (3, 3), padding=PAD, dtype=self.dtype, name=f"conv_{index}")(h)
            h = nn.relu(h) if index < 4 else h
        return nn.relu(h + x)


class TinyEncoder(nn.Module):
    """The encoder. Names hold the indices in the checkpoints' list of modules.

    Attributes:
      latent_channels: channels of the latents.
      channels: width.
      dtype: compute dtype; images and latents are float32.
    """

    latent_channels: int
    channels: int = 64
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, image: jax.Array) -> jax.Array:
        """[B, 8 h, 8 w, 3] float32 in [0, 1] → [B, h, w, latent_channels] float32."""
        h = nn.Conv(self.channels, (3, 3), padding=PAD, dtype=self.dtype, name="layer_0")(image.astype(self.dtype))
        h = Block(self.channels, self.dtype, name="block_1")(h)
        for first in (2, 6, 10):
            down = nn.Conv(self.channels, (3, 3), (2, 2), PAD, use_bias=False, dtype=self.dtype, name=f"layer_{first}")
            h = down(h)
            for index in range(first + 1, first + 1 + LEVEL_BLOCKS):
                h = Block(self.channels, self.dtype, name=f"block_{index}")(h)
        return nn.Conv(self.latent_channels, (3, 3), padding=PAD, name="layer_14")(h.astype(jnp.float32))


class TinyDecoder(nn.Module):
    """The decoder. Names hold the indices in the checkpoints' list of modules.

    Attributes:
      channels: width.
      dtype: compute dtype; images and latents are float32.
    """

    channels: int = 64
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, z: jax.Array) -> jax.Array:
        """[B, h, w, C] float32 → [B, 8 h, 8 w, 3] float32 near [0, 1], not clipped."""
        z = jnp.tanh(z / RANGE) * RANGE
        h = nn.Conv(self.channels, (3, 3), padding=PAD, dtype=self.dtype, name="layer_1")(z.astype(self.dtype))
        h = nn.relu(h)
        for first in (3, 8, 13):
            for index in range(first, first + LEVEL_BLOCKS):
                h = Block(self.channels, self.dtype, name=f"block_{index}")(h)
            name = f"layer_{first + LEVEL_BLOCKS + 1}"
            h = upsampling_conv(self.channels, self.dtype, name, use_bias=False)(h)
        h = Block(self.channels, self.dtype, name="block_18")(h)
        return nn.Conv(3, (3, 3), padding=PAD, name="layer_19")(h.astype(jnp.float32))


class TinyAutoencoder(nn.Module):
    """Encoder and decoder. Apply it by method: `apply(variables, image, method="encode")`.

    Attributes:
      latent_channels: 4 for Stable Diffusion 1 and 2 (TAESD), 16 for 3 (TAESD3).
      channels: width.
      dtype: compute dtype; parameters, latents and images are float32.
    """

    latent_channels: int = 16
    channels: int = 64
    dtype: Dtype = jnp.float32

    pixels_per_latent = 8

    def setup(self) -> None:
        """Create the submodules."""
        self.encoder = TinyEncoder(self.latent_channels, self.channels, self.dtype)
        self.decoder = TinyDecoder(self.channels, self.dtype)

    def __call__(self, image: jax.Array) -> jax.Array:
        """Encode and decode: [B, H, W, 3] → [B, H, W, 3], in [-1, 1]."""
        return self.decode(self.encode(image))

    def encode(self, image: jax.Array) -> jax.Array:
        """Encode an image.

        Args:
          image: [B, H, W, 3] float32 in [-1, 1].

        Returns:
          latents [B, H / 8, W / 8, latent_channels] float32, at the scale that denoisers work on.

        Raises:
          ValueError: H or W is not a multiple of 8.
        """
        if any(side % self.pixels_per_latent for side in image.shape[1:3]):
            raise ValueError(
                f"images to encode need sides that are multiples of {self.pixels_per_latent}, got {image.shape[1:3]}"
            )
        return self.encoder(image * 0.5 + 0.5)

    def decode(self, z: jax.Array) -> jax.Array:
        """Decode latents: [B, h, w, latent_channels] float32 → [B, 8 h, 8 w, 3] float32 near [-1, 1], not clipped."""
        return self.decoder(z) * 2.0 - 1.0
