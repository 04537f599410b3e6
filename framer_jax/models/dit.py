"""A small diffusion transformer with adaLN-zero and LR tokens.

After Peebles and Xie, "Scalable Diffusion Models with Transformers" (2023), with the LR image as further tokens of the
same sequence. One tap per block: its noise tokens as a map; the last one is FRAMER's teacher.
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from framer_jax.knobs import check_knobs, knob
from framer_jax.models.denoiser import IMAGE, TAP_KINDS, Condition, Taps, condition_entry
from framer_jax.models.layers import Dtype, LayerNorm, TimeEmbedding, attention, position_table


class Block(nn.Module):
    """adaLN-zero block: gated self-attention and gated MLP, both the identity at initialisation."""

    heads: int
    mlp_ratio: int = 4
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, tokens: jax.Array, time: jax.Array) -> jax.Array:
        """Tokens [B, N, W], time [B, W] → [B, N, W]."""
        batch, count, width = tokens.shape
        modulation = nn.Dense(6 * width, dtype=self.dtype, kernel_init=nn.initializers.zeros, name="modulation")
        parts = jnp.split(modulation(nn.silu(time))[:, None, :], 6, axis=-1)  # six of [B, 1, W]
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = parts
        h = LayerNorm(affine=False)(tokens) * (scale_a + 1) + shift_a
        qkv = nn.Dense(3 * width, dtype=self.dtype, name="qkv")(h)
        qkv = qkv.reshape(batch, count, 3, self.heads, width // self.heads)
        h = attention(qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2])  # [B, N, heads, W / heads]
        h = nn.Dense(width, dtype=self.dtype, name="attention_out")(h.reshape(batch, count, width))
        tokens = tokens + gate_a * h
        h = LayerNorm(affine=False)(tokens) * (scale_m + 1) + shift_m
        h = nn.gelu(nn.Dense(self.mlp_ratio * width, dtype=self.dtype, name="mlp_in")(h))
        return tokens + gate_m * nn.Dense(width, dtype=self.dtype, name="mlp_out")(h)


class Head(nn.Module):
    """adaLN, then a zero-initialised projection of each token to its patch, in float32."""

    out_features: int

    @nn.compact
    def __call__(self, tokens: jax.Array, time: jax.Array) -> jax.Array:
        """Tokens [B, N, W], time [B, W] → [B, N, out_features]."""
        width = tokens.shape[-1]
        modulation = nn.Dense(2 * width, kernel_init=nn.initializers.zeros, name="modulation")
        shift, scale = jnp.split(modulation(nn.silu(time.astype(jnp.float32)))[:, None, :], 2, axis=-1)
        h = LayerNorm(affine=False)(tokens.astype(jnp.float32)) * (scale + 1) + shift
        return nn.Dense(self.out_features, kernel_init=nn.initializers.zeros, name="projection")(h)


class DiffusionTransformer(nn.Module):
    """The denoiser; sides of x must be multiples of the patch. Its knobs are documented where they are defined.

    Attributes:
      out_channels: channels of the prediction.
      dtype: compute dtype; parameters are float32.
    """

    out_channels: int
    width: int = knob(96, "Token width, a multiple of 4 and of heads.", at_least=4, at_most=65536)
    depth: int = knob(6, "Number of blocks.", at_least=1, at_most=1000)
    heads: int = knob(4, "Number of attention heads.", at_least=1, at_most=1024)
    patch: int = knob(2, "Side of a token's patch.", unit="latent positions", at_least=1, at_most=64)
    taps: str = knob(
        "hidden",
        "What FRAMER compares: hidden (the noise tokens after each block) or prediction (these through the network's "
        "own head).",
        choices=TAP_KINDS,
    )
    dtype: Dtype = jnp.float32

    def __post_init__(self) -> None:
        check_knobs(self)
        if self.width % 4 or self.width % self.heads:
            raise ValueError(f"width is {self.width}: it must be a multiple of 4 and of heads ({self.heads})")
        super().__post_init__()

    @property
    def tap_count(self) -> int:
        """One tap per block."""
        return self.depth

    @property
    def downsampling(self) -> int:
        """The condition image lies on the grid of the latents."""
        return 1

    @property
    def size_multiple(self) -> int:
        """Sides of the latents must be multiples of this."""
        return self.patch

    @nn.compact
    def __call__(self, x: jax.Array, t: jax.Array, condition: Condition) -> tuple[jax.Array, Taps]:
        """Predict from noisy latents.

        Args:
          x: [B, H, W, C] float32 noisy latents, of about unit variance.
          t: [B] float32 times.
          condition: 'image', [B, H, W, D] float32, on the grid of the latents.

        Returns:
          prediction [B, H, W, out_channels] float32, and `depth` taps: [B, H / patch, W / patch, width] if hidden,
          [B, H, W, out_channels] if predictions.

        Raises:
          ValueError: H or W is not a multiple of the patch, or the condition lacks its image.
        """
        image = condition_entry(condition, IMAGE)
        height, width = x.shape[1:3]
        if height % self.patch or width % self.patch:
            raise ValueError(f"the transformer needs sides that are multiples of {self.patch}, got {(height, width)}")
        grid = (height // self.patch, width // self.patch)
        count = grid[0] * grid[1]
        positions = jnp.asarray(position_table(*grid, self.width), self.dtype)[None]
        time = TimeEmbedding(self.width, self.dtype, name="time")(t)  # [B, width]
        tokens = self._embed(x, "embed") + positions  # [B, N, width]
        # Marks the LR tokens; the name is that of published weights.
        mark = self.param("condition_mark", nn.initializers.normal(0.02), (self.width,))
        lr_tokens = self._embed(image, "embed_condition") + positions + mark.astype(self.dtype).reshape(1, 1, -1)
        tokens = jnp.concatenate([tokens, lr_tokens], axis=1)  # [B, 2 N, width]
        head = Head(self.patch * self.patch * self.out_channels, name="head")
        taps = []
        for index in range(self.depth):
            tokens = Block(self.heads, dtype=self.dtype, name=f"block_{index}")(tokens, time)
            noise_tokens = tokens[:, :count]
            if self.taps == "hidden":
                taps.append(noise_tokens.reshape(x.shape[0], *grid, self.width))
            else:
                taps.append(from_patches(head(noise_tokens, time), grid, self.patch))
        if self.taps == "prediction":
            return taps[-1], tuple(taps)
        return from_patches(head(tokens[:, :count], time), grid, self.patch), tuple(taps)

    def _embed(self, image: jax.Array, name: str) -> jax.Array:
        patches = to_patches(image, self.patch).astype(self.dtype)
        return nn.Dense(self.width, dtype=self.dtype, name=name)(patches)


def to_patches(x: jax.Array, patch: int) -> jax.Array:
    """[B, H, W, C] → [B, (H / p) (W / p), p p C]."""
    batch, height, width, channels = x.shape
    x = x.reshape(batch, height // patch, patch, width // patch, patch, channels).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(batch, (height // patch) * (width // patch), patch * patch * channels)


def from_patches(tokens: jax.Array, grid: tuple[int, int], patch: int) -> jax.Array:
    """The inverse of `to_patches`: [B, N, p p C] → [B, H, W, C]."""
    batch, _, features = tokens.shape
    channels = features // (patch * patch)
    x = tokens.reshape(batch, *grid, patch, patch, channels).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(batch, grid[0] * patch, grid[1] * patch, channels)
