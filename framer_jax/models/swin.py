"""Attention in shifted windows, as the denoiser of ResShift and SwinIR use it.

Liu et al., "Swin Transformer: Hierarchical Vision Transformer using Shifted Windows" (ICCV 2021). In ResShift's layer
two things differ from the paper: the norms are group norms over the whole map, and a layer replaces its input (no skip
around it).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from framer_jax.models.layers import Dtype, GroupNorm

MASKS = ("released", "correct")
"""How a shifted layer keeps apart what the shift brings together."""

SEPARATION = -100.0
"""What is added to the logit of two tokens that shall not see each other."""


def relative_index(window: int) -> np.ndarray:
    """[N, N] int32, N = window²: which row of the bias table serves a query token (first axis) and a key token."""
    row, column = (axis.reshape(-1) for axis in np.mgrid[:window, :window])
    down = row[:, None] - row[None, :] + window - 1
    right = column[:, None] - column[None, :] + window - 1
    return (down * (2 * window - 1) + right).astype(np.int32)


def separated(rows: int, columns: int, window: int, shift: int, kind: str) -> jax.Array:
    """Which tokens must not see each other in a map that was rolled by -shift.

    The last row (and column) of windows then holds tokens of two ends of the map.

    Args:
      rows: of windows.
      columns: of windows.
      window: side in tokens.
      shift: in tokens, 0 < shift < window.
      kind: 'correct' keeps the two ends apart in the last row and in the last column of windows. 'released' is what
        the published models were trained with: in the last ROW of windows it keeps apart token COLUMNS, and nothing
        else is kept apart. (Their mask was written along the wrong axes of its array.)

    Returns:
      [rows, columns or 1, N, N] bool, N = window².
    """
    wrapped = np.arange(window) >= window - shift
    by_row, by_column = np.repeat(wrapped, window), np.tile(wrapped, window)  # [N] each
    apart_rows, apart_columns = (jnp.asarray(end[:, None] != end[None, :])[None, None] for end in (by_row, by_column))
    last_row = jnp.arange(rows)[:, None, None, None] == rows - 1
    if kind == "released":
        return last_row & apart_columns
    last_column = jnp.arange(columns)[None, :, None, None] == columns - 1
    return (last_row & apart_rows) | (last_column & apart_columns)


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


def linear(features: int, dtype: Dtype, name: str) -> Callable[[jax.Array], jax.Array]:
    """`nn.Dense` of the last axis as one product of two matrices: [..., C] → [..., features].

    The gradient of a product over several leading axes is much slower on XLA:CPU: 1.24 times for a step of a SwinIR.
    """
    dense = nn.Dense(features, dtype=dtype, name=name)
    return lambda x: dense(x.reshape(-1, x.shape[-1])).reshape(*x.shape[:-1], features)


class WindowAttention(nn.Module):
    """Multi-head attention within windows, with a learned bias per relative position; softmax in float32.

    Attributes:
      heads: they share the channels evenly.
      window: side of a window.
      shift: the map is rolled by this much before it is cut, and back afterwards; 0 for neither.
      mask: see `separated`.
      dtype: compute dtype.
    """

    heads: int
    window: int
    shift: int
    mask: str
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, H, W, C] → [B, H, W, C], sides multiples of the window."""
        if self.shift:
            x = jnp.roll(x, (-self.shift, -self.shift), axis=(1, 2))
        x = to_windows(x, self.window)
        batch, rows, columns, tokens, channels = x.shape  # [B, R, S, N, C]
        width = channels // self.heads
        qkv = linear(3 * channels, dtype=self.dtype, name="qkv")(x)
        # One copy lays the heads before the tokens; both products then take their matrices as they lie.
        qkv = qkv.reshape(batch, rows * columns, tokens, 3, self.heads, width).transpose(3, 0, 1, 4, 2, 5)
        query, key, value = qkv[0], qkv[1], qkv[2]  # [B, R S, heads, N, D] each
        query = query * jnp.asarray(width**-0.5, self.dtype)
        logits = jnp.einsum("bwhnd,bwhmd->bwhnm", query, key, preferred_element_type=jnp.float32)
        logits = logits + self._bias(rows, columns)[None]  # [B, R S, heads, N, N]
        # Divided by its sum after the product with the values: D numbers a token instead of N.
        weights = jnp.exp(logits - jax.lax.stop_gradient(logits.max(axis=-1, keepdims=True)))
        total = weights.sum(axis=-1, keepdims=True)
        weights = weights.astype(self.dtype)
        mixed = jnp.einsum("bwhnm,bwhmd->bwhnd", weights, value, preferred_element_type=jnp.float32) / total
        x = mixed.astype(self.dtype).transpose(0, 1, 3, 2, 4).reshape(x.shape)
        x = from_windows(linear(channels, dtype=self.dtype, name="project")(x), self.window)
        return jnp.roll(x, (self.shift, self.shift), axis=(1, 2)) if self.shift else x

    def _bias(self, rows: int, columns: int) -> jax.Array:
        """What is added to the logits: [R S or 1, heads, N, N] float32, the learned bias and, if shifted, the mask."""
        tokens = self.window**2
        table = self.param("bias_table", nn.initializers.normal(0.02), ((2 * self.window - 1) ** 2, self.heads))
        bias = table[relative_index(self.window).reshape(-1)].reshape(tokens, tokens, self.heads)
        bias = bias.transpose(2, 0, 1)[None]
        if not self.shift:
            return bias
        apart = separated(rows, columns, self.window, self.shift, self.mask)
        mask = jnp.where(apart, jnp.float32(SEPARATION), jnp.float32(0.0))
        return bias + jnp.broadcast_to(mask, (rows, columns, tokens, tokens)).reshape(-1, 1, tokens, tokens)


class SwinBlock(nn.Module):
    """Attention and a perceptron, each behind a norm and with a skip around it.

    Attributes:
      heads, window, shift, mask, dtype: see WindowAttention.
      mlp_ratio: width of the perceptron as a multiple of the channels.
      norm: makes both norms.
      pointwise: makes both layers of the perceptron, a linear map of each position's channels.
    """

    heads: int
    window: int
    shift: int
    mlp_ratio: int
    mask: str
    dtype: Dtype = jnp.float32
    norm: Callable[..., nn.Module] = GroupNorm
    pointwise: Callable[..., Callable[[jax.Array], jax.Array]] = partial(nn.Conv, kernel_size=(1, 1))

    @nn.compact
    def __call__(self, x: jax.Array, keep: jax.Array | None = None) -> jax.Array:
        """Apply the block.

        Args:
          x: [B, H, W, C], sides multiples of the window.
          keep: [2, B] float32, factors of what the attention and the perceptron add (stochastic depth); None for 1.

        Returns:
          [B, H, W, C].
        """
        channels = x.shape[-1]
        first, second = (1.0, 1.0) if keep is None else keep.astype(self.dtype)[:, :, None, None, None]
        attention = WindowAttention(self.heads, self.window, self.shift, self.mask, self.dtype, name="attention")
        x = x + first * attention(self.norm(name="norm_0")(x))
        h = self.pointwise(self.mlp_ratio * channels, dtype=self.dtype, name="mlp_0")(self.norm(name="norm_1")(x))
        return x + second * self.pointwise(channels, dtype=self.dtype, name="mlp_1")(nn.gelu(h, approximate=False))


class SwinLayer(nn.Module):
    """1x1 convolution to the layer's own width - Swin blocks - 1x1 convolution back. It replaces its input.

    Attributes:
      channels: the layer's own width.
      blocks: how many; every second one shifts its windows by half a window if `shifted`.
      heads, window, mlp_ratio, mask, dtype: see SwinBlock, WindowAttention and `separated`.
    """

    channels: int
    blocks: int
    heads: int
    window: int
    shifted: bool
    mlp_ratio: int
    mask: str
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, H, W, C] → [B, H, W, C], sides multiples of the window."""
        h = nn.Conv(self.channels, (1, 1), dtype=self.dtype, name="conv_in")(x)
        for index in range(self.blocks):
            shift = self.window // 2 if self.shifted and index % 2 else 0
            h = SwinBlock(self.heads, self.window, shift, self.mlp_ratio, self.mask, self.dtype, name=f"block_{index}")(
                h
            )
        return nn.Conv(x.shape[-1], (1, 1), dtype=self.dtype, name="conv_out")(h)
