"""The knobs of TSD-SR."""

from __future__ import annotations

from dataclasses import dataclass

from framer_jax.knobs import MAX_WEIGHT, changed_repr, check_knobs, knob
from framer_jax.recipes.method import DTYPES

SUBSTEP_WEIGHT = 0.3
"""Loss weight of each sub-step but the first, whose weight is 1."""

FRAMER_TAPS = ("clean", "velocity")

ATTENTION_MODULES = r"attention(_2)?/(query|key|value|out)$|attention/(query|key|value)_text$"


@dataclass(frozen=True)
class TsdSrSettings:
    """The section `recipe.tsd_sr`: the objective, and what is trained."""

    base_checkpoint: str = knob(
        "", "Path of Stable Diffusion 3's transformer: a file or a Diffusers folder.", empty=True
    )
    base_dtype: str = knob(
        "float32", "Dtype in which the transformer's weights are kept; bfloat16 halves the memory.", choices=DTYPES
    )
    teacher_lora_checkpoint: str = knob(
        "",
        "Path of a LoRA that makes the transformer the teacher; '': the transformer as it is. For training only.",
        empty=True,
    )
    lora_modules: str = knob(
        f"{ATTENTION_MODULES}|modulation(_text)?$|mlp(_text)?/dense_0$|tokens/embed$|head/projection$",
        "Regex of the transformer's modules that get the student's LoRA; by default all that the published one has.",
        regex=True,
    )
    lora_rank: int = knob(64, "Rank of the student's LoRA.", at_least=1, at_most=4096)
    encoder_lora_modules: str = knob(
        "^(encoder|after_encoder)",
        "Regex of the autoencoder's modules that get a LoRA; '': none.",
        empty=True,
        regex=True,
    )
    encoder_lora_rank: int = knob(64, "Rank of the encoder's LoRA.", at_least=1, at_most=4096)
    regulariser_lora_modules: str = knob(
        ATTENTION_MODULES,
        "Regex of the transformer's modules that get the regulariser's LoRA, which follows the student.",
        regex=True,
    )
    regulariser_lora_rank: int = knob(64, "Rank of the regulariser's LoRA.", at_least=1, at_most=4096)
    lora_scale: float = knob(1.0, "alpha / rank of the three LoRAs.", above=0, at_most=MAX_WEIGHT)
    shift: float = knob(3.0, "Time shift of the process.", above=0, at_most=1000)
    guidance: float = knob(
        7.5,
        "Scale of classifier-free guidance of teacher and regulariser, from the null text to the prompt.",
        at_least=0,
        at_most=1000,
    )
    distillation_weight: float = knob(1.0, "Weight of target-score distillation.", at_least=0, at_most=MAX_WEIGHT)
    vsd_weight: float = knob(
        0.7,
        "Weight of the variational direction; target-score matching has the rest. The paper's lambda.",
        at_least=0,
        at_most=1,
    )
    substeps: int = knob(
        1,
        "Sub-steps along the trajectories; more than one is the paper's distribution-aware sampling.",
        at_least=1,
        at_most=4,
    )
    substep_size: int = knob(
        50, "Size of a sub-step.", at_least=1, at_most=250, unit="entries of the table of 1000 sigmas"
    )
    substep_bias: bool = knob(True, "The trajectories' end is moved randomly.")
    latent_weight: float = knob(1.0, "Weight of the mean square error of the latent.", at_least=0, at_most=MAX_WEIGHT)
    perceptual_weight: float = knob(1.0, "Weight of LPIPS of the decoded image.", at_least=0, at_most=MAX_WEIGHT)
    framer_taps: str = knob(
        "clean",
        "What FRAMER compares where the denoiser's taps are predictions: clean, each block's estimate of the student "
        "latent, z - v; velocity, its velocity v.",
        choices=FRAMER_TAPS,
    )

    __repr__ = changed_repr

    def __post_init__(self) -> None:
        check_knobs(self)
        if not (self.distillation_weight or self.latent_weight or self.perceptual_weight):
            raise ValueError(
                "distillation_weight is 0, and so are latent_weight and perceptual_weight: at least one must be above 0"
            )

    @property
    def substep_weights(self) -> tuple[float, ...]:
        """Loss weights of the sub-steps."""
        return (1.0, *(SUBSTEP_WEIGHT for _ in range(self.substeps - 1)))
