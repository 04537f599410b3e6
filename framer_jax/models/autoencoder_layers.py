"""The two halves of convolutional autoencoders: residual levels, one attention in the middle, halved or doubled sides.

Esser et al., "Taming Transformers for High-Resolution Image Synthesis" (CVPR 2021), whose halves the latent-diffusion
autoencoders keep: the vector-quantised one of ResShift and the Gaussian ones of Stable Diffusion.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp

from framer_jax.models.layers import Dtype, GroupNorm, ResidualBlock, attention, enlarge_nearest

Norm = partial(GroupNorm, epsilon=1e-6)

LARGEST_SCORES = 2**24
"""Numbers that a table of similarities may have at once; above it, it is made and used in pieces."""


class PositionAttention(nn.Module):
    """Attention of all positions of a map to each other, one head, with a skip: [B, H, W, C] → the same.

    Attributes:
      dtype: compute dtype.
      norm: makes the norm.
      dense: whether the projections are linear layers, not 1x1 convolutions: the same function of other shapes.
    """

    dtype: Dtype = jnp.float32
    norm: Callable[..., nn.Module] = Norm
    dense: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Apply the layer."""
        batch, height, width, channels = x.shape
        tokens = height * width
        project = partial(nn.Dense, channels) if self.dense else partial(nn.Conv, channels, (1, 1))
        h = self.norm(name="norm")(x)
        query, key, value = (
            project(dtype=self.dtype, name=name)(h).reshape(batch, tokens, 1, channels)
            for name in ("query", "key", "value")
        )
        if tokens * tokens <= LARGEST_SCORES:
            h = attention(query, key, value)
        else:

            def one(query: jax.Array) -> jax.Array:  # one position of every image: [B, 1, C]
                return attention(query[:, None], key, value)[:, 0]

            h = jax.lax.map(jax.checkpoint(one), query.swapaxes(0, 1), batch_size=max(1, LARGEST_SCORES // tokens))
            h = h.swapaxes(0, 1)
        return x + project(dtype=self.dtype, name="project")(h.reshape(x.shape))


class Middle(nn.Module):
    """Residual block, attention, residual block: [B, H, W, C] → the same; attributes as PositionAttention."""

    dtype: Dtype = jnp.float32
    norm: Callable[..., nn.Module] = Norm
    dense: bool = False

    @nn.compact
    def __call__(self, h: jax.Array) -> jax.Array:
        """Apply the layers."""
        h = ResidualBlock(h.shape[-1], self.dtype, self.norm, name="block_1")(h)
        h = PositionAttention(self.dtype, self.norm, self.dense, name="attention_1")(h)
        return ResidualBlock(h.shape[-1], self.dtype, self.norm, name="block_2")(h)


class Encoder(nn.Module):
    """Image to latent, without a 1x1 convolution behind it.

    Attributes:
      channels: width of the finest level.
      multipliers: width of each level as a multiple of it; each level but one halves the side.
      blocks: residual blocks of each level.
      attention_levels: levels whose blocks are each followed by attention (the middle always has it).
      latent_channels: of the result.
      dtype: compute dtype; parameters, norms, softmax and the result are float32.
      norm: makes every norm.
      dense: of the attention, see PositionAttention.
    """

    channels: int
    multipliers: tuple[int, ...]
    blocks: int
    attention_levels: tuple[int, ...]
    latent_channels: int
    dtype: Dtype = jnp.float32
    norm: Callable[..., nn.Module] = Norm
    dense: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, H, W, 3] → [B, H / 2^(L - 1), W / 2^(L - 1), latent_channels] float32."""
        h = nn.Conv(self.channels, (3, 3), dtype=self.dtype, name="conv_in")(x.astype(self.dtype))
        for level, multiplier in enumerate(self.multipliers):
            for index in range(self.blocks):
                h = ResidualBlock(
                    self.channels * multiplier, self.dtype, self.norm, name=f"down_{level}_block_{index}"
                )(h)
                if level in self.attention_levels:
                    h = PositionAttention(self.dtype, self.norm, self.dense, name=f"down_{level}_attention_{index}")(h)
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
        h = nn.silu(self.norm(name="norm_out")(Middle(self.dtype, self.norm, self.dense, name="middle")(h)))
        return nn.Conv(self.latent_channels, (3, 3), name="conv_out")(h.astype(jnp.float32))


class Decoder(nn.Module):
    """Latent to image, without a 1x1 convolution before it; one block more a level than the Encoder.

    Attributes:
      channels, multipliers, blocks, attention_levels, dtype, norm, dense: as of the Encoder.
      coarsest_first: whether `up_0` is the coarsest level, as diffusers counts, or the finest. Of names alone.
    """

    channels: int
    multipliers: tuple[int, ...]
    blocks: int
    attention_levels: tuple[int, ...]
    dtype: Dtype = jnp.float32
    norm: Callable[..., nn.Module] = Norm
    dense: bool = False
    coarsest_first: bool = False

    @nn.compact
    def __call__(self, z: jax.Array) -> jax.Array:
        """[B, H, W, C] → [B, 2^(L - 1) H, 2^(L - 1) W, 3] float32."""
        width, last = self.channels * self.multipliers[-1], len(self.multipliers) - 1
        h = nn.Conv(width, (3, 3), dtype=self.dtype, name="conv_in")(z.astype(self.dtype))
        h = Middle(self.dtype, self.norm, self.dense, name="middle")(h)
        for level in reversed(range(len(self.multipliers))):
            place = last - level if self.coarsest_first else level
            width = self.channels * self.multipliers[level]
            for index in range(self.blocks + 1):
                h = ResidualBlock(width, self.dtype, self.norm, name=f"up_{place}_block_{index}")(h)
                if level in self.attention_levels:
                    h = PositionAttention(self.dtype, self.norm, self.dense, name=f"up_{place}_attention_{index}")(h)
            if level:
                h = nn.Conv(width, (3, 3), dtype=self.dtype, name=f"up_{place}_to_fine")(enlarge_nearest(h))
        h = nn.silu(self.norm(name="norm_out")(h))
        return nn.Conv(3, (3, 3), name="conv_out")(h.astype(jnp.float32))
