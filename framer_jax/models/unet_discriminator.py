"""Real-ESRGAN's discriminator: a U-Net with spectral norm that classifies every pixel.

Wang et al., "Real-ESRGAN" (ICCV Workshops 2021), after Schönfeld et al., "A U-Net Based Discriminator for Generative
Adversarial Networks" (CVPR 2020); Miyato et al., "Spectral Normalization for Generative Adversarial Networks" (ICLR
2018).
"""

from __future__ import annotations

from typing import cast

import flax.linen as nn
import jax
import jax.numpy as jnp

from framer_jax.knobs import check_knobs, knob
from framer_jax.models.layers import Dtype

SPECTRAL = "spectral"
"""The collection of the vectors u and v of spectral norm, which change without a gradient."""

SIDE_MULTIPLE = 8
"""Sides of images must be multiples of this: the U-Net halves them three times."""

SMALLEST_NORM = 1e-12
"""Lower bound of the length by which a vector is divided."""


def unit(vector: jax.Array) -> jax.Array:
    """A vector divided by its length."""
    return vector / jnp.maximum(jnp.linalg.norm(vector), SMALLEST_NORM)


class SpectralConv(nn.Module):
    """A convolution without bias whose kernel is divided by an estimate of its largest singular value.

    The kernel is the matrix W [out, in · kh · kw]; the estimate is u · W v. In training, every call first makes one
    step of power iteration, v ← W^T u and u ← W v, each of unit length, through which no gradient passes.

    Attributes:
      channels: output channels.
      side: side of the kernel.
      stride: stride.
      dtype: compute dtype of the convolution; the norm is float32.
    """

    channels: int
    side: int = 3
    stride: int = 1
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, training: bool) -> jax.Array:
        """[B, H, W, C] → [B, H / stride, W / stride, channels]."""
        shape = (self.side, self.side, x.shape[-1], self.channels)
        kernel = self.param("kernel", nn.initializers.lecun_normal(), shape, jnp.float32)
        matrix = kernel.transpose(3, 2, 0, 1).reshape(self.channels, -1)  # as PyTorch orders it

        def initial(length: int) -> jax.Array:
            return unit(jax.random.normal(self.make_rng("params"), (length,), jnp.float32))

        u = self.variable(SPECTRAL, "u", initial, matrix.shape[0])
        v = self.variable(SPECTRAL, "v", initial, matrix.shape[1])
        if training and not self.is_initializing():
            constant = jax.lax.stop_gradient(matrix)
            v.value = unit(constant.T @ u.value)
            u.value = unit(constant @ v.value)
        sigma = u.value @ (matrix @ v.value)
        return jax.lax.conv_general_dilated(
            x.astype(self.dtype),
            (kernel / sigma).astype(self.dtype),
            (self.stride, self.stride),
            ((1, 1), (1, 1)),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )


class UNetDiscriminator(nn.Module):
    """The network. The default knobs are Real-ESRGAN's: 4,376,897 parameters.

    Attributes:
      dtype: compute dtype; parameters, norms and logits are float32.
    """

    channels: int = knob(64, "Width of the finest level.", at_least=1)
    skips: bool = knob(True, "Add the features of the way down on the way up.")
    dtype: Dtype = jnp.float32

    def __post_init__(self) -> None:
        check_knobs(self)
        super().__post_init__()

    @nn.compact
    def __call__(self, image: jax.Array, training: bool = False) -> jax.Array:
        """Classify every pixel.

        Args:
          image: [B, H, W, 3] float32 in [0, 1], sides multiples of 8.
          training: whether the vectors of spectral norm are improved first; the collection 'spectral' must then be
            mutable.

        Returns:
          logits [B, H, W, 1] float32, positive for images that are taken for real.

        Raises:
          ValueError: sides that are not multiples of 8.
        """
        if image.ndim != 4 or any(side % SIDE_MULTIPLE or not side for side in image.shape[1:3]):
            raise ValueError(
                f"the discriminator needs images [B, H, W, 3] with sides that are multiples of {SIDE_MULTIPLE}, got "
                f"{image.shape}"
            )

        def conv(x: jax.Array, number: int, channels: int, side: int = 3, stride: int = 1) -> jax.Array:
            layer = SpectralConv(channels, side, stride, self.dtype, name=f"conv_{number}")
            return nn.leaky_relu(layer(x, training), 0.2)

        first = nn.Conv(self.channels, (3, 3), dtype=self.dtype, name="conv_0")(image.astype(self.dtype))
        levels = [nn.leaky_relu(first, 0.2)]  # sides H, H / 2, H / 4, H / 8
        for number in (1, 2, 3):
            levels.append(conv(levels[-1], number, self.channels * 2**number, side=4, stride=2))
        h = levels.pop()
        for number in (4, 5, 6):
            h = conv(double(h), number, self.channels * 2 ** (6 - number))
            skip = levels.pop()
            h = h + skip if self.skips else h
        h = conv(conv(h, 7, self.channels), 8, self.channels)
        return nn.Conv(1, (3, 3), name="conv_9")(h.astype(jnp.float32))


class StoredDiscriminator(nn.Module):
    """The discriminator as published files hold it: the vectors of spectral norm are weights too.

    Attributes: as of `UNetDiscriminator`, whose parameters are the group 'network'; the vectors are group 'spectral'.
    """

    channels: int = 64
    skips: bool = True
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, image: jax.Array) -> jax.Array:
        """[B, H, W, 3] in [0, 1] → logits [B, H, W, 1], without improving the vectors."""
        network = UNetDiscriminator(self.channels, self.skips, self.dtype, parent=None)
        least = jnp.zeros((1, SIDE_MULTIPLE, SIDE_MULTIPLE, 3), jnp.float32)
        params = self.param("network", lambda key: network.init(key, least)["params"])
        vectors = self.param("spectral", lambda key: network.init(key, least)[SPECTRAL])
        return cast(jax.Array, network.apply({"params": params, SPECTRAL: vectors}, image))


def double(x: jax.Array) -> jax.Array:
    """Bilinear upsampling by 2 with half-pixel centers: [B, H, W, C] → [B, 2H, 2W, C]."""
    batch, height, width, channels = x.shape
    return jax.image.resize(x, (batch, 2 * height, 2 * width, channels), "bilinear")
