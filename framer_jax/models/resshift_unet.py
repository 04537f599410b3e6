"""The denoiser of ResShift and SinSR: a U-Net whose attention is that of Swin Transformers.

Yue, Wang and Loy, "ResShift" (NeurIPS 2023); Liu et al., "Swin Transformer" (ICCV 2021). The defaults are the published
configuration, 118,593,583 parameters; published weights come through framer_jax.porting. Written from the layer table
and the measured facts of the released checkpoints. One tap per resolution-level block: down 0 … down L-1, middle,
up L-1 … up 0; the last one is FRAMER's teacher.
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from framer_jax.models.layers import Dtype, GroupNorm, ResidualBlock, TimeEmbedding, enlarge_nearest, local_contrast
from framer_jax.models.swin import MASKS, SwinLayer


class ConditionFeatures(nn.Module):
    """Features of a condition that is finer than the latents: halved in side, and widened, as often as it takes."""

    halvings: int
    channels: int = 16
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, 2^h H, 2^h W, D] → [B, H, W, channels 2^h], or x itself for no halving."""
        width = self.channels
        for index in range(self.halvings):
            # The numbers are the positions in the checkpoints' list of modules: conv, activation, conv with stride.
            x = nn.silu(nn.Conv(width, (3, 3), dtype=self.dtype, name=f"conv_{3 * index}")(x))
            width *= 2
            x = halving_conv(width, self.dtype, f"to_coarse_{3 * index + 2}")(x)
        return x


class SwinUNet(nn.Module):
    """The denoiser.

    Blocks are named by their places along the forward pass, as in the released checkpoints: down_0 is the first
    convolution, and every residual block and every halving counts; up_0 is the first block after the middle.

    Attributes:
      out_channels: channels of the prediction.
      channels: width of the finest level.
      multipliers: width of each level as a multiple of it.
      blocks: residual blocks of each level on the way down; on the way up there is one more.
      swin_channels, swin_blocks, head_channels, window, mlp_ratio: see SwinLayer; one such layer follows the first
        residual block of each level, on both ways, and one lies in the middle.
      image_size: side of the latents that the network was designed for. It decides which levels shift their windows
        (those where this nominal side exceeds the window), whatever the side of the input.
      condition_size: side of the condition where the latents have side `image_size`: the same, or a power of two more.
      contrast: gain of the condition's local contrast, which the network then sees beside the condition itself; 0 for
        the published model. Small networks on many noisy channels find the faint structure of the LR image sooner.
      mask: 'released' or 'correct', see framer_jax.models.swin.separated. Published weights need 'released'.
      dtype: compute dtype; parameters, norms, softmax and the prediction are float32.
    """

    out_channels: int = 3
    channels: int = 160
    multipliers: tuple[int, ...] = (1, 2, 2, 4)
    blocks: tuple[int, ...] = (2, 2, 2, 2)
    swin_channels: int = 192
    swin_blocks: int = 2
    head_channels: int = 32
    window: int = 8
    mlp_ratio: int = 4
    image_size: int = 64
    condition_size: int = 64
    contrast: float = 0.0
    mask: str = "released"
    dtype: Dtype = jnp.float32

    def __post_init__(self) -> None:
        if self.mask not in MASKS:
            raise ValueError(f"mask must be one of {', '.join(MASKS)}, not {self.mask!r}")
        if len(self.multipliers) != len(self.blocks) or min(self.blocks, default=0) < 1:
            raise ValueError(f"each of the levels {self.multipliers} needs a number of blocks, got {self.blocks}")
        if self.image_size * 2**self.halvings != self.condition_size:
            raise ValueError(
                f"condition_size must be image_size ({self.image_size}) times a power of two, not {self.condition_size}"
            )
        super().__post_init__()

    @property
    def multiple(self) -> int:
        """Sides of the latents must be multiples of this."""
        return self.window * 2 ** (len(self.multipliers) - 1)

    @property
    def halvings(self) -> int:
        """How often the condition is halved to lie on the grid of the latents."""
        return max(self.condition_size // self.image_size, 1).bit_length() - 1

    @nn.compact
    def __call__(self, x: jax.Array, t: jax.Array, condition: jax.Array) -> tuple[jax.Array, tuple[jax.Array, ...]]:
        """Predict from noisy latents.

        Args:
          x: [B, H, W, C] float32 noisy latents, divided by their standard deviation.
          t: [B] time indices, float32 or integers.
          condition: [B, H 2^h, W 2^h, D] float32 LR image in [-1, 1], h the `halvings` (usually none).

        Returns:
          prediction [B, H, W, out_channels] float32, and the taps, [B, H / 2^l, W / 2^l, channels multipliers[l]] each.

        Raises:
          ValueError: H or W is not a multiple of `multiple`, or the condition does not fit them.
        """
        self._check(x, condition)
        time = TimeEmbedding(4 * self.channels, self.dtype, self.channels, name="time")(t)  # [B, 4 channels]
        if self.contrast:
            condition = jnp.concatenate([condition, jnp.float32(self.contrast) * local_contrast(condition)], axis=-1)
        known = ConditionFeatures(self.halvings, dtype=self.dtype, name="condition")(condition.astype(self.dtype))
        h = jnp.concatenate([x.astype(self.dtype), known], axis=-1)
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
        """From the first convolution to the coarsest level: (h, what the way up takes in, one tap a level)."""
        skips, taps, place = [h], [], 1
        for level, count in enumerate(self.blocks):
            for index in range(count):
                h = self._block(level, f"down_{place}_block")(h, time)
                if index == 0:
                    h = self._swin(level, f"down_{place}_swin")(h)
                skips.append(h)
                place += 1
            taps.append(h)
            if level < len(self.blocks) - 1:
                h = halving_conv(h.shape[-1], self.dtype, f"down_{place}_to_coarse")(h)
                skips.append(h)
                place += 1
        return h, skips, taps

    def _up(self, h: jax.Array, time: jax.Array, skips: list[jax.Array]) -> tuple[jax.Array, list[jax.Array]]:
        """From the middle to the finest level: (h, one tap a level)."""
        taps, place = [], 0
        for level in reversed(range(len(self.blocks))):
            for index in range(self.blocks[level] + 1):
                h = jnp.concatenate([h, skips.pop()], axis=-1)
                h = self._block(level, f"up_{place}_block")(h, time)
                if index == 0:
                    h = self._swin(level, f"up_{place}_swin")(h)
                place += 1
            taps.append(h)
            if level:
                h = nn.Conv(h.shape[-1], (3, 3), dtype=self.dtype, name=f"up_{place - 1}_to_fine")(enlarge_nearest(h))
        return h, taps

    def _block(self, level: int, name: str) -> ResidualBlock:
        return ResidualBlock(self.channels * self.multipliers[level], self.dtype, GroupNorm, name=name)

    def _swin(self, level: int, name: str) -> SwinLayer:
        return SwinLayer(
            channels=self.swin_channels,
            blocks=self.swin_blocks,
            heads=self.swin_channels // self.head_channels,
            window=self.window,
            shifted=self.image_size >> level > self.window,
            mlp_ratio=self.mlp_ratio,
            mask=self.mask,
            dtype=self.dtype,
            name=name,
        )

    def _check(self, x: jax.Array, condition: jax.Array) -> None:
        sides = x.shape[1:3]
        if any(side % self.multiple for side in sides):
            raise ValueError(f"the Swin U-Net needs sides that are multiples of {self.multiple}, got {sides}")
        wanted = tuple(side << self.halvings for side in sides)
        if condition.shape[1:3] != wanted:
            raise ValueError(f"latents of {sides} need a condition of {wanted}, got {condition.shape[1:3]}")


def halving_conv(channels: int, dtype: Dtype, name: str) -> nn.Conv:
    """A 3x3 convolution with stride 2, one zero around the map (XLA's own 'SAME' pads the end only)."""
    return nn.Conv(channels, (3, 3), (2, 2), padding=((1, 1), (1, 1)), dtype=dtype, name=name)
