"""The backbones whose features perceptual losses and metrics compare: VGG16, VGG19 and AlexNet as in torchvision.

Simonyan and Zisserman, "Very Deep Convolutional Networks" (2014); Krizhevsky et al., "ImageNet Classification with Deep
Convolutional Neural Networks" (2012), in the one-column form of 2014; scaling of the input: Zhang et al., "The
Unreasonable Effectiveness of Deep Features as a Perceptual Metric" (CVPR 2018). Weights are read from a file by
framer_jax.porting; none are included.
"""

from __future__ import annotations

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from framer_jax.models.layers import Dtype

SHIFT = (-0.030, -0.088, -0.188)
"""Mean of the training images of the backbones, in [-1, 1]."""

SCALE = (0.458, 0.448, 0.450)
"""Their standard deviation."""


class ConvLayer(NamedTuple):
    """A convolution followed by a ReLU.

    Attributes:
      number: index in torchvision's list of layers, which is part of its name.
      channels: output channels.
      kernel: side of the kernel.
      stride: stride of the convolution.
      padding: zero padding on each side.
      pool: window of the max pooling with stride 2 that precedes it, 0 for none.
      tap: whether its output is one of the features that are compared.
    """

    number: int
    channels: int
    kernel: int
    stride: int = 1
    padding: int = 1
    pool: int = 0
    tap: bool = False


TRUNKS = {
    "vgg": (
        ConvLayer(0, 64, 3),
        ConvLayer(2, 64, 3, tap=True),
        ConvLayer(5, 128, 3, pool=2),
        ConvLayer(7, 128, 3, tap=True),
        ConvLayer(10, 256, 3, pool=2),
        ConvLayer(12, 256, 3),
        ConvLayer(14, 256, 3, tap=True),
        ConvLayer(17, 512, 3, pool=2),
        ConvLayer(19, 512, 3),
        ConvLayer(21, 512, 3, tap=True),
        ConvLayer(24, 512, 3, pool=2),
        ConvLayer(26, 512, 3),
        ConvLayer(28, 512, 3, tap=True),
    ),
    "alex": (
        ConvLayer(0, 64, 11, stride=4, padding=2, tap=True),
        ConvLayer(3, 192, 5, padding=2, pool=3, tap=True),
        ConvLayer(6, 384, 3, pool=3, tap=True),
        ConvLayer(8, 256, 3, tap=True),
        ConvLayer(10, 256, 3, tap=True),
    ),
    "vgg19": (
        ConvLayer(0, 64, 3),
        ConvLayer(2, 64, 3, tap=True),
        ConvLayer(5, 128, 3, pool=2),
        ConvLayer(7, 128, 3, tap=True),
        ConvLayer(10, 256, 3, pool=2),
        ConvLayer(12, 256, 3),
        ConvLayer(14, 256, 3),
        ConvLayer(16, 256, 3, tap=True),
        ConvLayer(19, 512, 3, pool=2),
        ConvLayer(21, 512, 3),
        ConvLayer(23, 512, 3),
        ConvLayer(25, 512, 3, tap=True),
        ConvLayer(28, 512, 3, pool=2),
        ConvLayer(30, 512, 3),
        ConvLayer(32, 512, 3),
        ConvLayer(34, 512, 3, tap=True),
    ),
}
"""Convolutions of the backbones, with five features each: of LPIPS and DISTS ('vgg' is VGG16, 'alex'), and of the
perceptual losses of ESRGAN and Real-ESRGAN ('vgg19': conv1_2, conv2_2, conv3_4, conv4_4, conv5_4)."""

SMALLEST_SIDE = {"vgg": 16, "alex": 31, "vgg19": 16}
"""Backbone → the smallest side of an image of which it has all features."""

DISTS_CHANNELS = 3 + sum(layer.channels for layer in TRUNKS["vgg"] if layer.tap)
"""Channels that DISTS compares: those of the image and of the features."""

POOLINGS = ("max", "l2")
"""Pooling with stride 2: the maximum, or the root of the mean square under a Hann window (DISTS)."""

L2_EPSILON = 1e-12
"""Added to the mean square before the root."""


def l2_pool(x: jax.Array) -> jax.Array:
    """L2 pooling with stride 2, one pixel of zeros on every side: [B, H, W, C] → [B, ceil(H / 2), ceil(W / 2), C].

    Hénaff and Simoncelli, "Geodesics of Learned Representations" (ICLR 2016), with a 3x3 Hann window as in DISTS.
    """
    taps = jnp.asarray([0.25, 0.5, 0.25], x.dtype)
    channels = x.shape[-1]
    window = jnp.broadcast_to((taps[:, None] * taps[None, :])[:, :, None, None], (3, 3, 1, channels))
    mean = jax.lax.conv_general_dilated(
        x * x,
        window,
        (2, 2),
        ((1, 1), (1, 1)),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=channels,
    )
    return jnp.sqrt(mean + jnp.asarray(L2_EPSILON, x.dtype))


class Trunk(nn.Module):
    """A backbone without its classifier.

    Attributes:
      net: one of `TRUNKS`.
      dtype: compute dtype; the features are float32.
      pooling: one of `POOLINGS`.
      activated: whether the features are taken after the ReLU, as LPIPS and DISTS do, or before it.
    """

    net: str
    dtype: Dtype = jnp.float32
    pooling: str = "max"
    activated: bool = True

    def __post_init__(self) -> None:
        if self.net not in TRUNKS:
            raise ValueError(f"net must be one of {', '.join(TRUNKS)}, not {self.net!r}")
        if self.pooling not in POOLINGS:
            raise ValueError(f"pooling must be one of {', '.join(POOLINGS)}, not {self.pooling!r}")
        super().__post_init__()

    @nn.compact
    def __call__(self, image: jax.Array) -> tuple[jax.Array, ...]:
        """Features of images.

        Args:
          image: [B, H, W, 3] float32 in [-1, 1], sides of at least `SMALLEST_SIDE` pixels.

        Returns:
          five maps [B, H_i, W_i, C_i] float32, finest first.

        Raises:
          ValueError: a smaller image, of which the last maps would be empty and their means NaN.
        """
        least, (height, width) = SMALLEST_SIDE[self.net], image.shape[1:3]
        if min(height, width) < least:
            raise ValueError(
                f"the network {self.net!r} needs images of at least {least}x{least} pixels, got {height}x{width}: use "
                "larger crops"
            )
        shift, scale = (jnp.asarray(values, jnp.float32)[None, None, None, :] for values in (SHIFT, SCALE))
        h = ((image - shift) / scale).astype(self.dtype)
        features = []
        for layer in TRUNKS[self.net]:
            if layer.pool:
                h = nn.max_pool(h, (layer.pool, layer.pool), (2, 2)) if self.pooling == "max" else l2_pool(h)
            padding = ((layer.padding, layer.padding),) * 2
            name = f"conv_{layer.number}"
            kernel, stride = (layer.kernel, layer.kernel), (layer.stride, layer.stride)
            before = nn.Conv(layer.channels, kernel, stride, padding, dtype=self.dtype, name=name)(h)
            h = nn.relu(before)
            if layer.tap:
                features.append((h if self.activated else before).astype(jnp.float32))
        return tuple(features)


class Lpips(nn.Module):
    """The parameters of LPIPS: a backbone in group 'trunk' and the channel weights in group 'heads'.

    framer_jax.losses.lpips computes the distance from its outputs.

    Attributes:
      net: 'vgg' or 'alex'.
      dtype: compute dtype; the features are float32.
    """

    net: str
    dtype: Dtype = jnp.float32

    def setup(self) -> None:
        """Create the submodules."""
        self.trunk = Trunk(self.net, self.dtype)
        self.heads = ChannelWeights(tuple(layer.channels for layer in TRUNKS[self.net] if layer.tap))

    def __call__(self, image: jax.Array) -> tuple[tuple[jax.Array, ...], tuple[jax.Array, ...]]:
        """[B, H, W, 3] in [-1, 1] → (five features [B, H_i, W_i, C_i], their channel weights [C_i]), float32."""
        return self.trunk(image), self.heads()


class Dists(nn.Module):
    """The parameters of DISTS: VGG16 with L2 pooling in group 'trunk', and the weights 'alpha' and 'beta'.

    framer_jax.losses.dists computes the distance from its outputs.

    Attributes:
      dtype: compute dtype; the features are float32.
    """

    dtype: Dtype = jnp.float32

    def setup(self) -> None:
        """Create the submodule and the weights."""
        self.trunk = Trunk("vgg", self.dtype, pooling="l2")
        shape = (1, DISTS_CHANNELS, 1, 1)  # as in the original
        self.alpha = self.param("alpha", nn.initializers.ones, shape)
        self.beta = self.param("beta", nn.initializers.ones, shape)

    def __call__(self, image: jax.Array) -> tuple[tuple[jax.Array, ...], jax.Array, jax.Array]:
        """[B, H, W, 3] in [0, 1] → (the image and five features [B, H_i, W_i, C_i], alpha, beta [Σ C_i]), float32."""
        return (image, *self.trunk(2.0 * image - 1.0)), self.alpha.reshape(-1), self.beta.reshape(-1)


class Vgg19(nn.Module):
    """The parameters of the VGG19 that Real-ESRGAN's perceptual term compares, in group 'trunk'.

    Attributes:
      dtype: compute dtype; the features are float32.
    """

    dtype: Dtype = jnp.float32

    def setup(self) -> None:
        """Create the submodule."""
        self.trunk = Trunk("vgg19", self.dtype, activated=False)

    def __call__(self, image: jax.Array) -> tuple[jax.Array, ...]:
        """[B, H, W, 3] in [-1, 1] → five features before ReLU [B, H_i, W_i, C_i], float32."""
        features: tuple[jax.Array, ...] = self.trunk(image)
        return features


class ChannelWeights(nn.Module):
    """The learned weight of each channel of each feature.

    Attributes:
      channels: number of channels of each feature.
    """

    channels: tuple[int, ...]

    @nn.compact
    def __call__(self) -> tuple[jax.Array, ...]:
        """[C_i] float32 per feature."""
        shapes = ((1, 1, count, 1) for count in self.channels)  # kernels of 1x1 convolutions, as in the original
        kernels = (self.param(f"head_{i}", nn.initializers.ones, shape) for i, shape in enumerate(shapes))
        return tuple(kernel.reshape(-1) for kernel in kernels)
