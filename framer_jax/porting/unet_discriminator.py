"""Checkpoints of Real-ESRGAN's U-Net discriminator with PyTorch's spectral norm, such as RealESRGAN_x4plus_netD."""

from __future__ import annotations

from typing import Any

from framer_jax.porting.maps import TENSOR, WEIGHT, Rule, StateDict, WeightMap

NORMALISED = range(1, 9)
"""Numbers of the convolutions with spectral norm, which have no bias."""


def _arguments(state: StateDict) -> dict[str, Any]:
    channels, image_channels = state["conv0.weight"].shape[:2]
    if image_channels != 3:
        raise ValueError(f"{image_channels} channels enter")
    return {"channels": channels}


UNET_DISCRIMINATOR = WeightMap(
    name="unet_discriminator_sn",
    rules=(
        Rule("conv0", "network/conv_0"),
        Rule("conv9", "network/conv_9"),
        *(Rule(f"conv{i}.weight_orig", f"network/conv_{i}/kernel", WEIGHT) for i in NORMALISED),
        *(Rule(f"conv{i}.weight_{v}", f"spectral/conv_{i}/{v}", TENSOR) for i in NORMALISED for v in "uv"),
    ),
    arguments=_arguments,
    describe=lambda arguments: f"UNetDiscriminatorSN ({arguments['channels']} channels)",
)
"""framer_jax.models.unet_discriminator.StoredDiscriminator: the parameters, and the vectors of spectral norm."""
