"""The knobs of SupResDiffGAN."""

from __future__ import annotations

from dataclasses import dataclass

from framer_jax.knobs import MAX_WEIGHT, changed_repr, check_knobs, knob

VARIANTS = ("paper", "released")
"""Whether the terms on decoded images have a gradient with respect to the generator: in the paper, not in the code."""


@dataclass(frozen=True)
class SupResDiffGanSettings:
    """The section `recipe.supresdiffgan`: the process, the objective, the discriminator and the sampler."""

    variant: str = knob(
        "paper",
        "paper: the adversarial and the perceptual term train the generator; released: as in the released code, which "
        "decodes without a gradient, so that the latent MSE alone trains it.",
        choices=VARIANTS,
    )
    steps: int = knob(1000, "Times T of the process in training.", at_least=2, at_most=10_000, unit="steps")
    adversarial_weight: float = knob(
        0.01,
        "Weight of the generator's adversarial term; 0 trains without a discriminator, and the generator in every "
        "step.",
        at_least=0,
        at_most=MAX_WEIGHT,
    )
    perceptual_weight: float = knob(
        0.0,
        "Weight of the perceptual term between the decoded estimate and the HR image (released option: 0.001); above 0 "
        "it needs photographs, not precomputed latents.",
        at_least=0,
        at_most=MAX_WEIGHT,
    )
    perceptual: str = knob(
        "vgg19",
        "The perceptual term: vgg19, Real-ESRGAN's distance of features (see recipe.vgg19), or lpips (see "
        "recipe.lpips).",
        choices=("vgg19", "lpips"),
    )
    discriminator_channels: tuple[int, ...] = knob(
        (64, 128, 256, 512),
        "Width of each level of the discriminator, from the finest.",
        at_least=1,
        at_most=65536,
    )
    discriminator_checkpoint: str = knob(
        "",
        "Path of a discriminator to start from, with the moving statistics of its BatchNorm; '': random weights.",
        empty=True,
    )
    sampling_steps: int = knob(
        100,
        "Steps of the sampler, which has a cosine schedule of this length, as in the release.",
        at_least=2,
        at_most=10_000,
        unit="steps",
    )
    eta: float = knob(
        1.0, "Share of the noise that the sampler draws anew: 1 for DDPM, 0 for DDIM.", at_least=0, at_most=1
    )

    __repr__ = changed_repr

    def __post_init__(self) -> None:
        check_knobs(self)
