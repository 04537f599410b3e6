"""Encoder and decoder of the autoencoders of latent diffusion: residual levels, and attention at the coarsest one.

Esser et al., "Taming Transformers for High-Resolution Image Synthesis" (CVPR 2021). The vector-quantised autoencoder of
ResShift and the Gaussian ones of Stable Diffusion share this encoder and decoder.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp

from framer_jax.models.layers import Dtype, GroupNorm, ResidualBlock, attention
from framer_jax.models.resampling import upsampling_conv

Norm = partial(GroupNorm, epsilon=1e-6)

LARGEST_SCORES = 2**24
"""Largest number of pairwise scores that are held at once; more are computed in chunks."""


def blocks_of(blocks: int | tuple[int, ...], level: int) -> int:
    """Residual blocks of a level."""
    return blocks if isinstance(blocks, int) else blocks[level]


class PositionAttention(nn.Module):
    """Self-attention over all positions of a map, with a skip.

    Attributes:
      dtype: compute dtype.
      norm: constructor of the norm.
      dense: whether the projections are linear layers instead of 1x1 convolutions: the same function, with kernels of
        other shapes.
      heads: number of heads; it must divide the number of channels.
    """

    dtype: Dtype = jnp.float32
    norm: Callable[..., nn.Module] = Norm
    dense: bool = False
    heads: int = 1

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, H, W, C] → [B, H, W, C]."""
        batch, height, width, channels = x.shape
        tokens = height * width
        project = partial(nn.Dense, channels) if self.dense else partial(nn.Conv, channels, (1, 1))
        h = self.norm(name="norm")(x)
        query, key, value = (
            project(dtype=self.dtype, name=name)(h).reshape(batch, tokens, self.heads, channels // self.heads)
            for name in ("query", "key", "value")
        )
        if tokens * tokens <= LARGEST_SCORES:
            h = attention(query, key, value)
        else:

            def attend(query: jax.Array) -> jax.Array:  # one position of every image: [B, heads, C / heads]
                return attention(query[:, None], key, value)[:, 0]

            h = jax.lax.map(jax.checkpoint(attend), query.swapaxes(0, 1), batch_size=max(1, LARGEST_SCORES // tokens))
            h = h.swapaxes(0, 1)
        return x + project(dtype=self.dtype, name="project")(h.reshape(x.shape))


class Middle(nn.Module):
    """Residual block, attention, residual block. Attributes: see PositionAttention."""

    dtype: Dtype = jnp.float32
    norm: Callable[..., nn.Module] = Norm
    dense: bool = False

    @nn.compact
    def __call__(self, h: jax.Array) -> jax.Array:
        """[B, H, W, C] → [B, H, W, C]."""
        h = ResidualBlock(h.shape[-1], self.dtype, self.norm, name="block_1")(h)
        h = PositionAttention(self.dtype, self.norm, self.dense, name="attention_1")(h)
        return ResidualBlock(h.shape[-1], self.dtype, self.norm, name="block_2")(h)


class Encoder(nn.Module):
    """Image to latent; the 1x1 convolution that may follow is not part of it.

    Attributes:
      channels: width of the finest level.
      multipliers: width of each level as a multiple of `channels`; each level but the last halves the side.
      blocks: residual blocks per level: one number, or one for each level.
      attention_levels: levels whose blocks are each followed by attention (the middle always has it).
      latent_channels: channels of the output.
      dtype: compute dtype; parameters, norms, softmax and the output are float32.
      norm: constructor of every norm.
      dense: see PositionAttention.
    """

    channels: int
    multipliers: tuple[int, ...]
    blocks: int | tuple[int, ...]
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
            for index in range(blocks_of(self.blocks, level)):
                h = ResidualBlock(
                    self.channels * multiplier, self.dtype, self.norm, name=f"down_{level}_block_{index}"
                )(h)
                if level in self.attention_levels:
                    h = PositionAttention(self.dtype, self.norm, self.dense, name=f"down_{level}_attention_{index}")(h)
            if level < len(self.multipliers) - 1:
                # Zero padding after the last row and column only.
                downsample = nn.Conv(
                    h.shape[-1],
                    (3, 3),
                    (2, 2),
                    padding=((0, 1), (0, 1)),
                    dtype=self.dtype,
                    name=f"down_{level}_to_coarse",
                )
                h = downsample(h)
        h = nn.silu(self.norm(name="norm_out")(Middle(self.dtype, self.norm, self.dense, name="middle")(h)))
        return nn.Conv(self.latent_channels, (3, 3), name="conv_out")(h.astype(jnp.float32))


class Decoder(nn.Module):
    """Latent to image, with one block more per level than the Encoder; no 1x1 convolution precedes it.

    Attributes:
      channels, multipliers, blocks, attention_levels, dtype, norm, dense: see Encoder.
      coarsest_first: whether `up_0` names the coarsest level, as in diffusers, or the finest; it changes names only.
    """

    channels: int
    multipliers: tuple[int, ...]
    blocks: int | tuple[int, ...]
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
            number = last - level if self.coarsest_first else level
            width = self.channels * self.multipliers[level]
            for index in range(blocks_of(self.blocks, level) + 1):
                h = ResidualBlock(width, self.dtype, self.norm, name=f"up_{number}_block_{index}")(h)
                if level in self.attention_levels:
                    h = PositionAttention(self.dtype, self.norm, self.dense, name=f"up_{number}_attention_{index}")(h)
            if level:
                h = upsampling_conv(width, self.dtype, f"up_{number}_to_fine")(h)
        h = nn.silu(self.norm(name="norm_out")(h))
        return nn.Conv(3, (3, 3), name="conv_out")(h.astype(jnp.float32))
