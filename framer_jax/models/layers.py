"""Layers that several denoisers share. Norms and softmax run in float32 whatever the compute dtype."""

from __future__ import annotations

from collections.abc import Callable

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


class RmsNorm(nn.Module):
    """Division by the root mean square over the last axis, in float32, with a factor per channel.

    Zhang and Sennrich, "Root Mean Square Layer Normalization" (NeurIPS 2019).
    """

    epsilon: float = 1e-6

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[..., C] → [..., C] in the dtype of x."""
        wide = x.astype(jnp.float32)
        normal = wide * jax.lax.rsqrt((wide * wide).mean(axis=-1, keepdims=True) + self.epsilon)
        scale = self.param("scale", nn.initializers.ones, (x.shape[-1],)).astype(jnp.float32)
        return (normal * scale.reshape((1,) * (x.ndim - 1) + scale.shape)).astype(x.dtype)


MOMENTS = "moments"
"""The collection of means and variances, [2, B, 1, 1, groups, 1], that a GroupNorm uses instead of its input's own;
among 'intermediates', those that it has used. They let the tiles of an image be normed as one."""


class GroupNorm(nn.Module):
    """Norm over all positions of a group of neighbouring channels, in float32, with an affine map per channel."""

    groups: int = 32
    epsilon: float = 1e-5

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, H, W, C] → [B, H, W, C] in the dtype of x; C must be a multiple of `groups`."""
        batch, height, width, channels = x.shape
        if channels % self.groups:
            raise ValueError(f"a group norm of {self.groups} groups needs a multiple of them, not {channels} channels")
        wide = x.astype(jnp.float32).reshape(batch, height, width, self.groups, channels // self.groups)
        if self.has_variable(MOMENTS, MOMENTS):
            given: jax.Array = self.get_variable(MOMENTS, MOMENTS)
            mean, variance = given[0], given[1]
            centred = wide - mean
        else:
            # Centred before it is squared: E[x²] - E[x]² loses digits where the mean is large.
            mean = wide.mean(axis=(1, 2, 4), keepdims=True)
            centred = wide - mean
            variance = (centred * centred).mean(axis=(1, 2, 4), keepdims=True)
        used = jnp.stack([mean, variance])
        self.sow("intermediates", MOMENTS, used, init_fn=lambda: None, reduce_fn=lambda _, value: value)
        normal = (centred * jax.lax.rsqrt(variance + self.epsilon)).reshape(x.shape)
        normal = normal * self.param("scale", nn.initializers.ones, (channels,))[None, None, None, :]
        normal = normal + self.param("bias", nn.initializers.zeros, (channels,))[None, None, None, :]
        return normal.astype(x.dtype)


class ResidualBlock(nn.Module):
    """norm - SiLU - conv - norm, with scale and shift from the time - SiLU - zero-initialised conv, plus a skip.

    Attributes:
      channels: of the result; the skip is a 1x1 convolution where x has another number of them.
      dtype: compute dtype.
      norm: makes both norms.
    """

    channels: int
    dtype: Dtype = jnp.float32
    norm: Callable[..., nn.Module] = ChannelNorm

    @nn.compact
    def __call__(self, x: jax.Array, time: jax.Array | None = None) -> jax.Array:
        """X [B, H, W, C], time [B, E] or None for a network without times → [B, H, W, channels]."""
        h = nn.silu(self.norm(name="norm_0")(x))
        h = nn.Conv(self.channels, (3, 3), dtype=self.dtype, name="conv_0")(h)  # [B, H, W, channels]
        h = self.norm(name="norm_1")(h)
        if time is not None:
            film = nn.Dense(2 * self.channels, dtype=self.dtype, name="film")(nn.silu(time))[:, None, None, :]
            scale, shift = jnp.split(film, 2, axis=-1)  # [B, 1, 1, channels]
            h = h * (scale + 1) + shift
        h = nn.Conv(self.channels, (3, 3), dtype=self.dtype, kernel_init=nn.initializers.zeros, name="conv_1")(
            nn.silu(h)
        )
        if x.shape[-1] != self.channels:
            x = nn.Conv(self.channels, (1, 1), dtype=self.dtype, name="skip")(x)
        return x + h


class TimeEmbedding(nn.Module):
    """Sinusoids of t through a two-layer perceptron: [B] → [B, width].

    Attributes:
      width: of the result.
      dtype: compute dtype.
      sinusoids: how many enter, `width` if None.
    """

    width: int
    dtype: Dtype = jnp.float32
    sinusoids: int | None = None

    @nn.compact
    def __call__(self, t: jax.Array) -> jax.Array:
        """Embed the times of a batch."""
        h = sinusoidal_embedding(t, self.sinusoids or self.width).astype(self.dtype)
        h = nn.Dense(self.width, dtype=self.dtype, name="dense_0")(h)
        return nn.Dense(self.width, dtype=self.dtype, name="dense_1")(nn.silu(h))


def enlarge_nearest(x: jax.Array) -> jax.Array:
    """[B, H, W, C] → [B, 2H, 2W, C], each position four times."""
    return jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2)


ATTENTIONS = ("auto", "xla", "cudnn", "manual")
"""Who computes attention: JAX's function as it chooses itself, by XLA or by cuDNN's fused kernel; or products and a
softmax written out here, which a CPU mostly runs faster."""


def attention(query: jax.Array, key: jax.Array, value: jax.Array, kind: str = "auto") -> jax.Array:
    """Softmax attention, softmax in float32: query [B, N, heads, D], key and value [B, M, heads, D] → like query.

    `kind` is one of `ATTENTIONS`; cuDNN's takes float16 and bfloat16 only.
    """
    if kind == "manual":
        return _written_out(query, key, value)
    # JAX's own function mixes dtypes on purpose, which a strict session would refuse.
    with jax.numpy_dtype_promotion("standard"):
        return jax.nn.dot_product_attention(query, key, value, implementation=None if kind == "auto" else kind)  # type: ignore[arg-type]


def _written_out(query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
    scaled = query * jnp.asarray(query.shape[-1] ** -0.5, query.dtype)
    logits = jnp.einsum("bnhd,bmhd->bhnm", scaled, key, preferred_element_type=jnp.float32)
    # Divided by its sum after the product with the values: D numbers a token instead of M.
    weights = jnp.exp(logits - jax.lax.stop_gradient(logits.max(axis=-1, keepdims=True)))
    total = weights.sum(axis=-1).transpose(0, 2, 1)[..., None]  # [B, N, heads, 1]
    mixed = jnp.einsum("bhnm,bmhd->bnhd", weights.astype(value.dtype), value, preferred_element_type=jnp.float32)
    return (mixed / total).astype(query.dtype)


def local_contrast(x: jax.Array) -> jax.Array:
    """[B, H, W, C] → the difference to the mean of each 3x3 neighbourhood."""
    return x - nn.avg_pool(x, (3, 3), padding="SAME", count_include_pad=False)
