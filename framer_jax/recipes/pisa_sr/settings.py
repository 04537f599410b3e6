"""The knobs of PiSA-SR."""

from __future__ import annotations

from dataclasses import dataclass

from framer_jax.knobs import MAX_WEIGHT, changed_repr, check_knobs, knob
from framer_jax.recipes.components.sd_base import LORA_MODULES
from framer_jax.recipes.method import DTYPES


@dataclass(frozen=True)
class PisaSrSettings:
    """The section `recipe.pisa_sr`: the two LoRAs, their phases of training, and the objective."""

    base_checkpoint: str = knob(
        "",
        "Path of Stable Diffusion 2's U-Net, which predicts noise: a file or a Diffusers folder. '': there is no base, "
        "and the first phase trains a whole U-Net in place of the pixel-level LoRA.",
        empty=True,
    )
    base_dtype: str = knob(
        "float32", "Dtype in which the U-Net's weights are kept; bfloat16 halves the memory.", choices=DTYPES
    )
    lora_modules: str = knob(
        LORA_MODULES,
        "Regex of the U-Net's modules that get the two LoRAs; by default all that the published ones have.",
        regex=True,
    )
    lora_rank: int = knob(4, "Rank of each of the two LoRAs.", at_least=1, at_most=4096)
    lora_scale: float = knob(
        2.0, "alpha / rank of both LoRAs; the release has PEFT's default alpha of 8.", above=0, at_most=MAX_WEIGHT
    )
    null_text_ratio: float = knob(
        0.5,
        "Share of the examples for which the student gets the null text in training; the distillation's teacher gets "
        "the text of the image in any case.",
        at_least=0,
        at_most=1,
    )
    timestep: int = knob(1, "The time that the network is given.", at_least=0, at_most=999)
    pixel_steps: int = knob(
        4000,
        "Steps of the first phase, which trains the pixel-level LoRA; the rest of training is the second one, which "
        "trains the semantic-level LoRA.",
        at_least=1,
        at_most=10**9,
        unit="steps",
    )
    pixel_weight: float = knob(
        1.0, "Weight of the mean square error of the image in [-1, 1].", above=0, at_most=MAX_WEIGHT
    )
    perceptual_weight: float = knob(
        2.0, "Weight of LPIPS in the second phase; the first one has none.", at_least=0, at_most=MAX_WEIGHT
    )
    distillation_weight: float = knob(
        1.0, "Weight of classifier score distillation in the second phase.", at_least=0, at_most=MAX_WEIGHT
    )
    guidance: float = knob(
        7.5,
        "Scale of classifier-free guidance of the distillation's teacher, the base.",
        at_least=0,
        at_most=1000,
    )
    pixel_scale: float = knob(
        1.0, "Sampling: factor of what the pixel-level LoRA's network removes.", at_least=0, at_most=10
    )
    semantic_scale: float = knob(
        1.0,
        "Sampling: factor of what the semantic-level LoRA adds. With both factors 1 the network is called once, and "
        "else twice.",
        at_least=0,
        at_most=10,
    )

    __repr__ = changed_repr

    def __post_init__(self) -> None:
        check_knobs(self)

    @property
    def adjusted(self) -> bool:
        """Whether the sampler scales the effects of the two LoRAs, which takes two calls of the network."""
        return (self.pixel_scale, self.semantic_scale) != (1.0, 1.0)
