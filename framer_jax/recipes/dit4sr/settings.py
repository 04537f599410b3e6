"""The knobs of DiT4SR."""

from __future__ import annotations

from dataclasses import dataclass

from framer_jax.diffusion.flow import TIMESTEP_SAMPLINGS
from framer_jax.knobs import MAX_WEIGHT, changed_repr, check_knobs, knob
from framer_jax.losses.flow_matching import LOSS_WEIGHTINGS
from framer_jax.recipes.method import DTYPES


@dataclass(frozen=True)
class Dit4srSettings:
    """The section `recipe.dit4sr`: the process, the objective, and what is trained."""

    base_checkpoint: str = knob(
        "",
        "Path of the transformer to start from, Stable Diffusion 3.5's or DiT4SR's: a file or a Diffusers folder.",
        empty=True,
    )
    base_dtype: str = knob(
        "float32", "Dtype in which frozen parameters are kept; bfloat16 halves the memory.", choices=DTYPES
    )
    trainable: str = knob(
        "control", "Regex of the parameters that are trained; '': all of them.", empty=True, regex=True
    )
    lora_modules: str = knob("", "Regex of the modules that get a LoRA; '': none.", empty=True, regex=True)
    lora_rank: int = knob(64, "Rank of the LoRA.", at_least=1, at_most=4096)
    lora_alpha: float = knob(64.0, "The LoRA is scaled by lora_alpha / lora_rank.", above=0, at_most=MAX_WEIGHT)
    shift: float = knob(3.0, "Time shift of training and sampling.", above=0, at_most=1000)
    sampling_steps: int = knob(40, "Euler steps of the sampler.", at_least=1, at_most=1000, unit="steps")
    guidance: float = knob(
        1.0,
        "Scale of classifier-free guidance in the sampler, from the negative prompt to the prompt; 1: none.",
        at_least=0,
        at_most=1000,
    )
    timestep_sampling: str = knob("logit_normal", "Distribution of training times.", choices=TIMESTEP_SAMPLINGS)
    weighting: str = knob("none", "Weighting of the error of the clean latent.", choices=LOSS_WEIGHTINGS)

    __repr__ = changed_repr

    def __post_init__(self) -> None:
        check_knobs(self)
