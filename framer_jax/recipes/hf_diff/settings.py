"""The knobs of HF-Diff."""

from __future__ import annotations

from dataclasses import dataclass

from framer_jax.knobs import MAX_WEIGHT, changed_repr, check_knobs, knob


@dataclass(frozen=True)
class HFDiffSettings:
    """The section `recipe.hf_diff`: what is added to SinSR's loss; the weights are those of Eq. 9."""

    high_frequency_weight: float = knob(
        0.2,
        "Weight of the high-frequency perceptual loss, see recipe.high_frequency; 0 trains without an extractor.",
        at_least=0,
        at_most=MAX_WEIGHT,
    )
    extractor_checkpoint: str = knob(
        "",
        "Path of the pre-trained feature extractor: the weights of a run of `framer-jax pretrain`, "
        "or a ported file; needed for training with that loss only.",
        empty=True,
    )
    extractor_modules: int | None = knob(
        None,
        "Number K of invertible modules that the extractor must have; None for as many as the file has.",
        at_least=1,
        at_most=1000,
    )
    distribution_weight: float = knob(
        0.15,
        "Weight of the Jensen-Shannon divergence of DINOv2 embeddings, see recipe.distribution; 0 trains without "
        "DINOv2.",
        at_least=0,
        at_most=MAX_WEIGHT,
    )
    dinov2_checkpoint: str = knob(
        "",
        "Path of DINOv2, such as dinov2_vits14_pretrain.pth or a folder of transformers; needed for training with that "
        "divergence only.",
        empty=True,
    )
    perceptual_weight: float = knob(
        0.0,
        "Weight of another perceptual term in their place, as in the ablations of Table 4.",
        at_least=0,
        at_most=MAX_WEIGHT,
    )
    perceptual: str = knob(
        "lpips",
        "That term: lpips (see recipe.lpips) or vgg19 (see recipe.vgg19).",
        choices=("lpips", "vgg19"),
    )
    image_prediction: str = knob(
        "consistency",
        "Which output of the student the divergence and the other perceptual term compare; the paper does not say. "
        "consistency: as the released code does for the high-frequency loss; one_step: that from the prior's noise.",
        choices=("consistency", "one_step"),
    )

    __repr__ = changed_repr

    def __post_init__(self) -> None:
        check_knobs(self)
