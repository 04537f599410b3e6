"""A small convolutional U-Net denoiser for latents at (or near) the resolution of the LR image.

Ours, for laptops: residual blocks with per-position norms and FiLM time conditioning, no attention by default. One tap
per resolution-level block: down 0 … down L-2, middle, up L-2 … up 0; the last one is FRAMER's teacher.
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from framer_jax.models.layers import ChannelNorm, Dtype, ResidualBlock, TimeEmbedding, local_contrast


class UNet(nn.Module):
    """The denoiser; sides of x must be multiples of 2^(levels - 1).

    Attributes:
      out_channels: channels of the prediction.
      channels: width of each level, from the finest.
      blocks: residual blocks per level on the way down, and again on the way up.
      condition_blocks: residual blocks that the condition passes before it meets the noisy latents.
      time_width: width of the time embedding.
      dtype: compute dtype; parameters are float32.
    """

    out_channels: int
    channels: tuple[int, ...] = (64, 96, 128)
    blocks: int = 2
    condition_blocks: int = 2
    time_width: int = 128
    dtype: Dtype = jnp.float32

    @property
    def multiple(self) -> int:
        """Sides of the input must be multiples of this."""
        return 2 ** (len(self.channels) - 1)

    @nn.compact
    def __call__(self, x: jax.Array, t: jax.Array, condition: jax.Array) -> tuple[jax.Array, tuple[jax.Array, ...]]:
        """Predict from noisy latents.

        Args:
          x: [B, H, W, C] float32 noisy latents, of about unit variance.
          t: [B] float32 times.
          condition: [B, H, W, D] float32, what is known of the image, on the same grid.

        Returns:
          prediction [B, H, W, out_channels] float32, and the taps, [B, H / 2^l, W / 2^l, channels[l]] each.

        Raises:
          ValueError: H or W is not a multiple of `multiple`.
        """
        if x.shape[1] % self.multiple or x.shape[2] % self.multiple:
            raise ValueError(f"the U-Net needs sides that are multiples of {self.multiple}, got {x.shape[1:3]}")
        time = TimeEmbedding(self.time_width, self.dtype, name="time")(t)  # [B, time_width]
        # The LR image has features of its own before it meets the noise: beside 48 channels of unit noise, its faint
        # local contrast would take thousands of steps to be found.
        known = jnp.concatenate([condition, 4.0 * local_contrast(condition)], axis=-1).astype(self.dtype)
        known = nn.Conv(self.channels[0], (3, 3), dtype=self.dtype, name="condition_in")(known)
        for index in range(self.condition_blocks):
            known = ResidualBlock(self.channels[0], self.dtype, name=f"condition_block_{index}")(known, time)
        h = nn.Conv(self.channels[0], (3, 3), dtype=self.dtype, name="conv_in")(x.astype(self.dtype)) + known
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
            # 1x1 to four sub-positions, then rearranged: an upsampling without a wide convolution.
            h = nn.Conv(4 * width, (1, 1), dtype=self.dtype, name=f"up_{level}_to_fine")(h)
            h = jnp.concatenate([depth_to_space(h), skips[level]], axis=-1)  # [B, H_l, W_l, 2 width]
            h = nn.Conv(width, (1, 1), dtype=self.dtype, name=f"up_{level}_merge")(h)
            for index in range(self.blocks):
                h = ResidualBlock(width, self.dtype, name=f"up_{level}_block_{index}")(h, time)
            taps.append(h)
        h = nn.silu(ChannelNorm(name="norm_out")(h))
        # The head and what follows it are float32: predictions feed losses and samplers.
        prediction = nn.Conv(self.out_channels, (3, 3), kernel_init=nn.initializers.zeros, name="conv_out")(
            h.astype(jnp.float32)
        )
        return prediction, tuple(taps)


def depth_to_space(x: jax.Array) -> jax.Array:
    """[B, H, W, 4C] → [B, 2H, 2W, C]."""
    batch, height, width, channels = x.shape
    x = x.reshape(batch, height, width, 2, 2, channels // 4).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(batch, 2 * height, 2 * width, channels // 4)
