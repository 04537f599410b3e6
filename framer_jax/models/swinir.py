"""SwinIR: image restoration and super-resolution by groups of Swin Transformer blocks, in every published variant.

Liang et al., "SwinIR: Image Restoration Using Swin Transformer" (ICCV Workshops 2021). Written from the layer table and
from measurements of the released checkpoints; published weights are read by framer_jax.porting. One tap per group; the
last one is FRAMER's teacher.
"""

from __future__ import annotations

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from framer_jax.knobs import check_knobs, knob
from framer_jax.models.denoiser import Taps
from framer_jax.models.layers import Dtype, LayerNorm
from framer_jax.models.resampling import pixel_shuffle, upsampling_conv
from framer_jax.models.swin import SwinBlock, hidden_width, linear

HEADS = ("pixelshuffle", "pixelshuffledirect", "nearest+conv", "none")
"""Upsampling heads: those of the classical, the lightweight and the real-world models; 'none' predicts a correction of
the input (denoising, JPEG artifacts)."""

SCALES = {"pixelshuffle": (2, 3, 4, 8), "pixelshuffledirect": (2, 3, 4), "nearest+conv": (2, 4), "none": (1,)}
"""Head → its supported upsampling factors."""

RESIDUALS = ("1conv", "3conv")
"""Last layer of a group: one convolution, or three with a bottleneck of a quarter of the channels."""

HEAD_CHANNELS = 64

RGB_MEAN = (0.4488, 0.4371, 0.4040)
"""Mean of the training images in [0, 1], subtracted from color images; nothing is subtracted from gray ones."""

NORM = partial(LayerNorm, epsilon=1e-5)


class Group(nn.Module):
    """A residual Swin Transformer block (RSTB): Swin blocks and a convolution, with a skip.

    Attributes:
      blocks: number of Swin blocks.
      shifted: whether every second block shifts its windows by half a window.
      residual: one of `RESIDUALS`.
      heads, window, mlp_ratio, qkv_bias, dtype: see SwinBlock.
    """

    blocks: int
    heads: int
    window: int
    shifted: bool
    mlp_ratio: float
    residual: str
    qkv_bias: bool = True
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, drop_mask: jax.Array | None = None) -> jax.Array:
        """Apply the group.

        Args:
          x: [B, H, W, C], sides multiples of the window.
          drop_mask: [blocks, 2, B] float32, see SwinBlock.

        Returns:
          [B, H, W, C].
        """
        h = x
        for index in range(self.blocks):
            block = SwinBlock(
                heads=self.heads,
                window=self.window,
                shift=self.window // 2 if self.shifted and index % 2 else 0,
                mlp_ratio=self.mlp_ratio,
                variant="correct",
                dtype=self.dtype,
                norm=NORM,
                pointwise=linear,
                qkv_bias=self.qkv_bias,
                name=f"block_{index}",
            )
            h = block(h, None if drop_mask is None else drop_mask[index])
        return x + residual_conv(h, self.residual, self.dtype, "conv")


class Head(nn.Module):
    """From features to the image.

    Attributes:
      kind: one of `HEADS`.
      scale: upsampling factor.
      image_channels: channels of the image.
      dtype: compute dtype.
    """

    kind: str
    scale: int
    image_channels: int
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, H, W, C] → [B, scale H, scale W, image_channels] float32."""
        if self.kind == "pixelshuffledirect":
            return pixel_shuffle(self._last(x, self.image_channels * self.scale**2, "shuffle_0"), self.scale)
        if self.kind != "none":
            x = nn.leaky_relu(self._conv(x, "features"), 0.01)
            x = self._shuffle(x) if self.kind == "pixelshuffle" else self._nearest(x)
        return self._last(x, self.image_channels, "conv_out")

    def _shuffle(self, x: jax.Array) -> jax.Array:
        factors = (3,) if self.scale == 3 else (2,) * (self.scale.bit_length() - 1)
        for index, factor in enumerate(factors):
            # Names hold the indices in the checkpoints' list of modules: convolution, shuffle.
            x = pixel_shuffle(self._conv(x, f"shuffle_{2 * index}", HEAD_CHANNELS * factor**2), factor)
        return x

    def _nearest(self, x: jax.Array) -> jax.Array:
        for index in range(1, self.scale.bit_length()):
            x = nn.leaky_relu(upsampling_conv(HEAD_CHANNELS, self.dtype, f"up_{index}")(x), 0.2)
        return nn.leaky_relu(self._conv(x, "fine"), 0.2)

    def _conv(self, x: jax.Array, name: str, channels: int = HEAD_CHANNELS) -> jax.Array:
        return nn.Conv(channels, (3, 3), dtype=self.dtype, name=name)(x)

    def _last(self, x: jax.Array, channels: int, name: str) -> jax.Array:
        # The last layer is float32: images feed losses.
        return nn.Conv(channels, (3, 3), name=name)(x.astype(jnp.float32))


class SwinIR(nn.Module):
    """The network. The default knobs, documented where they are defined, are the small real-world x4 model.

    It has 1,050,799 parameters.

    Attributes:
      scale: upsampling factor, see `SCALES`.
      dtype: compute dtype; parameters, norms, softmax and the prediction are float32.
    """

    scale: int = 4
    head: str = knob("nearest+conv", "Upsampling head.", choices=HEADS)
    channels: int = knob(60, "Width of the groups.", at_least=1, at_most=65536)
    depths: tuple[int, ...] = knob((6, 6, 6, 6), "Swin blocks of each group.", at_least=1, at_most=1000)
    heads: int = knob(6, "Number of attention heads, a divisor of channels.", at_least=1, at_most=1024)
    group_heads: tuple[int, ...] = knob(
        (),
        "Attention heads of each group, where they differ, divisors of channels; (): `heads` in every group.",
        at_least=1,
        at_most=1024,
        empty=True,
    )
    window: int = knob(8, "Side of an attention window.", unit="LR pixels", at_least=1, at_most=1024)
    mlp_ratio: float = knob(2, "Width of the MLPs as a multiple of channels, rounded down.", above=0, at_most=64)
    qkv_bias: bool = knob(True, "Whether the projections of queries, keys and values have a bias.")
    input_norm: bool = knob(True, "Whether a norm precedes the first group.")
    absolute_positions: bool = knob(
        False,
        "Whether every position of the features has a learned embedding; such a network takes inputs whose sides, "
        "padded to whole windows, are image_size, and no others.",
    )
    residual: str = knob("1conv", "Last layer of a group: 1conv, or 3conv with a bottleneck.", choices=RESIDUALS)
    image_channels: int = knob(3, "Channels of the images: 3 for color, 1 for gray.", choices=(1, 3))
    value_range: float = knob(
        1.0,
        "Factor of images at the input and divisor of predictions; 255 in the published JPEG models.",
        above=0,
        at_most=65_535,
    )
    image_size: int = knob(
        64,
        "Nominal side of the input; windows are shifted if it exceeds the window, whatever the side of the input.",
        unit="LR pixels",
        at_least=1,
        at_most=65_536,
    )
    drop_path: float = knob(
        0.1,
        "Stochastic depth in training: drop probability of the residual branches of the last block, growing linearly "
        "from 0 in the first.",
        at_least=0,
        below=1,
    )
    dtype: Dtype = jnp.float32

    def __post_init__(self) -> None:
        check_knobs(self)
        if self.scale not in SCALES[self.head]:
            scales = ", ".join(map(str, SCALES[self.head]))
            raise ValueError(f"scale is {self.scale}: with head {self.head} it must be one of {scales}")
        if self.channels % self.heads or (self.residual == "3conv" and self.channels % 4):
            raise ValueError(
                f"channels is {self.channels}: it must be a multiple of heads ({self.heads}), and of 4 for 3conv"
            )
        if self.group_heads and (
            len(self.group_heads) != len(self.depths) or any(self.channels % heads for heads in self.group_heads)
        ):
            raise ValueError(
                f"group_heads is {self.group_heads}: it must hold a divisor of channels ({self.channels}) for each of "
                f"the {len(self.depths)} groups, or nothing"
            )
        if hidden_width(self.channels, self.mlp_ratio) < 1:
            raise ValueError(f"mlp_ratio is {self.mlp_ratio}: {self.channels} channels times it is less than one")
        if self.absolute_positions and self.image_size % self.window:
            raise ValueError(
                f"image_size is {self.image_size}: with absolute_positions it must be a multiple of the window "
                f"({self.window})"
            )
        if self.image_size < self.window:
            raise ValueError(f"image_size is {self.image_size}: it must be at least the window ({self.window})")
        super().__post_init__()

    @property
    def tap_count(self) -> int:
        """One tap per group."""
        return len(self.depths)

    @nn.compact
    def __call__(self, image: jax.Array, key: jax.Array | None = None) -> tuple[jax.Array, Taps]:
        """Restore or super-resolve.

        Args:
          image: [B, H, W, image_channels] float32 in [0, 1], of any size; it is padded to whole windows by reflection
            at the bottom and right.
          key: random key of stochastic depth, for training; None drops nothing.

        Returns:
          prediction [B, scale H, scale W, image_channels] float32, near [0, 1] and not clipped; and the taps, one
          [B, H', W', channels] per group in the compute dtype, H' and W' the next multiples of the window.

        Raises:
          ValueError: the image has another number of axes or channels, or is empty.
        """
        if image.ndim != 4 or image.shape[-1] != self.image_channels or 0 in image.shape:
            raise ValueError(f"SwinIR needs images [B, H, W, {self.image_channels}], got {image.shape}")
        height, width = image.shape[1:3]
        mean = jnp.asarray(RGB_MEAN if self.image_channels == 3 else (0.0,), jnp.float32)[None, None, None, :]
        x = (pad_to_windows(image, self.window) - mean) * self.value_range
        shallow = nn.Conv(self.channels, (3, 3), dtype=self.dtype, name="conv_in")(x.astype(self.dtype))
        embedded = NORM(name="norm_in")(shallow) if self.input_norm else shallow
        if self.absolute_positions:
            embedded = embedded + self._positions(embedded.shape[1:3]).astype(self.dtype)
        deep, taps = self._groups(embedded, key)
        deep = residual_conv(NORM(name="norm_out")(deep), self.residual, self.dtype, "conv_body")
        y = Head(self.head, self.scale, self.image_channels, self.dtype, name="head")(shallow + deep)
        y = (x + y if self.head == "none" else y) / self.value_range + mean
        return y[:, : height * self.scale, : width * self.scale], taps

    def _positions(self, sides: tuple[int, ...]) -> jax.Array:
        """The embedding of every position: [1, image_size, image_size, channels] float32."""
        side = self.image_size
        if sides != (side, side):
            raise ValueError(
                f"SwinIR with absolute_positions takes images of {side}x{side} (image_size) only, got {sides[0]}x"
                f"{sides[1]} after padding to windows: use tiles of that size"
            )
        table = self.param("positions", nn.initializers.normal(0.02), (1, side**2, self.channels))
        return table.reshape(1, side, side, self.channels)

    def _groups(self, h: jax.Array, key: jax.Array | None) -> tuple[jax.Array, Taps]:
        """All groups: (output of the last one, outputs of all)."""
        drop_mask = None if key is None else drop_path_mask(key, self.drop_path, sum(self.depths), h.shape[0])
        taps, first = [], 0
        for index, blocks in enumerate(self.depths):
            group = Group(
                blocks=blocks,
                heads=self.group_heads[index] if self.group_heads else self.heads,
                window=self.window,
                shifted=self.image_size > self.window,
                mlp_ratio=self.mlp_ratio,
                residual=self.residual,
                qkv_bias=self.qkv_bias,
                dtype=self.dtype,
                name=f"group_{index}",
            )
            h = group(h, None if drop_mask is None else drop_mask[first : first + blocks])
            taps.append(h)
            first += blocks
        return h, tuple(taps)


def drop_path_mask(key: jax.Array, rate: float, blocks: int, batch: int) -> jax.Array:
    """Factors of stochastic depth: [blocks, 2, batch] float32, 0 or 1 / (1 - drop rate of the block), with mean 1.

    Huang et al., "Deep Networks with Stochastic Depth" (ECCV 2016), with one draw per example and branch.

    Args:
      key: random key.
      rate: drop rate of the last block; it grows linearly from 0 in the first.
      blocks: number of blocks.
      batch: number of examples.
    """
    keep_rate = jnp.asarray(1.0 - np.linspace(0.0, rate, blocks), jnp.float32)[:, None, None]
    return (jax.random.uniform(key, (blocks, 2, batch), jnp.float32) < keep_rate).astype(jnp.float32) / keep_rate


def pad_to_windows(image: jax.Array, window: int) -> jax.Array:
    """Pad the sides of [B, H, W, C] to multiples of the window by reflection (repeatedly for very small images)."""
    bottom, right = (-side % window for side in image.shape[1:3])
    return jnp.pad(image, ((0, 0), (0, bottom), (0, right), (0, 0)), mode="reflect")


def residual_conv(x: jax.Array, kind: str, dtype: Dtype, name: str) -> jax.Array:
    """One convolution `name`, or three, `name`_0, _2 and _4 (indices in the checkpoints' lists); same channels."""
    channels = x.shape[-1]
    if kind == "1conv":
        return nn.Conv(channels, (3, 3), dtype=dtype, name=name)(x)
    x = nn.leaky_relu(nn.Conv(channels // 4, (3, 3), dtype=dtype, name=f"{name}_0")(x), 0.2)
    x = nn.leaky_relu(nn.Conv(channels // 4, (1, 1), dtype=dtype, name=f"{name}_2")(x), 0.2)
    return nn.Conv(channels, (3, 3), dtype=dtype, name=f"{name}_4")(x)
