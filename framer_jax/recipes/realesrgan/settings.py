"""The knobs of Real-ESRGAN's training."""

from __future__ import annotations

from dataclasses import dataclass

from framer_jax.knobs import MAX_WEIGHT, check_knobs, knob
from framer_jax.losses.adversarial import ADVERSARIAL_LOSSES


@dataclass(frozen=True)
class RealEsrganSettings:
    """The section `recipe.realesrgan`; the defaults are those of RealESRGAN_x4plus' second stage.

    Weights of 0 for the perceptual and the adversarial term make its first stage, Real-ESRNet.
    """

    pixel_weight: float = knob(1.0, "Weight of the L1 distance to the target.", at_least=0, at_most=MAX_WEIGHT)
    perceptual_weight: float = knob(1.0, "Weight of the perceptual term.", at_least=0, at_most=MAX_WEIGHT)
    perceptual: str = knob(
        "lpips",
        "The perceptual term: lpips (see recipe.lpips), or vgg19, the L1 distance of features of VGG19 before their "
        "ReLU as in the release (see recipe.vgg19).",
        choices=("lpips", "vgg19"),
    )
    checkerboard_weight: float = knob(
        0.0,
        "Weight of errors that repeat with the grid of the pixel shuffle, which a perceptual term without a "
        "discriminator leaves visible; not published. See framer_jax.losses.pixel.checkerboard_error.",
        at_least=0,
        at_most=MAX_WEIGHT,
    )
    checkerboard_texture_weight: float = knob(
        0.0,
        "Weight of texture that is stronger at some pixels of the pixel shuffle's grid than at others, whatever its "
        "sign; not published. See framer_jax.losses.pixel.checkerboard_texture_error.",
        at_least=0,
        at_most=MAX_WEIGHT,
    )
    adversarial_weight: float = knob(
        0.1,
        "Weight of the generator's adversarial term; 0 trains without a discriminator.",
        at_least=0,
        at_most=MAX_WEIGHT,
    )
    adversarial_loss: str = knob("vanilla", "Kind of adversarial loss.", choices=tuple(ADVERSARIAL_LOSSES))
    adversarial_target: str = knob(
        "unsharpened",
        "The discriminator's real images, where the degradation sharpens targets: unsharpened, as in the release, or "
        "sharpened like the targets of the other terms.",
        choices=("unsharpened", "sharpened"),
    )
    discriminator_channels: int = knob(64, "Width of the discriminator's finest level.", at_least=1, at_most=4096)
    discriminator_checkpoint: str = knob(
        "",
        "Path of a discriminator to start from, such as RealESRGAN_x4plus_netD.pth; '': random weights.",
        empty=True,
    )

    def __post_init__(self) -> None:
        check_knobs(self)
        if not (self.pixel_weight or self.perceptual_weight or self.adversarial_weight):
            raise ValueError(
                "pixel_weight is 0, and so are perceptual_weight and adversarial_weight: at least one must be above 0"
            )

    @property
    def needs_unsharpened(self) -> bool:
        """Whether batches must hold HR images that are not sharpened."""
        return self.adversarial_weight > 0 and self.adversarial_target == "unsharpened"
