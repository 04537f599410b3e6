"""SwinIR: restoration and super-resolution by groups of Swin Transformer blocks, in every published variant.

Liang et al., "SwinIR: Image Restoration Using Swin Transformer" (ICCV Workshops 2021). Written from the layer table and
the measured facts of the released checkpoints; published weights come through framer_jax.porting. One tap per group;
the last one is FRAMER's teacher.
"""

from __future__ import annotations

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from framer_jax.models.layers import ChannelNorm, Dtype, enlarge_nearest
from framer_jax.models.swin import SwinBlock, linear

HEADS = ("pixelshuffle", "pixelshuffledirect", "nearest+conv", "none")
"""How features become the picture: as in the classical, the lightweight and the real-world models; 'none' adds a
correction to the input (denoising, JPEG artefacts)."""

SCALES = {"pixelshuffle": (2, 3, 4, 8), "pixelshuffledirect": (2, 3, 4), "nearest+conv": (2, 4), "none": (1,)}
"""Head → the enlargements that it can make."""

RESIDUALS = ("1conv", "3conv")
"""What ends a group: one convolution, or three with a waist of a quarter of the channels."""

HEAD_CHANNELS = 64

RGB_MEAN = (0.4488, 0.4371, 0.4040)
"""Mean of the training photos in [0, 1], taken off colour images; grey ones stay as they are."""

NORM = partial(ChannelNorm, epsilon=1e-5)


class Group(nn.Module):
    """A residual Swin Transformer block (RSTB): Swin blocks and a convolution, with a skip around them.

    Attributes:
      blocks: how many; every second one shifts its windows by half a window if `shifted`.
      residual: see `RESIDUALS`.
      heads, window, mlp_ratio, dtype: see SwinBlock.
    """

    blocks: int
    heads: int
    window: int
    shifted: bool
    mlp_ratio: int
    residual: str
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, keep: jax.Array | None = None) -> jax.Array:
        """Apply the group.

        Args:
          x: [B, H, W, C], sides multiples of the window.
          keep: [blocks, 2, B] float32, see SwinBlock; None for 1.

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
                mask="correct",
                dtype=self.dtype,
                norm=NORM,
                pointwise=linear,
                name=f"block_{index}",
            )
            h = block(h, None if keep is None else keep[index])
        return x + residual_conv(h, self.residual, self.dtype, "conv")


class Head(nn.Module):
    """From features to the picture.

    Attributes:
      kind: one of `HEADS`.
      scale: enlargement.
      colours: channels of the picture.
      dtype: compute dtype.
    """

    kind: str
    scale: int
    colours: int
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, H, W, C] → [B, scale H, scale W, colours] float32."""
        if self.kind == "pixelshuffledirect":
            return pixel_shuffle(self._last(x, self.colours * self.scale**2, "shuffle_0"), self.scale)
        if self.kind != "none":
            x = nn.leaky_relu(self._conv(x, "features"), 0.01)
            x = self._shuffled(x) if self.kind == "pixelshuffle" else self._repeated(x)
        return self._last(x, self.colours, "conv_out")

    def _shuffled(self, x: jax.Array) -> jax.Array:
        steps = (3,) if self.scale == 3 else (2,) * (self.scale.bit_length() - 1)
        for index, step in enumerate(steps):
            # The numbers are the positions in the checkpoints' list of modules: conv, shuffle.
            x = pixel_shuffle(self._conv(x, f"shuffle_{2 * index}", HEAD_CHANNELS * step**2), step)
        return x

    def _repeated(self, x: jax.Array) -> jax.Array:
        for index in range(1, self.scale.bit_length()):
            x = nn.leaky_relu(self._conv(enlarge_nearest(x), f"up_{index}"), 0.2)
        return nn.leaky_relu(self._conv(x, "fine"), 0.2)

    def _conv(self, x: jax.Array, name: str, channels: int = HEAD_CHANNELS) -> jax.Array:
        return nn.Conv(channels, (3, 3), dtype=self.dtype, name=name)(x)

    def _last(self, x: jax.Array, channels: int, name: str) -> jax.Array:
        # The last layer is float32: pictures feed losses.
        return nn.Conv(channels, (3, 3), name=name)(x.astype(jnp.float32))


class SwinIR(nn.Module):
    """The network; the defaults are the small model for real-world x4, 1,050,799 parameters.

    Attributes:
      scale: enlargement, see `SCALES`.
      head: one of `HEADS`.
      channels: width of the groups.
      depths: blocks of each group.
      heads: of the attention; they share the channels evenly.
      window: side of a window.
      mlp_ratio: width of the perceptrons as a multiple of the channels.
      residual: one of `RESIDUALS`.
      colours: channels of the image: 3, or 1 for grey.
      value_range: images are multiplied by it first, and predictions divided at the end (JPEG models: 255).
      image_size: side of the input that the network was designed for. Windows are shifted if it exceeds the window,
        whatever the side of the input.
      drop_path: probability with which training drops what a branch of the last block adds; it grows linearly from 0
        at the first block.
      dtype: compute dtype; parameters, norms, softmax and the prediction are float32.
    """

    scale: int = 4
    head: str = "nearest+conv"
    channels: int = 60
    depths: tuple[int, ...] = (6, 6, 6, 6)
    heads: int = 6
    window: int = 8
    mlp_ratio: int = 2
    residual: str = "1conv"
    colours: int = 3
    value_range: float = 1.0
    image_size: int = 64
    drop_path: float = 0.1
    dtype: Dtype = jnp.float32

    def __post_init__(self) -> None:
        if self.head not in HEADS:
            raise ValueError(f"head must be one of {', '.join(HEADS)}, not {self.head!r}")
        if self.scale not in SCALES[self.head]:
            allowed = ", ".join(map(str, SCALES[self.head]))
            raise ValueError(f"the head {self.head} makes scale {allowed}, not {self.scale}")
        if self.residual not in RESIDUALS:
            raise ValueError(f"residual must be one of {', '.join(RESIDUALS)}, not {self.residual!r}")
        if self.channels % self.heads or (self.residual == "3conv" and self.channels % 4):
            raise ValueError(
                f"channels ({self.channels}) must be a multiple of heads ({self.heads}), and of 4 for 3conv"
            )
        if min(self.depths, default=0) < 1:
            raise ValueError(f"each group needs at least one block, got depths {self.depths}")
        if self.image_size < self.window:
            raise ValueError(f"image_size ({self.image_size}) must be at least the window ({self.window})")
        if self.colours not in (1, 3):
            raise ValueError(f"colours must be 1 or 3, not {self.colours}")
        if not 0 <= self.drop_path < 1:
            raise ValueError(f"drop_path must be in [0, 1), got {self.drop_path}")
        super().__post_init__()

    @nn.compact
    def __call__(self, image: jax.Array, key: jax.Array | None = None) -> tuple[jax.Array, tuple[jax.Array, ...]]:
        """Restore or enlarge.

        Args:
          image: [B, H, W, colours] float32 in [0, 1], any size; it is filled up to whole windows by reflection at the
            bottom and at the right.
          key: random key of stochastic depth, for training; None drops nothing.

        Returns:
          prediction [B, scale H, scale W, colours] float32, near [0, 1] and not clipped; and the taps, one
          [B, H', W', channels] per group in the compute dtype, H' and W' the next multiples of the window.

        Raises:
          ValueError: not such an image.
        """
        if image.ndim != 4 or image.shape[-1] != self.colours or 0 in image.shape:
            raise ValueError(f"SwinIR needs images [B, H, W, {self.colours}], got {image.shape}")
        height, width = image.shape[1:3]
        mean = jnp.asarray(RGB_MEAN if self.colours == 3 else (0.0,), jnp.float32)[None, None, None, :]
        x = (whole_windows(image, self.window) - mean) * self.value_range
        shallow = nn.Conv(self.channels, (3, 3), dtype=self.dtype, name="conv_in")(x.astype(self.dtype))
        deep, taps = self._groups(NORM(name="norm_in")(shallow), key)
        deep = residual_conv(NORM(name="norm_out")(deep), self.residual, self.dtype, "conv_body")
        y = Head(self.head, self.scale, self.colours, self.dtype, name="head")(shallow + deep)
        y = (x + y if self.head == "none" else y) / self.value_range + mean
        return y[:, : height * self.scale, : width * self.scale], taps

    def _groups(self, h: jax.Array, key: jax.Array | None) -> tuple[jax.Array, tuple[jax.Array, ...]]:
        """All groups: (the last one's output, each one's output)."""
        keep = None if key is None else survivors(key, self.drop_path, sum(self.depths), h.shape[0])
        taps, first = [], 0
        for index, blocks in enumerate(self.depths):
            group = Group(
                blocks=blocks,
                heads=self.heads,
                window=self.window,
                shifted=self.image_size > self.window,
                mlp_ratio=self.mlp_ratio,
                residual=self.residual,
                dtype=self.dtype,
                name=f"group_{index}",
            )
            h = group(h, None if keep is None else keep[first : first + blocks])
            taps.append(h)
            first += blocks
        return h, tuple(taps)


def survivors(key: jax.Array, rate: float, blocks: int, batch: int) -> jax.Array:
    """Factors of stochastic depth: [blocks, 2, batch] float32, 0 or 1 / (1 - the block's rate), with mean 1.

    Huang et al., "Deep Networks with Stochastic Depth" (ECCV 2016), with a draw per example and branch.

    Args:
      key: random key.
      rate: probability of 0 in the last block; it grows linearly from 0 at the first.
      blocks: how many.
      batch: examples.
    """
    kept = jnp.asarray(1.0 - np.linspace(0.0, rate, blocks), jnp.float32)[:, None, None]
    return (jax.random.uniform(key, (blocks, 2, batch), jnp.float32) < kept).astype(jnp.float32) / kept


def whole_windows(image: jax.Array, window: int) -> jax.Array:
    """[B, H, W, C] → its sides filled up to multiples of the window, by reflection (repeated on very small images)."""
    more = [-side % window for side in image.shape[1:3]]
    return jnp.pad(image, ((0, 0), (0, more[0]), (0, more[1]), (0, 0)), mode="reflect")


def residual_conv(x: jax.Array, kind: str, dtype: Dtype, name: str) -> jax.Array:
    """One convolution `name`, or three, `name`_0, _2 and _4 (their places in the checkpoints' lists); same channels."""
    channels = x.shape[-1]
    if kind == "1conv":
        return nn.Conv(channels, (3, 3), dtype=dtype, name=name)(x)
    x = nn.leaky_relu(nn.Conv(channels // 4, (3, 3), dtype=dtype, name=f"{name}_0")(x), 0.2)
    x = nn.leaky_relu(nn.Conv(channels // 4, (1, 1), dtype=dtype, name=f"{name}_2")(x), 0.2)
    return nn.Conv(channels, (3, 3), dtype=dtype, name=f"{name}_4")(x)


def pixel_shuffle(x: jax.Array, step: int) -> jax.Array:
    """[B, H, W, C step²] → [B, step H, step W, C]; the places of a pixel are the fastest part of the channel axis.

    Shi et al., "Real-Time Single Image and Video Super-Resolution Using an Efficient Sub-Pixel Convolutional Neural
    Network" (CVPR 2016).
    """
    batch, height, width, channels = x.shape
    x = x.reshape(batch, height, width, channels // step**2, step, step).transpose(0, 1, 4, 2, 5, 3)
    return x.reshape(batch, height * step, width * step, channels // step**2)
