"""The denoiser of ResShift and SinSR: a U-Net with the attention of Swin Transformers.

Yue, Wang and Loy, "ResShift" (NeurIPS 2023); Liu et al., "Swin Transformer" (ICCV 2021). The defaults are the published
configuration with 118,593,583 parameters; published weights are read by framer_jax.porting. Written from the layer
table and from measurements of the released checkpoints. One tap per resolution level: down 0 … down L-1, middle,
up L-1 … up 0; the last one is FRAMER's teacher.
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from framer_jax.knobs import check_knobs, knob
from framer_jax.models.denoiser import IMAGE, Condition, Taps, condition_entry
from framer_jax.models.layers import GROUPS, TIMES, Dtype, GroupNorm, ResidualBlock, TimeEmbedding, local_contrast
from framer_jax.models.resampling import downsample_mean, upsample_nearest, upsampling_conv
from framer_jax.models.swin import VARIANTS, SwinLayer, hidden_width

RESAMPLINGS = ("conv", "block", "plain")
"""How the map is resampled between two levels: by a convolution; by a residual block around means and repetition; or by
means and repetition alone."""


class ConditionFeatures(nn.Module):
    """Features of a condition image that is finer than the latents, downsampled to their grid.

    Attributes:
      downsampling: downsampling factor per axis, a power of two; 1 returns the image itself.
      channels: width before the first downsampling; each one doubles it.
      dtype: compute dtype.
    """

    downsampling: int
    channels: int = 16
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, d H, d W, D] → [B, H, W, d channels], d the downsampling factor (D channels if it is 1)."""
        width = self.channels
        for index in range(self.downsampling.bit_length() - 1):
            # Names hold the indices in the checkpoints' list of modules: convolution, activation, strided convolution.
            x = nn.silu(nn.Conv(width, (3, 3), dtype=self.dtype, name=f"conv_{3 * index}")(x))
            width *= 2
            x = downsampling_conv(width, self.dtype, f"to_coarse_{3 * index + 2}")(x)
        return x


class SwinUNet(nn.Module):
    """The denoiser. Its knobs are documented where they are defined.

    Blocks are named by their index along the forward pass, as in the released checkpoints: down_0 is the first
    convolution, and every residual block and every downsampling counts; up_0 is the first block after the middle. A
    Swin layer follows the first residual block of each level (of `swin_levels`), on the way down and up, and one is in
    the middle.

    Attributes:
      out_channels: channels of the prediction.
      dtype: compute dtype; parameters, norms, softmax and the prediction are float32.
    """

    out_channels: int = 3
    channels: int = knob(160, "Width of the finest level.", at_least=1, at_most=65536)
    multipliers: tuple[int, ...] = knob(
        (1, 2, 2, 4), "Width of each level as a multiple of channels.", at_least=1, at_most=64
    )
    blocks: tuple[int, ...] = knob(
        (2, 2, 2, 2),
        "Residual blocks of each level on the way down; the way up has one more per level.",
        at_least=1,
        at_most=1000,
    )
    swin_channels: int = knob(192, "Width of the Swin layers.", at_least=1, at_most=65536)
    swin_blocks: int = knob(2, "Swin blocks per layer.", at_least=1, at_most=1000)
    head_channels: int = knob(32, "Width of an attention head.", at_least=1, at_most=4096)
    window: int = knob(8, "Side of an attention window.", unit="latent positions", at_least=1, at_most=1024)
    swin_levels: tuple[int, ...] | None = knob(
        None,
        "Levels with Swin layers, 0 the finest; None: all. There is always one in the middle.",
        at_least=0,
        at_most=63,
        empty=True,
    )
    mlp_ratio: float = knob(
        4, "Width of the MLPs as a multiple of that of the Swin layers, rounded down.", above=0, at_most=64
    )
    time: str = knob(
        "scale_shift",
        "How residual blocks take the time: scale_shift (of the second norm, as published) or add (to its input).",
        choices=TIMES,
    )
    resampling: str = knob(
        "conv",
        "Between levels: conv (a convolution, as published), block (a residual block around 2x2 means, or "
        "repetition) or plain (means, or repetition, alone).",
        choices=RESAMPLINGS,
    )
    image_size: int = knob(
        64,
        "Nominal side of the latents; it decides which levels shift their windows (those where it exceeds the window), "
        "whatever the side of the input.",
        unit="latent positions",
        at_least=1,
        at_most=16_384,
    )
    condition_size: int = knob(
        64,
        "Side of the condition image where the latents have side image_size: the same, or a power of two larger.",
        unit="pixels",
        at_least=1,
        at_most=16_384,
    )
    condition_channels: int = knob(
        3,
        "Channels of the condition image: 3, or 4 with the mask of an inpainting network (1 in the region to fill, -1 "
        "elsewhere), which no method here trains.",
        choices=(3, 4),
    )
    contrast: float = knob(
        0.0,
        "Gain of the LR image's local contrast as a further input, with which small networks learn its faint structure "
        "sooner; 0 for none, as published.",
        at_least=0,
        at_most=1000,
    )
    variant: str = knob(
        "released",
        "Mask of shifted windows: released (as in the published weights) or correct (as in the Swin paper).",
        choices=VARIANTS,
    )
    dtype: Dtype = jnp.float32

    def __post_init__(self) -> None:
        check_knobs(self)
        if len(self.multipliers) != len(self.blocks):
            raise ValueError(
                f"blocks is {self.blocks}: it must hold a number of blocks for each of the levels of multipliers, "
                f"{self.multipliers}"
            )
        if self.channels % GROUPS:
            raise ValueError(f"channels is {self.channels}: it must be a multiple of the {GROUPS} groups of GroupNorm")
        if self.swin_channels % self.head_channels:
            raise ValueError(
                f"swin_channels is {self.swin_channels}: it must be a multiple of head_channels ({self.head_channels})"
            )
        if self.image_size * self.downsampling != self.condition_size:
            raise ValueError(
                f"condition_size is {self.condition_size}: it must be image_size ({self.image_size}) times a power of "
                "two"
            )
        levels = range(len(self.multipliers))
        if not set(self.swin_levels or ()) <= set(levels):
            raise ValueError(
                f"swin_levels is {self.swin_levels}: it must hold levels from 0 to {levels[-1]}, or be None"
            )
        if hidden_width(self.swin_channels, self.mlp_ratio) < 1:
            raise ValueError(f"mlp_ratio is {self.mlp_ratio}: {self.swin_channels} channels times it is less than one")
        super().__post_init__()

    @property
    def taps(self) -> str:
        """The taps are feature maps."""
        return "hidden"

    @property
    def tap_count(self) -> int:
        """One tap per level on the way down, one of the middle, and one per level on the way up."""
        return 2 * len(self.multipliers) + 1

    @property
    def downsampling(self) -> int:
        """Factor per axis by which the condition image is downsampled to the grid of the latents."""
        return 2 ** (max(self.condition_size // self.image_size, 1).bit_length() - 1)

    @property
    def size_multiple(self) -> int:
        """Sides of the latents must be multiples of this."""
        return self.window * 2 ** (len(self.multipliers) - 1)

    @nn.compact
    def __call__(self, x: jax.Array, t: jax.Array, condition: Condition) -> tuple[jax.Array, Taps]:
        """Predict from noisy latents.

        Args:
          x: [B, H, W, C] float32 noisy latents, divided by their standard deviation.
          t: [B] time indices, float32 or integers.
          condition: 'image', the LR image [B, d H, d W, condition_channels] float32 in [-1, 1], d = `downsampling`
            (usually 1); of 4 channels, the last is the mask.

        Returns:
          prediction [B, H, W, out_channels] float32, and the taps, [B, H / 2^l, W / 2^l, channels multipliers[l]] each.

        Raises:
          ValueError: H or W is not a multiple of `size_multiple`, or the condition lacks its image or has another size.
        """
        image = condition_entry(condition, IMAGE)
        self._check_sizes(x, image)
        time = TimeEmbedding(4 * self.channels, self.dtype, self.channels, name="time")(t)  # [B, 4 channels]
        if self.contrast:
            image = jnp.concatenate([image, jnp.float32(self.contrast) * local_contrast(image)], axis=-1)
        features = ConditionFeatures(self.downsampling, dtype=self.dtype, name="condition")(image.astype(self.dtype))
        h = jnp.concatenate([x.astype(self.dtype), features], axis=-1)
        h = nn.Conv(self.channels, (3, 3), dtype=self.dtype, name="conv_in")(h)
        h, skips, taps = self._down(h, time)
        last = len(self.multipliers) - 1
        h = self._block(last, "middle_0")(h, time)
        h = self._block(last, "middle_2")(self._swin(last, "middle_1")(h), time)
        taps.append(h)
        h, taps_up = self._up(h, time, skips)
        h = nn.silu(GroupNorm(name="norm_out")(h))
        # The head and what follows it are float32: predictions feed losses and samplers.
        prediction = nn.Conv(self.out_channels, (3, 3), name="conv_out")(h.astype(jnp.float32))
        return prediction, (*taps, *taps_up)

    def _down(self, h: jax.Array, time: jax.Array) -> tuple[jax.Array, list[jax.Array], list[jax.Array]]:
        """From the first convolution to the coarsest level: (h, skips for the way up, one tap per level)."""
        skips, taps, number = [h], [], 1
        for level, count in enumerate(self.blocks):
            for index in range(count):
                h = self._block(level, f"down_{number}_block")(h, time)
                if index == 0 and self._has_swin(level):
                    h = self._swin(level, f"down_{number}_swin")(h)
                skips.append(h)
                number += 1
            taps.append(h)
            if level < len(self.blocks) - 1:
                h = self._to_coarse(h, time, level, number)
                skips.append(h)
                number += 1
        return h, skips, taps

    def _up(self, h: jax.Array, time: jax.Array, skips: list[jax.Array]) -> tuple[jax.Array, list[jax.Array]]:
        """From the middle to the finest level: (h, one tap per level)."""
        taps, number = [], 0
        for level in reversed(range(len(self.blocks))):
            for index in range(self.blocks[level] + 1):
                h = jnp.concatenate([h, skips.pop()], axis=-1)
                h = self._block(level, f"up_{number}_block")(h, time)
                if index == 0 and self._has_swin(level):
                    h = self._swin(level, f"up_{number}_swin")(h)
                number += 1
            taps.append(h)
            if level:
                h = self._to_fine(h, time, level, f"up_{number - 1}_to_fine")
        return h, taps

    def _to_coarse(self, h: jax.Array, time: jax.Array, level: int, number: int) -> jax.Array:
        if self.resampling == "conv":
            return downsampling_conv(h.shape[-1], self.dtype, f"down_{number}_to_coarse")(h)
        if self.resampling == "block":
            return self._block(level, f"down_{number}_block", "down")(h, time)
        return downsample_mean(h)

    def _to_fine(self, h: jax.Array, time: jax.Array, level: int, name: str) -> jax.Array:
        if self.resampling == "block":
            return self._block(level, name, "up")(h, time)
        if self.resampling == "plain":
            return upsample_nearest(h)
        return upsampling_conv(h.shape[-1], self.dtype, name)(h)

    def _has_swin(self, level: int) -> bool:
        return self.swin_levels is None or level in self.swin_levels

    def _block(self, level: int, name: str, resample: str = "") -> ResidualBlock:
        width = self.channels * self.multipliers[level]
        return ResidualBlock(width, self.dtype, GroupNorm, self.time, resample, name=name)

    def _swin(self, level: int, name: str) -> SwinLayer:
        return SwinLayer(
            channels=self.swin_channels,
            blocks=self.swin_blocks,
            heads=self.swin_channels // self.head_channels,
            window=self.window,
            shifted=self.image_size >> level > self.window,
            mlp_ratio=self.mlp_ratio,
            variant=self.variant,
            dtype=self.dtype,
            name=name,
        )

    def _check_sizes(self, x: jax.Array, image: jax.Array) -> None:
        sides = x.shape[1:3]
        if any(side % self.size_multiple for side in sides):
            raise ValueError(f"the Swin U-Net needs sides that are multiples of {self.size_multiple}, got {sides}")
        expected = tuple(side * self.downsampling for side in sides)
        if image.shape[1:3] != expected:
            raise ValueError(f"latents of {sides} need a condition image of {expected}, got {image.shape[1:3]}")
        if image.shape[-1] != self.condition_channels:
            raise ValueError(
                f"condition_channels is {self.condition_channels}, and the condition image has {image.shape[-1]}: "
                + ("add the mask" if self.condition_channels == 4 else "leave out all but its colors")
            )


def downsampling_conv(channels: int, dtype: Dtype, name: str) -> nn.Conv:
    """A 3x3 convolution with stride 2 and one zero on every side (XLA's 'SAME' pads the end only)."""
    return nn.Conv(channels, (3, 3), (2, 2), padding=((1, 1), (1, 1)), dtype=dtype, name=name)
