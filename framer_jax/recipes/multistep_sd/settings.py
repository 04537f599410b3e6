"""The knobs of the multi-step method on Stable Diffusion 2."""

from __future__ import annotations

from dataclasses import dataclass

from framer_jax.knobs import changed_repr, check_knobs, knob
from framer_jax.recipes.method import DTYPES


@dataclass(frozen=True)
class MultistepSdSettings:
    """The section `recipe.multistep_sd`: the process, the condition, and what is trained."""

    base_checkpoint: str = knob(
        "",
        "Path of the U-Net to start from, Stable Diffusion 2's: a file, a Diffusers folder, or that of the pipeline.",
        empty=True,
    )
    base_dtype: str = knob(
        "float32", "Dtype in which frozen parameters are kept; bfloat16 halves the memory.", choices=DTYPES
    )
    trainable: str = knob(
        "^controlnet/|image_attention",
        "Regex of the parameters that are trained; '': all of them.",
        empty=True,
        regex=True,
    )
    prediction: str = knob(
        "epsilon",
        "What the U-Net predicts: epsilon, the noise (stable-diffusion-2-base, 2-1-base); v, the velocity "
        "(stable-diffusion-2, 2-1).",
        choices=("epsilon", "v"),
    )
    image_tokens: str = knob(
        "none",
        "Image tokens to which the network attends next to the text. none; dinov2: features of the upsampled LR image "
        "(recipe.denoiser.controlled_sd_unet.image_context_width must be the encoder's width).",
        choices=("none", "dinov2"),
    )
    dinov2_checkpoint: str = knob(
        "", "image_tokens=dinov2: path of DINOv2, such as dinov2_vitb14_pretrain.pth.", empty=True
    )
    token_side: int = knob(
        224,
        "image_tokens=dinov2: images are resized to this side for the encoder, a multiple of its patches.",
        unit="pixels",
        at_least=1,
        at_most=16_384,
    )
    sampling_steps: int = knob(
        50,
        "Steps of the sampler. (One would be at the first of the 1000 times, 1000 would begin after the last.)",
        at_least=2,
        at_most=999,
        unit="steps",
    )
    sampler: str = knob(
        "ddpm",
        "ddpm: ancestral steps, as SeeSR's released code; ddim: deterministic steps, or with eta in between.",
        choices=("ddpm", "ddim"),
    )
    eta: float = knob(0.0, "ddim: share of the noise that is drawn anew, 0 for none.", at_least=0, at_most=1)
    start: str = knob(
        "lr",
        "Initial latent. lr: the LR latent with the noise of the last time, as SeeSR; noise: noise alone.",
        choices=("lr", "noise"),
    )
    guidance: float = knob(
        1.0,
        "Scale of classifier-free guidance in the sampler, from the negative prompt to the prompt; 1: none.",
        at_least=0,
        at_most=1000,
    )

    __repr__ = changed_repr

    def __post_init__(self) -> None:
        check_knobs(self)
        if self.eta and self.sampler != "ddim":
            raise ValueError(f"eta is {self.eta}: it is of sampler 'ddim' only; set sampler=ddim, or eta=0")
