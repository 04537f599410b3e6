"""Layers that several denoisers share. Norms and softmax run in float32 whatever the compute dtype."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

Dtype = jnp.dtype | type


def sinusoidal_embedding(t: jax.Array, width: int, max_period: float = 10_000.0) -> jax.Array:
    """Cosines then sines of t at geometrically spaced frequencies.

    Args:
      t: [B] float32, in whatever unit the process uses.
      width: even number of features.
      max_period: the longest period, in units of t / 2π.

    Returns:
      [B, width] float32.
    """
    half = width // 2
    frequencies = np.exp(-np.log(max_period) * np.arange(half) / half).astype(np.float32)
    angle = t.astype(jnp.float32)[:, None] * frequencies[None, :]
    return jnp.concatenate([jnp.cos(angle), jnp.sin(angle)], axis=-1)


def position_table(height: int, width: int, features: int) -> np.ndarray:
    """Fixed 2-D sine-cosine positions of a token grid of any size: [height * width, features] float32.

    The first half of the features tells the row, the second the column; `features` must be a multiple of 4.
    """
    if features % 4:
        raise ValueError(f"2-D positions need a width that is a multiple of 4, not {features}")
    quarter = features // 4
    frequencies = 1.0 / 10_000 ** (np.arange(quarter) / quarter)

    def axis(count: int) -> np.ndarray:
        angle = np.arange(count)[:, None] * frequencies[None, :]
        return np.concatenate([np.sin(angle), np.cos(angle)], axis=1)

    rows = np.repeat(axis(height), width, axis=0)
    columns = np.tile(axis(width), (height, 1))
    return np.concatenate([rows, columns], axis=1).astype(np.float32)


class ChannelNorm(nn.Module):
    """LayerNorm over the channels of each position, in float32.

    It looks at one position only, so the result of a tile does not depend on the rest of the picture (a group norm's
    would).
    """

    affine: bool = True
    epsilon: float = 1e-6

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[..., C] → [..., C] in the dtype of x."""
        wide = x.astype(jnp.float32)
        centred = wide - wide.mean(axis=-1, keepdims=True)
        normal = centred * jax.lax.rsqrt((centred * centred).mean(axis=-1, keepdims=True) + self.epsilon)
        if self.affine:
            shape = (1,) * (x.ndim - 1) + (x.shape[-1],)
            normal = normal * self.param("scale", nn.initializers.ones, (x.shape[-1],)).reshape(shape)
            normal = normal + self.param("bias", nn.initializers.zeros, (x.shape[-1],)).reshape(shape)
        return normal.astype(x.dtype)


class TimeEmbedding(nn.Module):
    """Sinusoids of t through a two-layer perceptron: [B] → [B, width]."""

    width: int
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, t: jax.Array) -> jax.Array:
        """Embed the times of a batch."""
        h = sinusoidal_embedding(t, self.width).astype(self.dtype)
        h = nn.Dense(self.width, dtype=self.dtype, name="dense_0")(h)
        return nn.Dense(self.width, dtype=self.dtype, name="dense_1")(nn.silu(h))


def attention(query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
    """Softmax attention, softmax in float32: query [B, N, heads, D], key and value [B, M, heads, D] → like query."""
    # JAX's own function mixes dtypes on purpose, which a strict session would refuse.
    with jax.numpy_dtype_promotion("standard"):
        return jax.nn.dot_product_attention(query, key, value)
