"""The knobs of OSEDiff."""

from __future__ import annotations

from dataclasses import dataclass

from framer_jax.knobs import MAX_WEIGHT, changed_repr, check_knobs, knob
from framer_jax.recipes.components.sd_base import LORA_MODULES
from framer_jax.recipes.method import DTYPES


@dataclass(frozen=True)
class OsediffSettings:
    """The section `recipe.osediff`: the objective, and what is trained."""

    base_checkpoint: str = knob(
        "",
        "Path of Stable Diffusion 2's U-Net that predicts noise (2-base or 2-1-base): a file or a Diffusers folder.",
        empty=True,
    )
    base_dtype: str = knob(
        "float32", "Dtype in which the U-Net's weights are kept; bfloat16 halves the memory.", choices=DTYPES
    )
    lora_modules: str = knob(
        LORA_MODULES,
        "Regex of the U-Net's modules that get the student's LoRA; by default all that the published one has.",
        regex=True,
    )
    lora_rank: int = knob(4, "Rank of the student's LoRA.", at_least=1, at_most=4096)
    trainable: str = knob(
        "^conv_in/",
        "Regex of the U-Net's parameters that the student trains as a whole, in addition to its LoRA; '': none.",
        empty=True,
        regex=True,
    )
    encoder_lora_modules: str = knob(
        "^(encoder|after_encoder)",
        "Regex of the autoencoder's modules that get a LoRA; '': none.",
        empty=True,
        regex=True,
    )
    encoder_lora_rank: int = knob(4, "Rank of the encoder's LoRA.", at_least=1, at_most=4096)
    regulariser_lora_modules: str = knob(
        LORA_MODULES,
        "Regex of the U-Net's modules that get the regulariser's LoRA, which follows the student.",
        regex=True,
    )
    regulariser_lora_rank: int = knob(4, "Rank of the regulariser's LoRA.", at_least=1, at_most=4096)
    lora_scale: float = knob(
        2.0, "alpha / rank of the three LoRAs; 2: PEFT's default alpha 8 at rank 4.", above=0, at_most=MAX_WEIGHT
    )
    guidance: float = knob(
        7.5,
        "Scale of the teacher's classifier-free guidance, from the negative prompt to the prompt.",
        at_least=0,
        at_most=1000,
    )
    pixel_weight: float = knob(1.0, "Weight of the mean square error of the image.", at_least=0, at_most=MAX_WEIGHT)
    perceptual_weight: float = knob(2.0, "Weight of LPIPS of the image.", at_least=0, at_most=MAX_WEIGHT)
    distillation_weight: float = knob(1.0, "Weight of variational score distillation.", at_least=0, at_most=MAX_WEIGHT)

    __repr__ = changed_repr

    def __post_init__(self) -> None:
        check_knobs(self)
        if not (self.distillation_weight or self.pixel_weight or self.perceptual_weight):
            raise ValueError(
                "distillation_weight is 0, and so are pixel_weight and perceptual_weight: at least one must be above 0"
            )
