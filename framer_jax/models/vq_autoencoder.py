"""The autoencoder of ResShift and SinSR: latents at a quarter of the side, quantised by the decoder only.

Esser et al., "Taming Transformers for High-Resolution Image Synthesis" (CVPR 2021); Rombach et al., "High-Resolution
Image Synthesis with Latent Diffusion Models" (CVPR 2022), which calls it VQ-f4. The defaults are the published
configuration with 55,322,782 parameters; published weights are read by framer_jax.porting.
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from framer_jax.models.autoencoder_layers import LARGEST_SCORES, Decoder, Encoder
from framer_jax.models.layers import Dtype


class VQAutoencoder(nn.Module):
    """Encoder, codebook and decoder. Apply it by method: `apply(variables, image, method="encode")`.

    Attributes:
      channels: width of the finest level.
      multipliers: width of each level as a multiple of `channels`; each level but the last halves the side.
      blocks: residual blocks of each level of the encoder, one number or one for each level; the decoder has one more.
      attention_levels: levels whose blocks are each followed by attention (the middle always has it).
      latent_channels: channels of the latents and of the codes.
      inner_channels: channels that the encoder makes and the decoder takes; None: latent_channels.
      codes: number of codes in the codebook.
      dtype: compute dtype; parameters, norms, softmax, latents and images are float32.
    """

    channels: int = 128
    multipliers: tuple[int, ...] = (1, 2, 4)
    blocks: int | tuple[int, ...] = 2
    attention_levels: tuple[int, ...] = ()
    latent_channels: int = 3
    codes: int = 8192
    inner_channels: int | None = None
    dtype: Dtype = jnp.float32

    def setup(self) -> None:
        """Create the submodules."""
        if isinstance(self.blocks, tuple) and len(self.blocks) != len(self.multipliers):
            raise ValueError(f"blocks is {self.blocks}: it must hold a number for each level of {self.multipliers}")
        shape = (self.channels, self.multipliers, self.blocks, self.attention_levels)
        inner = self.inner_channels or self.latent_channels
        self.encoder = Encoder(*shape, inner, self.dtype)
        self.decoder = Decoder(*shape, self.dtype)
        self.after_encoder = nn.Conv(self.latent_channels, (1, 1))
        self.before_decoder = nn.Conv(inner, (1, 1))
        self.codebook = self.param(
            "codebook", nn.initializers.uniform(2.0 / self.codes), (self.codes, self.latent_channels)
        )

    @property
    def pixels_per_latent(self) -> int:
        """Pixels per latent position and axis; the sides of an image must be multiples of it."""
        return 2 ** (len(self.multipliers) - 1)

    def __call__(self, image: jax.Array) -> jax.Array:
        """Encode, quantise and decode: [B, H, W, 3] → [B, H, W, 3]."""
        return self.decode(self.encode(image))

    def encode(self, image: jax.Array) -> jax.Array:
        """Encode an image without quantising its latent.

        Args:
          image: [B, H, W, 3] float32 in [-1, 1].

        Returns:
          latent [B, H / p, W / p, latent_channels] float32, p = `pixels_per_latent`.

        Raises:
          ValueError: H or W is not a multiple of p.
        """
        if any(side % self.pixels_per_latent for side in image.shape[1:3]):
            raise ValueError(
                f"images to encode need sides that are multiples of {self.pixels_per_latent}, got {image.shape[1:3]}"
            )
        return self.after_encoder(self.encoder(image))

    def quantise(self, z: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Replace each vector of a latent by its nearest code.

        The gradient passes straight through to z; none reaches the codebook.

        Args:
          z: [B, H, W, C] float32.

        Returns:
          (codes [B, H, W, C] float32, their indices [B, H, W] int32).
        """
        index = nearest_code(z.reshape(-1, z.shape[-1]), self.codebook).reshape(z.shape[:-1])
        # The value is exactly the code: z - stop_gradient(z) is zero and carries the gradient.
        return jax.lax.stop_gradient(self.codebook[index]) + (z - jax.lax.stop_gradient(z)), index

    def decode(self, z: jax.Array, quantise: bool = True) -> jax.Array:
        """Decode a latent.

        Args:
          z: [B, h, w, latent_channels] float32.
          quantise: whether the nearest codes are decoded, as in ResShift, or z itself.

        Returns:
          image [B, p h, p w, 3] float32 near [-1, 1], not clipped.
        """
        return self.decoder(self.before_decoder(self.quantise(z)[0] if quantise else z))


def nearest_code(vectors: jax.Array, codebook: jax.Array) -> jax.Array:
    """Index of the code nearest to each vector, the first one of several at the same distance.

    At most about LARGEST_SCORES distances are held at once.

    Args:
      vectors: [N, C] float32.
      codebook: [K, C] float32.

    Returns:
      [N] int32, without a gradient.
    """
    vectors, codebook = jax.lax.stop_gradient((vectors, codebook))
    square = (codebook * codebook).sum(axis=-1)  # [K]

    def nearest(vector: jax.Array) -> jax.Array:  # |vector|² is the same for all codes
        return jnp.argmin(square - 2.0 * jnp.dot(codebook, vector, precision="highest")).astype(jnp.int32)

    return jax.lax.map(nearest, vectors, batch_size=max(1, LARGEST_SCORES // len(codebook)))
