"""The generator of SupResDiffGAN: a latent U-Net of residual blocks that estimates the clean latent.

Kopeć et al., "SupResDiffGAN: a new approach for the Super-Resolution task" (2025, arXiv 2504.13622), with the layers of
diffusers' `UNet2DModel`: residual blocks also resample, and only the middle has attention. Its time is ᾱ_t of the noisy
latent, not the index t. One tap per level and the middle: down 0 … down L-1, middle, up 0 … up L-1, where up 0 is the
coarsest; the last one is FRAMER's teacher.
"""

from __future__ import annotations

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp

from framer_jax.knobs import check_knobs, knob
from framer_jax.models.autoencoder_layers import PositionAttention
from framer_jax.models.denoiser import LR_LATENT, Condition, Taps, condition_entry
from framer_jax.models.layers import (
    GROUPS,
    Dtype,
    GroupNorm,
    ResidualBlock,
    TimeEmbedding,
)

TIME_WIDTH_RATIO = 4
"""Features of the time embedding, as a multiple of the width of the finest level."""


class SupResDiffGanUNet(nn.Module):
    """The network; the default knobs are those of the release.

    Attributes:
      out_channels: channels of the latents, also of the LR latent.
      dtype: compute dtype; parameters, norms, softmax and the prediction are float32.
    """

    out_channels: int = 4
    channels: tuple[int, ...] = knob(
        (64, 96, 128, 512), "Width of each level, from the finest; multiples of the groups.", at_least=1, at_most=65536
    )
    blocks: int = knob(
        2,
        "Residual blocks per level on the way down; one more on the way up.",
        at_least=1,
        at_most=1000,
    )
    head_width: int = knob(32, "Channels of a head of the middle's attention.", at_least=1, at_most=65536)
    groups: int = knob(GROUPS, "Groups of the GroupNorms.", at_least=1, at_most=65536)
    dtype: Dtype = jnp.float32

    def __post_init__(self) -> None:
        check_knobs(self)
        if wrong := [width for width in self.channels if width % self.groups]:
            raise ValueError(f"channels hold {wrong[0]}: they must be multiples of the {self.groups} groups")
        if self.channels[-1] % self.head_width:
            raise ValueError(
                f"head_width is {self.head_width}: it must divide the width of the last level, {self.channels[-1]}"
            )
        super().__post_init__()

    @property
    def taps(self) -> str:
        """The taps are feature maps."""
        return "hidden"

    @property
    def tap_count(self) -> int:
        """One tap per level in each direction, and that of the middle."""
        return 2 * len(self.channels) + 1

    @property
    def downsampling(self) -> int:
        """The condition lies on the grid of the latents."""
        return 1

    @property
    def size_multiple(self) -> int:
        """Sides of the latents must be multiples of this."""
        return 2 ** (len(self.channels) - 1)

    @nn.compact
    def __call__(self, x: jax.Array, t: jax.Array, condition: Condition) -> tuple[jax.Array, Taps]:
        """Estimate the clean latent.

        Args:
          x: [B, H, W, out_channels] float32, the noisy latent.
          t: [B] float32 in [0, 1], its ᾱ.
          condition: 'lr_latent', like x: the latent of the upsampled LR image.

        Returns:
          estimate [B, H, W, out_channels] float32, and the taps: level l's has its width, and on the way down sides H /
          2^(l + 1), H / 2^l for the last level; on the way up twice those of the tap before it, up to H.

        Raises:
          ValueError: H or W is not a multiple of `size_multiple`, or the LR latent is missing or of another shape.
        """
        lr = condition_entry(condition, LR_LATENT)
        if x.ndim != 4 or x.shape[1] % self.size_multiple or x.shape[2] % self.size_multiple:
            raise ValueError(f"the U-Net needs sides that are multiples of {self.size_multiple}, got {x.shape[1:3]}")
        if lr.shape != x.shape or x.shape[3] != self.out_channels:
            raise ValueError(
                f"x and the LR latent have shapes {x.shape} and {lr.shape}: both must be [B, H, W, {self.out_channels}]"
            )
        width = self.channels[0]
        time = TimeEmbedding(TIME_WIDTH_RATIO * width, self.dtype, sinusoids=width, name="time")(t)  # [B, 4 width]
        h = jnp.concatenate([x, lr], axis=-1).astype(self.dtype)  # [B, H, W, 2 out_channels]
        h = nn.Conv(width, (3, 3), dtype=self.dtype, name="conv_in")(h)
        skips, down = self._down(h, time)
        middle = self._middle(down[-1], time)
        up = self._up(middle, skips, time)
        h = nn.silu(GroupNorm(self.groups, name="norm_out")(up[-1]))
        prediction = nn.Conv(self.out_channels, (3, 3), name="conv_out")(h.astype(jnp.float32))
        return prediction, (*down, middle, *up)

    def _block(self, width: int, name: str, resample: str = "") -> ResidualBlock:
        """A residual block; `resample`: '', 'down' or 'up'."""
        norm = partial(GroupNorm, self.groups)
        return ResidualBlock(width, self.dtype, norm, "add", resample, name=name)

    def _down(self, h: jax.Array, time: jax.Array) -> tuple[list[jax.Array], list[jax.Array]]:
        """The way down from [B, H, W, channels[0]]: the maps for the way up, and the taps."""
        skips, taps = [h], []
        for level, width in enumerate(self.channels):
            for index in range(self.blocks):
                h = self._block(width, f"down_{level}_block_{index}")(h, time)  # [B, H_l, W_l, width]
                skips.append(h)
            if level < len(self.channels) - 1:
                h = self._block(width, f"down_{level}_to_coarse", "down")(h, time)  # [B, H_l / 2, W_l / 2, width]
                skips.append(h)
            taps.append(h)
        return skips, taps

    def _middle(self, h: jax.Array, time: jax.Array) -> jax.Array:
        """[B, H_L, W_L, channels[-1]] → the same shape."""
        width = self.channels[-1]
        h = self._block(width, "middle_block_0")(h, time)
        norm, heads = partial(GroupNorm, self.groups), width // self.head_width
        h = PositionAttention(self.dtype, norm, dense=True, heads=heads, name="middle_attention")(h)
        return self._block(width, "middle_block_1")(h, time)

    def _up(self, h: jax.Array, skips: list[jax.Array], time: jax.Array) -> list[jax.Array]:
        """The way up, which uses the maps of the way down from the last one: the taps."""
        taps = []
        for level, width in enumerate(reversed(self.channels)):
            for index in range(self.blocks + 1):
                h = jnp.concatenate([h, skips.pop()], axis=-1)
                h = self._block(width, f"up_{level}_block_{index}")(h, time)  # [B, H_l, W_l, width]
            if level < len(self.channels) - 1:
                h = self._block(width, f"up_{level}_to_fine", "up")(h, time)  # [B, 2 H_l, 2 W_l, width]
            taps.append(h)
        return taps
