"""The knobs of Real-ESRGAN's training."""

from __future__ import annotations

from dataclasses import dataclass

from framer_jax.knobs import check_knobs, knob
from framer_jax.losses.adversarial import ADVERSARIAL_LOSSES


@dataclass(frozen=True)
class RealEsrganSettings:
    """The section `recipe.realesrgan`; the defaults are those of RealESRGAN_x4plus' second stage.

    Weights of 0 for the perceptual and the adversarial term make its first stage, Real-ESRNet.
    """

    pixel_weight: float = knob(1.0, "Weight of the L1 distance to the target.", at_least=0)
    perceptual_weight: float = knob(
        1.0, "Weight of LPIPS, which needs recipe.lpips.checkpoint. The authors' term is VGG19's.", at_least=0
    )
    adversarial_weight: float = knob(
        0.1, "Weight of the generator's adversarial term; 0 trains without a discriminator.", at_least=0
    )
    adversarial_loss: str = knob("vanilla", "Kind of adversarial loss.", choices=tuple(ADVERSARIAL_LOSSES))
    adversarial_target: str = knob(
        "unsharpened",
        "The discriminator's real images, where the degradation sharpens targets: unsharpened, as in the release, or "
        "sharpened like the targets of the other terms.",
        choices=("unsharpened", "sharpened"),
    )
    discriminator_channels: int = knob(64, "Width of the discriminator's finest level.", at_least=1)

    def __post_init__(self) -> None:
        check_knobs(self)
