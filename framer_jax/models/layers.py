"""Layers that several networks share. Norms and softmax are computed in float32, whatever the compute dtype."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from framer_jax.models.resampling import Dtype, downsample_mean, upsample_nearest, upsampling_conv
from framer_jax.models.splash_attention import splash_attention


def sinusoidal_embedding(t: jax.Array, width: int, max_period: float = 10_000.0) -> jax.Array:
    """Cosines, then sines, of t at geometrically spaced frequencies.

    Args:
      t: [B] float32, in the unit of the diffusion process.
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
    """Fixed 2-D sine-cosine position embeddings of a token grid: [height * width, features] float32.

    The first half of the features encodes the row, the second half the column.

    Raises:
      ValueError: `features` is not a multiple of 4.
    """
    if features % 4:
        raise ValueError(f"2-D position embeddings need a width that is a multiple of 4, not {features}")
    quarter = features // 4
    frequencies = 1.0 / 10_000 ** (np.arange(quarter) / quarter)

    def axis(count: int) -> np.ndarray:
        angle = np.arange(count)[:, None] * frequencies[None, :]
        return np.concatenate([np.sin(angle), np.cos(angle)], axis=1)

    rows = np.repeat(axis(height), width, axis=0)
    columns = np.tile(axis(width), (height, 1))
    return np.concatenate([rows, columns], axis=1).astype(np.float32)


class LayerNorm(nn.Module):
    """LayerNorm over the channels of each position, in float32.

    It uses one position only, so the result of a tile does not depend on the rest of the image, as with a group norm.

    Attributes:
      affine: whether a learned scale and bias per channel follow.
      epsilon: added to the variance.
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
            scale = self.param("scale", nn.initializers.ones, (x.shape[-1],)).astype(jnp.float32)
            bias = self.param("bias", nn.initializers.zeros, (x.shape[-1],)).astype(jnp.float32)
            normal = normal * scale.reshape(shape) + bias.reshape(shape)
        return normal.astype(x.dtype)


class RmsNorm(nn.Module):
    """Division by the root mean square over the last axis, in float32, with a learned scale per channel.

    Zhang and Sennrich, "Root Mean Square Layer Normalization" (NeurIPS 2019).

    Attributes:
      epsilon: added to the mean square.
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
"""The collection of means and variances, [2, B, 1, 1, groups, 1], that a GroupNorm uses instead of its input's
statistics; in 'intermediates', the statistics that it used. They let all tiles of an image share one set of
statistics."""


GROUPS = 32
"""Groups of the GroupNorms of ResShift's and Stable Diffusion's networks."""


class GroupNorm(nn.Module):
    """GroupNorm in float32: statistics over all positions of a group of neighbouring channels.

    A learned scale and bias per channel follow. The collection `MOMENTS` replaces the statistics.

    Attributes:
      groups: number of groups; it must divide the number of channels.
      epsilon: added to the variance.
    """

    groups: int = GROUPS
    epsilon: float = 1e-5

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, H, W, C] → [B, H, W, C] in the dtype of x."""
        batch, _, _, channels = x.shape
        if channels % self.groups:
            raise ValueError(f"{channels} channels cannot be split into {self.groups} groups: use a multiple of it")
        wide = x.astype(jnp.float32)
        grouped = (batch, 1, 1, self.groups, channels // self.groups)

        def group_means(values: jax.Array) -> jax.Array:
            # Means of channels first: XLA:CPU sums them faster than groups, and loses fewer digits.
            return values.mean(axis=(1, 2)).reshape(grouped).mean(axis=-1, keepdims=True)  # [B, 1, 1, groups, 1]

        def of_channels(moment: jax.Array) -> jax.Array:
            return jnp.broadcast_to(moment, grouped).reshape(batch, 1, 1, channels)

        if self.has_variable(MOMENTS, MOMENTS):
            moments: jax.Array = self.get_variable(MOMENTS, MOMENTS)
            mean, variance = moments[0], moments[1]
            centred = wide - of_channels(mean)
        else:
            # The mean is subtracted before squaring: E[x²] - E[x]² loses digits where the mean is large.
            mean = group_means(wide)
            centred = wide - of_channels(mean)
            variance = group_means(centred * centred)
        used = jnp.stack([mean, variance])
        self.sow("intermediates", MOMENTS, used, init_fn=lambda: None, reduce_fn=lambda _, value: value)
        normal = centred * of_channels(jax.lax.rsqrt(variance + self.epsilon))
        scale = self.param("scale", nn.initializers.ones, (channels,)).astype(jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (channels,)).astype(jnp.float32)
        normal = normal * scale[None, None, None, :] + bias[None, None, None, :]
        return normal.astype(x.dtype)


BLOCK_RESAMPLINGS = ("", "down", "up")
"""How a residual block resamples: not at all, to half or to twice the side."""

TIMES = ("scale_shift", "add")
"""How a residual block takes the time: as scale and shift of its second norm, or added to that norm's input."""


class ResidualBlock(nn.Module):
    """Norm, SiLU, convolution, norm with scale and shift from the time, SiLU, zero-initialised convolution, and a skip.

    Attributes:
      channels: output channels; the skip is a 1x1 convolution where x has another number of channels.
      dtype: compute dtype.
      norm: constructor of both norms.
      time: how the time enters, one of `TIMES`.
      resample: one of `BLOCK_RESAMPLINGS`: the first convolution and the skip see means of 2x2 positions ('down'), or
        each position 2x2 times ('up').

    Raises:
      ValueError: `resample` is none of them.
    """

    channels: int
    dtype: Dtype = jnp.float32
    norm: Callable[..., nn.Module] = LayerNorm
    time: str = "scale_shift"
    resample: str = ""

    @nn.compact
    def __call__(self, x: jax.Array, time: jax.Array | None = None) -> jax.Array:
        """X [B, H, W, C], time embedding [B, E] or None → [B, H, W, channels], resampled."""
        if self.resample not in BLOCK_RESAMPLINGS:
            raise ValueError(f"resample is {self.resample!r}: choose one of {BLOCK_RESAMPLINGS}")
        h = nn.silu(self.norm(name="norm_0")(x))
        if self.resample == "down":
            h, x = downsample_mean(h), downsample_mean(x)
        if self.resample == "up":
            h = upsampling_conv(self.channels, self.dtype, "conv_0")(h)  # [B, 2H, 2W, channels]
        else:
            h = nn.Conv(self.channels, (3, 3), dtype=self.dtype, name="conv_0")(h)  # [B, H, W, channels]
        if time is not None and self.time == "add":
            h = h + nn.Dense(self.channels, dtype=self.dtype, name="film")(nn.silu(time))[:, None, None, :]
        h = self.norm(name="norm_1")(h)
        if time is not None and self.time == "scale_shift":
            film = nn.Dense(2 * self.channels, dtype=self.dtype, name="film")(nn.silu(time))[:, None, None, :]
            scale, shift = jnp.split(film, 2, axis=-1)  # [B, 1, 1, channels]
            h = h * (scale + 1) + shift
        h = nn.Conv(self.channels, (3, 3), dtype=self.dtype, kernel_init=nn.initializers.zeros, name="conv_1")(
            nn.silu(h)
        )
        if x.shape[-1] != self.channels:
            x = nn.Conv(self.channels, (1, 1), dtype=self.dtype, name="skip")(x)
        return (upsample_nearest(x) if self.resample == "up" else x) + h


class TimeEmbedding(nn.Module):
    """Sinusoidal features of t through a two-layer MLP: [B] → [B, width].

    Attributes:
      width: features of the embedding.
      dtype: compute dtype.
      sinusoids: number of sinusoidal features, `width` if None.
    """

    width: int
    dtype: Dtype = jnp.float32
    sinusoids: int | None = None

    @nn.compact
    def __call__(self, t: jax.Array) -> jax.Array:
        """Embed [B] times."""
        h = sinusoidal_embedding(t, self.sinusoids or self.width).astype(self.dtype)
        h = nn.Dense(self.width, dtype=self.dtype, name="dense_0")(h)
        return nn.Dense(self.width, dtype=self.dtype, name="dense_1")(nn.silu(h))


ATTENTIONS = ("auto", "xla", "cudnn", "splash", "manual")
"""Implementations of attention.

auto: that of JAX's function, or splash for `MANY_TOKENS` of heads that are not wider than `WIDEST_HEAD`, where the
default backend is a TPU. xla: XLA's of JAX's function. cudnn: on GPUs that of cuDNN, elsewhere xla. splash: on TPUs the
kernel of framer_jax.models.splash_attention, elsewhere xla; also xla where the program may be split over devices in a
way that is not known here (see `_can_be_splash`). manual: explicit products and softmax, mostly faster on a CPU.
"""

KERNEL_BACKENDS = {"cudnn": "gpu", "splash": "tpu"}
"""Kernel → the backend that has it. Elsewhere XLA's attention takes its place, so that weights work on any machine."""

MANY_TOKENS, WIDEST_HEAD = 1024, 128
"""Queries and keys from which on XLA's matrix of logits is large (not measured), and the widest heads with which the
kernel was compiled; it holds blocks of whole heads in the fast memory of a TPU."""


def attention(query: jax.Array, key: jax.Array, value: jax.Array, implementation: str = "auto") -> jax.Array:
    """Softmax attention, with the softmax in float32.

    Args:
      query: [B, N, heads, D].
      key: [B, M, heads, D].
      value: [B, M, heads, D].
      implementation: one of `ATTENTIONS`; cuDNN's takes float16 and bfloat16 only.

    Returns:
      [B, N, heads, D] in the dtype of the query.
    """
    if implementation == "manual":
        return _manual_attention(query, key, value)
    can_be_splash = _can_be_splash(query, key)
    if implementation == "auto" and can_be_splash and _suits_splash(query, key):
        implementation = "splash"
    if implementation == "splash" and can_be_splash:
        elsewhere = partial(_fused_attention, "xla")
        return cast(jax.Array, jax.lax.platform_dependent(query, key, value, tpu=splash_attention, default=elsewhere))
    if implementation == "splash" or (implementation == "cudnn" and jax.default_backend() != KERNEL_BACKENDS["cudnn"]):
        implementation = "xla"
    return _fused_attention(None if implementation == "auto" else implementation, query, key, value)


def _can_be_splash(query: jax.Array, key: jax.Array) -> bool:
    """Whether sizes are known (those of programs for export may be symbols), and how the program is split.

    The partitioner cannot split the kernel: the mesh must be that of the context, as in the training step and within
    jax.shard_map, or there must be a single device.
    """
    is_known = all(isinstance(length, int) for length in (*query.shape, *key.shape))
    return is_known and (not jax.sharding.get_abstract_mesh().empty or jax.device_count() == 1)


def _suits_splash(query: jax.Array, key: jax.Array) -> bool:
    """Whether `auto` prefers the kernel, see `ATTENTIONS`."""
    is_large = min(query.shape[1], key.shape[1]) >= MANY_TOKENS and query.shape[-1] <= WIDEST_HEAD
    return is_large and jax.default_backend() == KERNEL_BACKENDS["splash"]


def _fused_attention(implementation: Any, query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
    # JAX's function mixes dtypes on purpose, which a session with strict promotion would refuse.
    with jax.numpy_dtype_promotion("standard"):
        return jax.nn.dot_product_attention(query, key, value, implementation=implementation)


def _manual_attention(query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
    scaled = query * jnp.asarray(query.shape[-1] ** -0.5, query.dtype)
    logits = jnp.einsum("bnhd,bmhd->bhnm", scaled, key, preferred_element_type=jnp.float32)
    # The division by the sum follows the product with the values: D divisions per token instead of M.
    weights = jnp.exp(logits - jax.lax.stop_gradient(logits.max(axis=-1, keepdims=True)))
    total = weights.sum(axis=-1).transpose(0, 2, 1)[..., None]  # [B, N, heads, 1]
    attended = jnp.einsum("bhnm,bmhd->bnhd", weights.astype(value.dtype), value, preferred_element_type=jnp.float32)
    return (attended / total).astype(query.dtype)


def local_contrast(x: jax.Array) -> jax.Array:
    """[B, H, W, C] → the difference of each pixel to the mean of its 3x3 neighbourhood."""
    sums = nn.pooling.pool(x, 0.0, jax.lax.add, (3, 3), (1, 1), "SAME")
    # Counts of each axis, of any size (framer-jax export): those that flax computes keep XLA busy for seconds, which it
    # then reports as an error.
    rows, columns = (_neighbors(size) for size in x.shape[1:3])
    return x - sums / (rows[None, :, None, None] * columns[None, None, :, None]).astype(x.dtype)


def _neighbors(size: int) -> jax.Array:
    """[size] → how many of three neighboring places are inside: 2 at both ends, else 3; 1 if there is one place."""
    before = jnp.minimum(jnp.arange(size), 1)
    return 1 + before + before[::-1]
