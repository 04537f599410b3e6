"""SupResDiffGAN's discriminator: of two images, a real and a generated one, it says which is real.

Kopeć et al., "SupResDiffGAN: a new approach for the Super-Resolution task" (2025): the discriminator of SRGAN (Ledig et
al., "Photo-Realistic Single Image Super-Resolution Using a Generative Adversarial Network", CVPR 2017) for a pair of
images that are joined along the channels in random order, with global pooling before its last layers.
"""

from __future__ import annotations

from typing import cast

import flax.linen as nn
import jax
import jax.numpy as jnp

from framer_jax.knobs import check_knobs, knob
from framer_jax.models.layers import Dtype

STATISTICS = "batch_stats"
"""The collection of moving means and variances, which change without a gradient."""

SLOPE = 0.2
"""Slope of the leaky ReLUs below zero."""


class BatchNorm(nn.Module):
    """BatchNorm in float32, with a learned scale and bias per channel and PyTorch's moving statistics.

    In training it uses the batch's mean and variance, and moves those of `STATISTICS` towards them, the variance with
    the divisor N - 1. The batch is the global one where it is sharded over devices.

    Attributes:
      momentum: share of the batch's statistics in the moving ones.
      epsilon: added to the variance.
    """

    momentum: float = 0.1
    epsilon: float = 1e-5

    @nn.compact
    def __call__(self, x: jax.Array, training: bool) -> jax.Array:
        """[B, H, W, C] → [B, H, W, C] in the dtype of x."""
        channels = x.shape[-1]
        mean = self.variable(STATISTICS, "mean", jnp.zeros, (channels,), jnp.float32)
        variance = self.variable(STATISTICS, "variance", jnp.ones, (channels,), jnp.float32)
        scale = self.param("scale", nn.initializers.ones, (channels,), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (channels,), jnp.float32)
        wide = x.astype(jnp.float32)
        used_mean, used_variance = mean.value, variance.value
        if training:
            used_mean = wide.mean(axis=(0, 1, 2))
            used_variance = jnp.square(wide - used_mean[None, None, None]).mean(axis=(0, 1, 2))
            if not self.is_initializing():
                count = x.size // channels
                unbiased = used_variance * (count / max(count - 1, 1))
                mean.value += self.momentum * (jax.lax.stop_gradient(used_mean) - mean.value)
                variance.value += self.momentum * (jax.lax.stop_gradient(unbiased) - variance.value)
        factor = scale * jax.lax.rsqrt(used_variance + self.epsilon)
        return ((wide - used_mean[None, None, None]) * factor[None, None, None] + bias[None, None, None]).astype(
            x.dtype
        )


class DiscriminatorBlock(nn.Module):
    """A 3x3 convolution, BatchNorm and a leaky ReLU.

    Attributes:
      channels: output channels.
      stride: stride.
      dtype: compute dtype of the convolution.
    """

    channels: int
    stride: int = 1
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, training: bool) -> jax.Array:
        """[B, H, W, C] → [B, ⌈H / stride⌉, ⌈W / stride⌉, channels]."""
        strides, padding = (self.stride, self.stride), ((1, 1), (1, 1))
        h = nn.Conv(self.channels, (3, 3), strides, padding=padding, dtype=self.dtype, name="conv")(x)
        return nn.leaky_relu(BatchNorm(name="norm")(h, training), SLOPE)


class PairDiscriminator(nn.Module):
    """The network; the default knobs are those of the release.

    Attributes:
      image_channels: channels of each of the two images.
      dtype: compute dtype; parameters, norms and logits are float32.
    """

    image_channels: int = 3
    channels: tuple[int, ...] = knob(
        (64, 128, 256, 512), "Width of each level, from the finest.", at_least=1, at_most=65536
    )
    dtype: Dtype = jnp.float32

    def __post_init__(self) -> None:
        check_knobs(self)
        super().__post_init__()

    @nn.compact
    def __call__(self, first: jax.Array, second: jax.Array, training: bool = False) -> jax.Array:
        """Classify pairs of images.

        Args:
          first: [B, H, W, image_channels] float32 in [-1, 1], of any size.
          second: like first; one of the two is real and the other is generated.
          training: whether the statistics are those of the batch; the collection 'batch_stats' must then be mutable.

        Returns:
          logits [B] float32; their sigmoid is the probability that the released code computes.

        Raises:
          ValueError: images of different or other shapes.
        """
        if first.shape != second.shape or first.ndim != 4 or first.shape[3] != self.image_channels:
            raise ValueError(
                f"the images have shapes {first.shape} and {second.shape}: the discriminator needs two of one shape "
                f"[B, H, W, {self.image_channels}]"
            )
        h = jnp.concatenate([first, second], axis=-1).astype(self.dtype)  # [B, H, W, 2 image_channels]
        h = nn.leaky_relu(nn.Conv(self.channels[0], (3, 3), dtype=self.dtype, name="conv_in")(h), SLOPE)
        # Each level but the first begins with a block of stride 1; all end with one of stride 2.
        layout = [(width, stride) for width in self.channels for stride in (1, 2)][1:]
        for index, (width, stride) in enumerate(layout):
            h = DiscriminatorBlock(width, stride, self.dtype, name=f"block_{index}")(h, training)
        pooled = h.astype(jnp.float32).mean(axis=(1, 2), keepdims=True)  # [B, 1, 1, channels[-1]]
        hidden = nn.leaky_relu(nn.Conv(2 * self.channels[-1], (1, 1), name="hidden")(pooled), SLOPE)
        return nn.Conv(1, (1, 1), name="out")(hidden)[:, 0, 0, 0]


class StoredPairDiscriminator(nn.Module):
    """The discriminator as published files hold it: the moving statistics are weights too.

    Attributes: as of `PairDiscriminator`, whose parameters are the group 'network'; 'statistics' are the moving ones.
    """

    image_channels: int = 3
    channels: tuple[int, ...] = (64, 128, 256, 512)
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, first: jax.Array, second: jax.Array) -> jax.Array:
        """Two images [B, H, W, image_channels] in [-1, 1] → logits [B], with the moving statistics."""
        network = PairDiscriminator(self.image_channels, self.channels, self.dtype, parent=None)
        least = jnp.zeros((1, 8, 8, self.image_channels), jnp.float32)
        params = self.param("network", lambda key: network.init(key, least, least)["params"])
        statistics = self.param("statistics", lambda key: network.init(key, least, least)[STATISTICS])
        return cast(jax.Array, network.apply({"params": params, STATISTICS: statistics}, first, second))
