"""HF-Diff: SinSR's distillation with a high-frequency perceptual loss and a divergence of DINOv2 embeddings.

"HF-Diff: High-Frequency Perceptual Loss and Distribution Matching for One-Step Diffusion-Based Image Super-Resolution"
(arXiv 2411.13548, 2024), Eq. 9 and Algorithm 1. The extractor, DINOv2 and the teacher are frozen; the sampler is that
of SinSR.
"""

from __future__ import annotations

from framer_jax.losses.high_frequency import HighFrequencySettings
from framer_jax.recipes.base import AuxiliaryLoss
from framer_jax.recipes.components.high_frequency import DistributionSettings, distribution_loss, high_frequency_loss
from framer_jax.recipes.hf_diff.settings import HFDiffSettings
from framer_jax.recipes.method import Pretrained
from framer_jax.recipes.sinsr.recipe import PredictionLoss


def further_losses(
    settings: HFDiffSettings,
    compared: HighFrequencySettings,
    distribution: DistributionSettings,
    extractor: Pretrained | None = None,
    dinov2: Pretrained | None = None,
    perceptual: tuple[AuxiliaryLoss, ...] = (),
) -> tuple[PredictionLoss, ...]:
    """The terms of Eq. 9 that SinSR does not have: 0.2 L_HF + 0.15 L_JS with the default weights.

    Args:
      settings: the weights.
      compared: what the extractor sees.
      distribution: which embeddings are compared.
      extractor: the feature extractor; None leaves its term out.
      dinov2: DINOv2; None leaves its term out.
      perceptual: another perceptual term, as in Table 4.

    Raises:
      ValueError: recipe.distribution.side does not fit DINOv2's patches.
    """
    terms = []
    if extractor:
        loss = high_frequency_loss(extractor.module, extractor.params, settings.high_frequency_weight)
        terms.append(PredictionLoss(compared.prediction, compared.features_of, loss))
    if dinov2:
        loss = distribution_loss(dinov2.module, dinov2.params, settings.distribution_weight, distribution)
        terms.append(PredictionLoss(settings.image_prediction, "image", loss))
    return (*terms, *(PredictionLoss(settings.image_prediction, "image", loss) for loss in perceptual))
