"""Changes of resolution that several networks share: means, repetition, sub-pixels, convolutions of repeated maps."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

Dtype = jnp.dtype | type


def downsample_mean(x: jax.Array) -> jax.Array:
    """Means of 2x2 positions: [B, 2H, 2W, C] → [B, H, W, C]."""
    batch, height, width, channels = x.shape
    return x.reshape(batch, height // 2, 2, width // 2, 2, channels).mean(axis=(2, 4))


def upsample_nearest(x: jax.Array) -> jax.Array:
    """Nearest-neighbour upsampling: [B, H, W, C] → [B, 2H, 2W, C]."""
    return jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2)


class UpsamplingConv(nn.Conv):
    """A 3x3 convolution, padded with zeros, of `upsample_nearest` of its input.

    It is an nn.Conv with the same parameters, so that adapters and shardings of convolutions apply to it; of its
    settings `features`, `use_bias`, the dtypes and the initializers count. In float32 it is computed from the input
    itself, see `convolve_upsampled`; in shorter dtypes, in which rounding sums of taps costs digits (a small U-Net's
    error in bfloat16 grew by 4 %), from the upsampled map.
    """

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, H, W, C] → [B, 2H, 2W, features]."""
        x = x.astype(self.dtype or x.dtype)
        kernel = self.param("kernel", self.kernel_init, (3, 3, x.shape[-1], self.features), self.param_dtype)
        # Not nn.Conv's own call: interceptors, such as those of adapters, would see it as a second layer.
        convolve = convolve_upsampled if x.dtype == jnp.float32 else _convolve_larger
        y = convolve(x, kernel.astype(x.dtype))
        if not self.use_bias:
            return y
        bias: jax.Array = self.param("bias", self.bias_init, (self.features,), self.param_dtype)
        return y + bias.astype(y.dtype)[None, None, None, :]


def upsampling_conv(channels: int, dtype: Dtype, name: str, use_bias: bool = True) -> UpsamplingConv:
    """The convolution with `channels` outputs."""
    return UpsamplingConv(channels, (3, 3), use_bias=use_bias, dtype=dtype, name=name)


def convolve_upsampled(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """What a 3x3 convolution, padded with zeros, makes of `upsample_nearest(x)`, with 4 of its 9 products per output.

    The three taps of an axis see two input positions only: at even outputs the one before and, twice, their own; at odd
    ones their own, twice, and the next. So each of the four output phases is a 2x2 convolution of the input, with sums
    of the kernel's taps.

    Args:
      x: [B, H, W, C].
      kernel: [3, 3, C, D] in the dtype of x.

    Returns:
      [B, 2H, 2W, D].
    """
    batch, height, width, _ = x.shape
    phases = [
        jax.lax.conv_general_dilated(
            x,
            of_phase,
            (1, 1),
            ((1 - row, row), (1 - column, column)),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )  # [B, H, W, D]
        for row, taps in enumerate(_phase_taps(kernel, 0))
        for column, of_phase in enumerate(_phase_taps(taps, 1))
    ]
    # jax2onnx knows a concatenation, but no stack of traced arrays.
    y = jnp.concatenate(phases, axis=-1).reshape(batch, height, width, 2, 2, kernel.shape[-1])
    return y.transpose(0, 1, 3, 2, 4, 5).reshape(batch, 2 * height, 2 * width, kernel.shape[-1])


def _convolve_larger(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """The same as `convolve_upsampled`, with all products."""
    numbers = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(upsample_nearest(x), kernel, (1, 1), "SAME", dimension_numbers=numbers)


def _phase_taps(kernel: jax.Array, axis: int) -> tuple[jax.Array, jax.Array]:
    """The two taps that even outputs see of an axis with three, and those of odd outputs."""
    before, center, after = jnp.split(kernel, 3, axis)
    return jnp.concatenate([before, center + after], axis), jnp.concatenate([before + center, after], axis)


def pixel_shuffle(x: jax.Array, factor: int) -> jax.Array:
    """[B, H, W, C factor²] → [B, factor H, factor W, C]; the position of a sub-pixel varies fastest along channels.

    Shi et al., "Real-Time Single Image and Video Super-Resolution Using an Efficient Sub-Pixel Convolutional Neural
    Network" (CVPR 2016).
    """
    batch, height, width, channels = x.shape
    x = x.reshape(batch, height, width, channels // factor**2, factor, factor).transpose(0, 1, 4, 2, 5, 3)
    return x.reshape(batch, height * factor, width * factor, channels // factor**2)


def pixel_unshuffle(x: jax.Array, factor: int) -> jax.Array:
    """The inverse of `pixel_shuffle`: [B, factor H, factor W, C] → [B, H, W, C factor²]."""
    batch, height, width, channels = x.shape
    x = x.reshape(batch, height // factor, factor, width // factor, factor, channels).transpose(0, 1, 3, 5, 2, 4)
    return x.reshape(batch, height // factor, width // factor, channels * factor**2)
