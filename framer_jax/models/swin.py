"""Attention in shifted windows, for SwinIR and the denoiser of ResShift.

Liu et al., "Swin Transformer: Hierarchical Vision Transformer using Shifted Windows" (ICCV 2021). ResShift's layer
differs from the paper in two points: the norms are group norms over the whole map, and the layer has no skip.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from framer_jax.models.layers import Dtype, GroupNorm

VARIANTS = ("released", "correct")
"""Variants of the shifted-window mask, see `shifted_window_mask`."""

MASKED_LOGIT = -100.0
"""Added to the logits of pairs of tokens that must not attend to each other."""


def relative_index(window: int) -> np.ndarray:
    """Row of the bias table for each query token (first axis) and key token: [N, N] int32, N = window²."""
    row, column = (axis.reshape(-1) for axis in np.mgrid[:window, :window])
    down = row[:, None] - row[None, :] + window - 1
    right = column[:, None] - column[None, :] + window - 1
    return (down * (2 * window - 1) + right).astype(np.int32)


def shifted_window_mask(rows: int, columns: int, window: int, shift: int, variant: str) -> jax.Array:
    """Pairs of tokens that must not attend to each other in a map that was rolled by -shift.

    After the roll, the last row (and column) of windows holds tokens from opposite ends of the map.

    Args:
      rows: number of rows of windows.
      columns: number of columns of windows.
      window: side of a window, in tokens.
      shift: in tokens, 0 < shift < window.
      variant: 'correct' separates the two ends in the last row and in the last column of windows. 'released' is what
        the published models were trained with: it separates token COLUMNS in the last ROW of windows, and nothing else.
        (The released code writes the mask along the wrong axes of its array.)

    Returns:
      [rows, columns or 1, N, N] bool, N = window².
    """
    wrapped = np.arange(window) >= window - shift
    by_row, by_column = np.repeat(wrapped, window), np.tile(wrapped, window)  # [N] each
    differ_in_row, differ_in_column = (
        jnp.asarray(end[:, None] != end[None, :])[None, None] for end in (by_row, by_column)
    )
    last_row = jnp.arange(rows)[:, None, None, None] == rows - 1
    if variant == "released":
        return last_row & differ_in_column
    last_column = jnp.arange(columns)[None, :, None, None] == columns - 1
    return (last_row & differ_in_row) | (last_column & differ_in_column)


def to_windows(x: jax.Array, window: int) -> jax.Array:
    """[B, H, W, C] → [B, H / window, W / window, window², C]."""
    batch, height, width, channels = x.shape
    x = x.reshape(batch, height // window, window, width // window, window, channels).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(batch, height // window, width // window, window * window, channels)


def from_windows(x: jax.Array, window: int) -> jax.Array:
    """The inverse of `to_windows`."""
    batch, rows, columns, _, channels = x.shape
    x = x.reshape(batch, rows, columns, window, window, channels).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(batch, rows * window, columns * window, channels)


def linear(features: int, dtype: Dtype, name: str, use_bias: bool = True) -> Callable[[jax.Array], jax.Array]:
    """`nn.Dense` computed as one product of two matrices: [..., C] → [..., features].

    On XLA:CPU the gradient of a product over several leading axes is slower: a training step of SwinIR takes 1.24 times
    as long.
    """
    dense = nn.Dense(features, use_bias=use_bias, dtype=dtype, name=name)
    return lambda x: dense(x.reshape(-1, x.shape[-1])).reshape(*x.shape[:-1], features)


def hidden_width(channels: int, ratio: float) -> int:
    """Width of an MLP's hidden layer: `ratio` times the channels, rounded down as in the originals."""
    return int(channels * ratio + 1e-9)  # a ratio that was computed from the two widths gives the same width again


class WindowAttention(nn.Module):
    """Multi-head attention within windows, with a learned bias per relative position; softmax in float32.

    Attributes:
      heads: number of heads, a divisor of the number of channels.
      window: side of a window.
      shift: the map is rolled by -shift before it is split into windows, and back afterwards; 0 for no shift.
      variant: see `shifted_window_mask`.
      dtype: compute dtype.
      qkv_bias: whether the projections of queries, keys and values have a bias.
    """

    heads: int
    window: int
    shift: int
    variant: str
    dtype: Dtype = jnp.float32
    qkv_bias: bool = True

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, H, W, C] → [B, H, W, C], sides multiples of the window."""
        if self.shift:
            x = jnp.roll(x, (-self.shift, -self.shift), axis=(1, 2))
        x = to_windows(x, self.window)
        batch, rows, columns, tokens, channels = x.shape  # [B, R, S, N, C]
        width = channels // self.heads
        qkv = linear(3 * channels, dtype=self.dtype, name="qkv", use_bias=self.qkv_bias)(x)
        # One transposition moves the heads before the tokens, so that both products need no further copies.
        qkv = qkv.reshape(batch, rows * columns, tokens, 3, self.heads, width).transpose(3, 0, 1, 4, 2, 5)
        query, key, value = qkv[0], qkv[1], qkv[2]  # [B, R S, heads, N, D] each
        query = query * jnp.asarray(width**-0.5, self.dtype)
        logits = jnp.einsum("bwhnd,bwhmd->bwhnm", query, key, preferred_element_type=jnp.float32)
        logits = logits + self._bias(rows, columns)[None]  # [B, R S, heads, N, N]
        # The division by the sum follows the product with the values: D divisions per token instead of N.
        weights = jnp.exp(logits - jax.lax.stop_gradient(logits.max(axis=-1, keepdims=True)))
        total = weights.sum(axis=-1, keepdims=True)
        weights = weights.astype(self.dtype)
        attended = jnp.einsum("bwhnm,bwhmd->bwhnd", weights, value, preferred_element_type=jnp.float32) / total
        x = attended.astype(self.dtype).transpose(0, 1, 3, 2, 4).reshape(x.shape)
        x = from_windows(linear(channels, dtype=self.dtype, name="project")(x), self.window)
        return jnp.roll(x, (self.shift, self.shift), axis=(1, 2)) if self.shift else x

    def _bias(self, rows: int, columns: int) -> jax.Array:
        """Learned bias of the logits plus, if shifted, the mask: [R S or 1, heads, N, N] float32."""
        tokens = self.window**2
        table = self.param("bias_table", nn.initializers.normal(0.02), ((2 * self.window - 1) ** 2, self.heads))
        bias = table[relative_index(self.window).reshape(-1)].reshape(tokens, tokens, self.heads)
        bias = bias.transpose(2, 0, 1)[None]
        if not self.shift:
            return bias
        masked = shifted_window_mask(rows, columns, self.window, self.shift, self.variant)
        mask = jnp.where(masked, jnp.float32(MASKED_LOGIT), jnp.float32(0.0))
        return bias + jnp.broadcast_to(mask, (rows, columns, tokens, tokens)).reshape(-1, 1, tokens, tokens)


class SwinBlock(nn.Module):
    """Window attention and an MLP, each preceded by a norm and with a skip.

    Attributes:
      heads, window, shift, variant, dtype: see WindowAttention.
      mlp_ratio: width of the MLP as a multiple of the channels.
      norm: constructor of both norms.
      pointwise: constructor of both layers of the MLP, a linear map of the channels of each position.
      qkv_bias: see WindowAttention.
    """

    heads: int
    window: int
    shift: int
    mlp_ratio: float
    variant: str
    dtype: Dtype = jnp.float32
    norm: Callable[..., nn.Module] = GroupNorm
    pointwise: Callable[..., Callable[[jax.Array], jax.Array]] = partial(nn.Conv, kernel_size=(1, 1))
    qkv_bias: bool = True

    @nn.compact
    def __call__(self, x: jax.Array, drop_mask: jax.Array | None = None) -> jax.Array:
        """Apply the block.

        Args:
          x: [B, H, W, C], sides multiples of the window.
          drop_mask: [2, B] float32, factors of the residual branches of attention and MLP (stochastic depth); None
            stands for ones.

        Returns:
          [B, H, W, C].
        """
        channels = x.shape[-1]
        first, second = (1.0, 1.0) if drop_mask is None else drop_mask.astype(self.dtype)[:, :, None, None, None]
        attention = WindowAttention(
            self.heads, self.window, self.shift, self.variant, self.dtype, self.qkv_bias, name="attention"
        )
        x = x + first * attention(self.norm(name="norm_0")(x))
        hidden = hidden_width(channels, self.mlp_ratio)
        h = self.pointwise(hidden, dtype=self.dtype, name="mlp_0")(self.norm(name="norm_1")(x))
        return x + second * self.pointwise(channels, dtype=self.dtype, name="mlp_1")(nn.gelu(h, approximate=False))


class SwinLayer(nn.Module):
    """1x1 convolution to the width of the layer, Swin blocks, and 1x1 convolution back, without a skip.

    Attributes:
      channels: width of the layer.
      blocks: number of Swin blocks.
      shifted: whether every second block shifts its windows by half a window.
      heads, window, mlp_ratio, variant, dtype: see SwinBlock and WindowAttention.
    """

    channels: int
    blocks: int
    heads: int
    window: int
    shifted: bool
    mlp_ratio: float
    variant: str
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, H, W, C] → [B, H, W, C], sides multiples of the window."""
        h = nn.Conv(self.channels, (1, 1), dtype=self.dtype, name="conv_in")(x)
        for index in range(self.blocks):
            shift = self.window // 2 if self.shifted and index % 2 else 0
            name = f"block_{index}"
            h = SwinBlock(self.heads, self.window, shift, self.mlp_ratio, self.variant, self.dtype, name=name)(h)
        return nn.Conv(x.shape[-1], (1, 1), dtype=self.dtype, name="conv_out")(h)
