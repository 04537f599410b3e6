"""What may be set of TSD-SR."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from framer_jax.recipes.dit4sr import BASE_DTYPES

SUBSTEP_WEIGHT = 0.3
"""Of each sub-step but the first, whose weight is 1."""


@dataclass(frozen=True)
class TsdSrSettings:
    """The objective, and what is trained.

    Attributes:
      scale: enlargement.
      shift: time shift of the process.
      lora: a regex of the transformer's modules that get the student's LoRA.
      lora_rank: of that LoRA.
      encoder_lora: a regex of the autoencoder's modules that get one; '' leaves the autoencoder as it is.
      encoder_rank: of that LoRA.
      regulariser_lora: a regex of the transformer's modules that get the regulariser's.
      regulariser_rank: of that LoRA.
      lora_scale: alpha / rank of the three.
      guidance: factor of classifier-free guidance of teacher and regulariser, from the empty text to the prompt.
      distillation_weight: of target-score distillation.
      variational_share: of its two directions, the first's part; the paper's lambda.
      substeps: along the trajectories, 1 to 4; more than one is the paper's distribution-aware sampling.
      substep_size: in entries of the table of 1000 sigmas.
      substep_bias: whether the trajectories' end is moved by chance.
      latent_weight: of the mean square error of the latent.
      perceptual_weight: of LPIPS of the decoded picture.
      base_dtype: one of framer_jax.recipes.dit4sr.BASE_DTYPES, in which the transformer's weights are kept.

    Raises:
      ValueError: a value outside its range, or no regex.
    """

    scale: int = 4
    shift: float = 3.0
    lora: str = ""
    lora_rank: int = 64
    encoder_lora: str = ""
    encoder_rank: int = 64
    regulariser_lora: str = ""
    regulariser_rank: int = 64
    lora_scale: float = 1.0
    guidance: float = 7.5
    distillation_weight: float = 1.0
    variational_share: float = 0.7
    substeps: int = 1
    substep_size: int = 50
    substep_bias: bool = True
    latent_weight: float = 1.0
    perceptual_weight: float = 1.0
    base_dtype: str = "float32"

    def __post_init__(self) -> None:
        if self.base_dtype not in BASE_DTYPES:
            raise ValueError(f"recipe.tsd_sr.base_dtype is {self.base_dtype!r}: choose one of {', '.join(BASE_DTYPES)}")
        if not 1 <= self.substeps <= 4:
            raise ValueError(f"recipe.tsd_sr.substeps is {self.substeps}: choose 1 to 4")
        if self.substep_size < 1:
            raise ValueError(f"recipe.tsd_sr.substep_size is {self.substep_size}: choose 1 or more")
        if not (math.isfinite(self.lora_scale) and self.lora_scale > 0):
            raise ValueError(f"recipe.tsd_sr.lora_scale is {self.lora_scale}: choose a number above 0")
        for name in ("guidance", "distillation_weight", "latent_weight", "perceptual_weight"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) >= 0):
                raise ValueError(f"recipe.tsd_sr.{name} is {getattr(self, name)}: choose a number from 0 on")
        if not 0 <= self.variational_share <= 1:
            raise ValueError(f"recipe.tsd_sr.variational_share is {self.variational_share}: choose 0 to 1")
        for name in ("lora", "encoder_lora", "regulariser_lora"):
            try:
                re.compile(getattr(self, name))
            except re.error as error:
                raise ValueError(f"recipe.tsd_sr.{name} is no regular expression ({error})") from error
        if not self.lora or not self.regulariser_lora:
            raise ValueError("recipe.tsd_sr.lora and regulariser_lora name the modules of two LoRAs: neither is empty")

    @property
    def substep_weights(self) -> tuple[float, ...]:
        """Of the sub-steps."""
        return (1.0, *(SUBSTEP_WEIGHT for _ in range(self.substeps - 1)))
