"""A small convolutional U-Net denoiser for latents at (or near) the resolution of the LR image.

Designed here, for laptops: residual blocks with per-position norms and FiLM time conditioning, without attention. One
tap per resolution level: down 0 … down L-2, middle, up L-2 … up 0; the last one is FRAMER's teacher.
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from framer_jax.knobs import check_knobs, knob
from framer_jax.models.denoiser import IMAGE, Condition, Taps, condition_entry
from framer_jax.models.layers import Dtype, LayerNorm, ResidualBlock, TimeEmbedding, local_contrast

CONTRAST_GAIN = 4.0
"""Gain of the LR image's local contrast, which the network sees in addition to the image."""


class UNet(nn.Module):
    """The denoiser; sides of x must be multiples of 2^(levels - 1). Its knobs are documented where they are defined.

    Attributes:
      out_channels: channels of the prediction.
      dtype: compute dtype; parameters are float32.
    """

    out_channels: int
    channels: tuple[int, ...] = knob((64, 96, 128), "Width of each level, from the finest.", at_least=1, at_most=65536)
    blocks: int = knob(
        2, "Residual blocks per level on the way down, and again on the way up.", at_least=1, at_most=1000
    )
    condition_blocks: int = knob(
        2,
        "Residual blocks that process the LR image before it is added to the features of the noise.",
        at_least=0,
        at_most=1000,
    )
    time_width: int = knob(128, "Features of the time embedding.", at_least=2, at_most=65536)
    dtype: Dtype = jnp.float32

    def __post_init__(self) -> None:
        check_knobs(self)
        super().__post_init__()

    @property
    def taps(self) -> str:
        """The taps are feature maps."""
        return "hidden"

    @property
    def tap_count(self) -> int:
        """One tap per level on the way down, and one per finer level on the way up."""
        return 2 * len(self.channels) - 1

    @property
    def downsampling(self) -> int:
        """The condition image lies on the grid of the latents."""
        return 1

    @property
    def size_multiple(self) -> int:
        """Sides of the latents must be multiples of this."""
        return 2 ** (len(self.channels) - 1)

    @nn.compact
    def __call__(self, x: jax.Array, t: jax.Array, condition: Condition) -> tuple[jax.Array, Taps]:
        """Predict from noisy latents.

        Args:
          x: [B, H, W, C] float32 noisy latents, of about unit variance.
          t: [B] float32 times.
          condition: 'image', [B, H, W, D] float32, on the grid of the latents.

        Returns:
          prediction [B, H, W, out_channels] float32, and the taps, [B, H / 2^l, W / 2^l, channels[l]] each.

        Raises:
          ValueError: H or W is not a multiple of `size_multiple`, or the condition lacks its image.
        """
        image = condition_entry(condition, IMAGE)
        if x.shape[1] % self.size_multiple or x.shape[2] % self.size_multiple:
            raise ValueError(f"the U-Net needs sides that are multiples of {self.size_multiple}, got {x.shape[1:3]}")
        time = TimeEmbedding(self.time_width, self.dtype, name="time")(t)  # [B, time_width]
        features = self._condition_features(image, time)
        h = nn.Conv(self.channels[0], (3, 3), dtype=self.dtype, name="conv_in")(x.astype(self.dtype)) + features
        last, skips, taps = len(self.channels) - 1, [], []
        for level, width in enumerate(self.channels):
            name = f"down_{level}" if level < last else "middle"
            for index in range(self.blocks):
                h = ResidualBlock(width, self.dtype, name=f"{name}_block_{index}")(h, time)
            taps.append(h)
            if level < last:
                skips.append(h)
                h = nn.Conv(self.channels[level + 1], (3, 3), (2, 2), dtype=self.dtype, name=f"{name}_to_coarse")(h)
        for level in reversed(range(last)):
            width = self.channels[level]
            # A 1x1 convolution to four sub-positions, then rearranged: upsampling without a wide convolution.
            h = nn.Conv(4 * width, (1, 1), dtype=self.dtype, name=f"up_{level}_to_fine")(h)
            h = jnp.concatenate([depth_to_space(h), skips[level]], axis=-1)  # [B, H_l, W_l, 2 width]
            h = nn.Conv(width, (1, 1), dtype=self.dtype, name=f"up_{level}_merge")(h)
            for index in range(self.blocks):
                h = ResidualBlock(width, self.dtype, name=f"up_{level}_block_{index}")(h, time)
            taps.append(h)
        h = nn.silu(LayerNorm(name="norm_out")(h))
        # The head and what follows it are float32: predictions feed losses and samplers.
        prediction = nn.Conv(self.out_channels, (3, 3), kernel_init=nn.initializers.zeros, name="conv_out")(
            h.astype(jnp.float32)
        )
        return prediction, tuple(taps)

    def _condition_features(self, image: jax.Array, time: jax.Array) -> jax.Array:
        """[B, H, W, D] → [B, H, W, channels[0]].

        The LR image is processed before it is added to the noise: concatenated to 48 channels of unit noise, its faint
        local contrast would take thousands of steps to be learned.
        """
        h = jnp.concatenate([image, CONTRAST_GAIN * local_contrast(image)], axis=-1).astype(self.dtype)
        h = nn.Conv(self.channels[0], (3, 3), dtype=self.dtype, name="condition_in")(h)
        for index in range(self.condition_blocks):
            h = ResidualBlock(self.channels[0], self.dtype, name=f"condition_block_{index}")(h, time)
        return h


def depth_to_space(x: jax.Array) -> jax.Array:
    """[B, H, W, 4C] → [B, 2H, 2W, C]."""
    batch, height, width, channels = x.shape
    x = x.reshape(batch, height, width, 2, 2, channels // 4).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(batch, 2 * height, 2 * width, channels // 4)
