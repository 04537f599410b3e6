"""ControlNet for Stable Diffusion 2's U-Net: a copy of its way down that sees an image, and adds to its features.

Zhang, Rao and Agrawala, "Adding Conditional Control to Text-to-Image Diffusion Models" (ICCV 2023), Section 3; the
control branch of SeeSR is this network with attention to image tokens (`image_context_width`). The defaults fit the
defaults of framer_jax.models.sd_unet.SDUNet. Written from the names and shapes of diffusers' checkpoints, which
framer_jax.porting reads.
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from framer_jax.knobs import knob
from framer_jax.models.denoiser import IMAGE, Condition, condition_entry
from framer_jax.models.layers import Dtype
from framer_jax.models.resshift_unet import downsampling_conv
from framer_jax.models.sd_unet import ControlResiduals, SDNetwork

LEAST_GUESS = 0.1
"""Factor of the first residual in guess mode."""


class ImageEmbedding(nn.Module):
    """Features of the image on the grid of the latents; zero before any training.

    Attributes:
      features: channels of the result.
      channels: width of each level, from that of the image on; each level but the first halves the sides.
      dtype: compute dtype.
    """

    features: int
    channels: tuple[int, ...]
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, image: jax.Array) -> jax.Array:
        """[B, d H, d W, D] → [B, H, W, features], d = 2^(levels - 1)."""
        h = nn.silu(nn.Conv(self.channels[0], (3, 3), dtype=self.dtype, name="conv_in")(image.astype(self.dtype)))
        for index, (before, after) in enumerate(zip(self.channels[:-1], self.channels[1:], strict=True)):
            # Names hold the indices in the checkpoints' list of convolutions.
            h = nn.silu(nn.Conv(before, (3, 3), dtype=self.dtype, name=f"conv_{2 * index}")(h))
            h = nn.silu(downsampling_conv(after, self.dtype, f"conv_{2 * index + 1}")(h))
        return nn.Conv(self.features, (3, 3), dtype=self.dtype, kernel_init=nn.initializers.zeros, name="conv_out")(h)


class ControlNet(SDNetwork):
    """The network. Its other attributes are those of SDNetwork, and must be those of the U-Net that it controls.

    Attributes:
      in_channels: channels of the latents.
      image_channels: channels of the image.
    """

    in_channels: int = 4
    image_channels: int = 3
    image_widths: tuple[int, ...] = knob(
        (16, 32, 96, 256),
        "Widths of the convolutions that see the image, from its own resolution down to that of the latents.",
        at_least=1,
        at_most=65536,
    )

    @property
    def downsampling(self) -> int:
        """How many times finer per axis the image must be than the latents."""
        return int(2 ** (len(self.image_widths) - 1))

    @nn.compact
    def __call__(self, x: jax.Array, t: jax.Array, condition: Condition) -> ControlResiduals:
        """The residuals of a U-Net for the same latents and times.

        Args:
          x: [B, H, W, in_channels] float32 noisy latents, of about unit variance.
          t: [B] times from 0 to 999, float32 or integers.
          condition: as of the U-Net, and 'image', [B, d H, d W, image_channels] float32 in [-1, 1], d
            the downsampling factor. (The published networks take images in [0, 1]: the range is changed here.)

        Returns:
          the residuals, in the compute dtype; `scale_residuals` weights them. Before any training they are zero.

        Raises:
          ValueError: the condition lacks an entry, or a shape does not fit.
        """
        self.check_latents(x, self.in_channels, "the ControlNet")
        image = condition_entry(condition, IMAGE)
        sides = tuple(side * self.downsampling for side in x.shape[1:3])
        if image.shape != (x.shape[0], *sides, self.image_channels):
            raise ValueError(
                f"the ControlNet needs an image {(x.shape[0], *sides, self.image_channels)} with latents of "
                f"{x.shape[1:3]}, got {image.shape}: resize the image to {self.downsampling} times their sides"
            )
        contexts = self.contexts(x, condition)
        embed = ImageEmbedding(self.channels[0], self.image_widths, self.dtype, name="image")
        h = self.embed_latents(x) + embed(0.5 * image + 0.5)
        skips, taps = self.encode(h, self.embed_time(t), contexts)
        down = tuple(self._zero_conv(skip, f"control_{number}") for number, skip in enumerate(skips))
        return ControlResiduals(down, self._zero_conv(taps[-1], "control_middle"))

    def _zero_conv(self, h: jax.Array, name: str) -> jax.Array:
        zeros = nn.initializers.zeros
        return nn.Conv(h.shape[-1], (1, 1), dtype=self.dtype, kernel_init=zeros, name=name)(h)


def scale_residuals(
    residuals: ControlResiduals, scale: float | jax.Array = 1.0, guess_mode: bool = False
) -> ControlResiduals:
    """Weight the residuals of a ControlNet.

    Args:
      residuals: its output.
      scale: factor of all residuals (diffusers' `controlnet_conditioning_scale`), may be traced.
      guess_mode: whether residuals of finer maps are reduced further: factors that grow geometrically from 0.1 for the
        first one to 1 for the middle one, for samples that are not guided by a text.
    """
    leaves = (*residuals.down, residuals.middle)
    factors = np.geomspace(LEAST_GUESS, 1.0, len(leaves)) if guess_mode else np.ones(len(leaves))
    scaled = [
        leaf * jnp.asarray(scale * np.float32(factor), leaf.dtype) for leaf, factor in zip(leaves, factors, strict=True)
    ]
    return ControlResiduals(tuple(scaled[:-1]), scaled[-1])
