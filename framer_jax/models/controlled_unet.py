"""Stable Diffusion 2's U-Net with its ControlNet as one denoiser, conditioned on the LR image or on its latent.

The layout of SeeSR: Wu et al., "SeeSR: Towards Semantics-Aware Real-World Image Super-Resolution" (CVPR 2024), Section
3.3. The parameters are those of the two networks, 'unet' and 'controlnet'.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax

from framer_jax.knobs import inherited_knob, knob
from framer_jax.models.controlnet import ControlNet
from framer_jax.models.denoiser import IMAGE, LR_LATENT, Condition, Taps, condition_entry
from framer_jax.models.sd_unet import ControlResiduals, SDNetwork, SDUNet

UNET, CONTROLNET = "unet", "controlnet"
"""The two networks among the parameters."""

CONTROLS = ("image", "latent")
"""What the ControlNet may see: the upsampled LR image, as published, or its latent."""


class ControlledUNet(SDNetwork):
    """The denoiser; its other attributes are those of SDNetwork, and of both networks.

    Attributes:
      out_channels: channels of the latents and of the prediction.
    """

    out_channels: int = 4
    control: str = knob(
        "image",
        "What the ControlNet sees: image, the upsampled LR image, as published; latent, the latent of that image, so "
        "that precomputed latents can be trained on (image_widths then holds one width).",
        choices=CONTROLS,
    )
    image_widths: tuple[int, ...] = inherited_knob(ControlNet, "image_widths", (16, 32, 96, 256))
    image_context_width: int = knob(
        0,
        "Features of image tokens, to which a further attention layer after each one of the text attends; 0: no such "
        "layers. SeeSR has 512, of an encoder that this library does not have.",
        at_least=0,
        at_most=65536,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.control == "latent" and len(self.image_widths) != 1:
            raise ValueError(
                f"image_widths is {self.image_widths}: it must hold one width with control 'latent', as the latent has "
                "the resolution of the latents already"
            )

    @property
    def taps(self) -> str:
        """The taps are feature maps."""
        return "hidden"

    @property
    def tap_count(self) -> int:
        """Those of the U-Net: one of the middle, and one per level on the way down and on the way up."""
        return 2 * len(self.channels) + 1

    @property
    def downsampling(self) -> int:
        """How many times finer per axis what the ControlNet sees must be than the latents."""
        return int(2 ** (len(self.image_widths) - 1))

    @nn.compact
    def __call__(self, x: jax.Array, t: jax.Array, condition: Condition) -> tuple[jax.Array, Taps]:
        """Predict the noise or the velocity, whichever the weights were trained for.

        Args:
          x: [B, H, W, out_channels] float32 noisy latents, of about unit variance.
          t: [B] times from 0 to 999, float32 or integers.
          condition: 'text' tokens [B, T, context_width]; with attention to them 'image_tokens' [B, N,
            image_context_width]; and, by `control`, 'image' [B, d H, d W, 3] in [-1, 1], d the downsampling factor, or
            'lr_latent', of the shape of x. (A latent passes the same change of range as an image, [-1, 1] to [0, 1].)

        Returns:
          prediction [B, H, W, out_channels] float32, and the taps of the U-Net: those of the way down and of the middle
          as the way up gets them, with what the ControlNet adds (without it they would not depend on the ControlNet).
          Before any training, both are those of the U-Net alone.

        Raises:
          ValueError: the condition lacks an entry, or a shape does not fit.
        """
        lr_condition = condition_entry(condition, IMAGE if self.control == "image" else LR_LATENT)
        controlnet = ControlNet(
            **self._shared_arguments(),
            in_channels=self.out_channels,
            image_channels=3 if self.control == "image" else self.out_channels,
            image_widths=self.image_widths,
            name=CONTROLNET,
        )
        control = controlnet(x, t, {**condition, IMAGE: lr_condition})
        unet = SDUNet(**self._shared_arguments(), out_channels=self.out_channels, name=UNET)
        prediction, taps = unet(x, t, condition, control)
        return prediction, self._controlled_taps(taps, control)

    def _controlled_taps(self, taps: Taps, control: ControlResiduals) -> Taps:
        """The taps of the way down and of the middle with their residuals added."""
        levels = len(self.channels)
        # A level's tap is its last skip connection; the first skip connection is the first convolution's output.
        last = [(level + 1) * (self.blocks + 1) for level in range(levels - 1)]
        residuals = (*(control.down[index] for index in (*last, len(control.down) - 1)), control.middle)
        changed = (tap + change.astype(tap.dtype) for tap, change in zip(taps, residuals, strict=False))
        return (*changed, *taps[levels + 1 :])

    def _shared_arguments(self) -> dict[str, Any]:
        names = ("channels", "blocks", "attention_levels", "heads", "groups", "context_width", "image_context_width")
        return {name: getattr(self, name) for name in (*names, "attention", "remat", "dtype")}
