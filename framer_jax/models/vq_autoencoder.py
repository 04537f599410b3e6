"""The autoencoder of ResShift and SinSR: latents at a quarter of the side, quantised only on the way back.

Esser et al., "Taming Transformers for High-Resolution Image Synthesis" (CVPR 2021); Rombach et al., "High-Resolution
Image Synthesis with Latent Diffusion Models" (CVPR 2022), whose VQ-f4 this is. The defaults are the published
configuration, 55,322,782 parameters; published weights come through framer_jax.porting.
"""

from __future__ import annotations

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp

from framer_jax.models.layers import Dtype, GroupNorm, ResidualBlock, attention, enlarge_nearest

Norm = partial(GroupNorm, epsilon=1e-6)

LARGEST_SCORES = 2**24
"""Numbers that a table of similarities may have at once; above it, it is made and used in pieces."""


class PositionAttention(nn.Module):
    """Attention of all positions of a map to each other, one head, with a skip: [B, H, W, C] → the same."""

    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Apply the layer."""
        batch, height, width, channels = x.shape
        tokens = height * width
        h = Norm(name="norm")(x)
        query, key, value = (
            nn.Conv(channels, (1, 1), dtype=self.dtype, name=name)(h).reshape(batch, tokens, 1, channels)
            for name in ("query", "key", "value")
        )
        if tokens * tokens <= LARGEST_SCORES:
            h = attention(query, key, value)
        else:

            def one(query: jax.Array) -> jax.Array:  # one position of every image: [B, 1, C]
                return attention(query[:, None], key, value)[:, 0]

            h = jax.lax.map(jax.checkpoint(one), query.swapaxes(0, 1), batch_size=max(1, LARGEST_SCORES // tokens))
            h = h.swapaxes(0, 1)
        return x + nn.Conv(channels, (1, 1), dtype=self.dtype, name="project")(h.reshape(x.shape))


class Middle(nn.Module):
    """Residual block, attention, residual block: [B, H, W, C] → the same."""

    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, h: jax.Array) -> jax.Array:
        """Apply the layers."""
        h = ResidualBlock(h.shape[-1], self.dtype, Norm, name="block_1")(h)
        h = PositionAttention(self.dtype, name="attention_1")(h)
        return ResidualBlock(h.shape[-1], self.dtype, Norm, name="block_2")(h)


class Encoder(nn.Module):
    """Image to latent, without the 1x1 convolution behind it; attributes as VQAutoencoder."""

    channels: int
    multipliers: tuple[int, ...]
    blocks: int
    attention_levels: tuple[int, ...]
    latent_channels: int
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, H, W, 3] → [B, H / 2^(L - 1), W / 2^(L - 1), latent_channels] float32."""
        h = nn.Conv(self.channels, (3, 3), dtype=self.dtype, name="conv_in")(x.astype(self.dtype))
        for level, multiplier in enumerate(self.multipliers):
            for index in range(self.blocks):
                h = ResidualBlock(self.channels * multiplier, self.dtype, Norm, name=f"down_{level}_block_{index}")(h)
                if level in self.attention_levels:
                    h = PositionAttention(self.dtype, name=f"down_{level}_attention_{index}")(h)
            if level < len(self.multipliers) - 1:
                # Zeros after the last row and column only.
                halve = nn.Conv(
                    h.shape[-1],
                    (3, 3),
                    (2, 2),
                    padding=((0, 1), (0, 1)),
                    dtype=self.dtype,
                    name=f"down_{level}_to_coarse",
                )
                h = halve(h)
        h = nn.silu(Norm(name="norm_out")(Middle(self.dtype, name="middle")(h)))
        return nn.Conv(self.latent_channels, (3, 3), name="conv_out")(h.astype(jnp.float32))


class Decoder(nn.Module):
    """Latent to image, without the 1x1 convolution before it; attributes as VQAutoencoder."""

    channels: int
    multipliers: tuple[int, ...]
    blocks: int
    attention_levels: tuple[int, ...]
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, z: jax.Array) -> jax.Array:
        """[B, H, W, C] → [B, 2^(L - 1) H, 2^(L - 1) W, 3] float32."""
        width = self.channels * self.multipliers[-1]
        h = nn.Conv(width, (3, 3), dtype=self.dtype, name="conv_in")(z.astype(self.dtype))
        h = Middle(self.dtype, name="middle")(h)
        for level in reversed(range(len(self.multipliers))):
            width = self.channels * self.multipliers[level]
            for index in range(self.blocks + 1):
                h = ResidualBlock(width, self.dtype, Norm, name=f"up_{level}_block_{index}")(h)
                if level in self.attention_levels:
                    h = PositionAttention(self.dtype, name=f"up_{level}_attention_{index}")(h)
            if level:
                h = nn.Conv(width, (3, 3), dtype=self.dtype, name=f"up_{level}_to_fine")(enlarge_nearest(h))
        h = nn.silu(Norm(name="norm_out")(h))
        return nn.Conv(3, (3, 3), name="conv_out")(h.astype(jnp.float32))


class VQAutoencoder(nn.Module):
    """Encoder, codebook and decoder. Apply it by method: `apply(variables, image, method="encode")`.

    Attributes:
      channels: width of the finest level.
      multipliers: width of each level as a multiple of it; each level but one halves the side.
      blocks: residual blocks of each level of the encoder; the decoder has one more.
      attention_levels: levels whose blocks are each followed by attention (the middle always has it).
      latent_channels: of the latents and of a code.
      codes: entries of the codebook.
      dtype: compute dtype; parameters, norms, softmax, latents and images are float32.
    """

    channels: int = 128
    multipliers: tuple[int, ...] = (1, 2, 4)
    blocks: int = 2
    attention_levels: tuple[int, ...] = ()
    latent_channels: int = 3
    codes: int = 8192
    dtype: Dtype = jnp.float32

    def setup(self) -> None:
        """Declare the parts."""
        shape = (self.channels, self.multipliers, self.blocks, self.attention_levels)
        self.encoder = Encoder(*shape, self.latent_channels, self.dtype)
        self.decoder = Decoder(*shape, self.dtype)
        self.after_encoder = nn.Conv(self.latent_channels, (1, 1))
        self.before_decoder = nn.Conv(self.latent_channels, (1, 1))
        self.codebook = self.param(
            "codebook", nn.initializers.uniform(2.0 / self.codes), (self.codes, self.latent_channels)
        )

    @property
    def pixels_per_latent(self) -> int:
        """Side of a latent position in pixels; sides of an image must be multiples of it."""
        return 2 ** (len(self.multipliers) - 1)

    def __call__(self, image: jax.Array) -> jax.Array:
        """There and back: [B, H, W, 3] → the same."""
        return self.decode(self.encode(image))

    def encode(self, image: jax.Array) -> jax.Array:
        """An image in [-1, 1] to its latent, not quantised.

        Args:
          image: [B, H, W, 3] float32.

        Returns:
          [B, H / p, W / p, latent_channels] float32, p = `pixels_per_latent`.

        Raises:
          ValueError: H or W is not a multiple of p.
        """
        if any(side % self.pixels_per_latent for side in image.shape[1:3]):
            raise ValueError(f"images to encode need sides that are multiples of {self.pixels_per_latent}")
        return self.after_encoder(self.encoder(image))

    def quantise(self, z: jax.Array) -> tuple[jax.Array, jax.Array]:
        """The codes nearest to a latent: [B, H, W, C] → (codes like z, their numbers [B, H, W] int32).

        The gradient with respect to z passes straight through; none reaches the codebook.
        """
        index = nearest_code(z.reshape(-1, z.shape[-1]), self.codebook).reshape(z.shape[:-1])
        # Exactly the code: z - stop_gradient(z) is zero and carries the gradient.
        return jax.lax.stop_gradient(self.codebook[index]) + (z - jax.lax.stop_gradient(z)), index

    def decode(self, z: jax.Array, quantise: bool = True) -> jax.Array:
        """A latent to the image in (about) [-1, 1].

        Args:
          z: [B, h, w, latent_channels] float32.
          quantise: whether the nearest codes are decoded (as ResShift does) or z itself.

        Returns:
          [B, p h, p w, 3] float32, not clipped.
        """
        return self.decoder(self.before_decoder(self.quantise(z)[0] if quantise else z))


def nearest_code(vectors: jax.Array, codebook: jax.Array) -> jax.Array:
    """The nearest entry of a codebook, the first of equally near ones.

    Args:
      vectors: [N, C] float32.
      codebook: [K, C] float32.

    Returns:
      [N] int32. No gradient. At most about LARGEST_SCORES distances exist at once.
    """
    vectors, codebook = jax.lax.stop_gradient((vectors, codebook))
    square = (codebook * codebook).sum(axis=-1)  # [K]

    def nearest(vector: jax.Array) -> jax.Array:  # the square of the vector itself is the same for all codes
        return jnp.argmin(square - 2.0 * jnp.dot(codebook, vector, precision="highest")).astype(jnp.int32)

    return jax.lax.map(nearest, vectors, batch_size=max(1, LARGEST_SCORES // len(codebook)))
