"""HF-Diff's high-frequency perceptual loss: the squared error of detail features.

"HF-Diff: High-Frequency Perceptual Loss and Distribution Matching for One-Step Diffusion-Based Image Super-Resolution"
(arXiv 2411.13548, 2024), Eq. 6. The features come from framer_jax.models.hf_extractor.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from framer_jax.knobs import changed_repr, check_knobs, knob


@dataclass(frozen=True)
class HighFrequencySettings:
    """What the features are taken of; the defaults are those of the released code.

    Raises:
      ValueError: a value outside its choices.
    """

    features_of: str = knob(
        "latent",
        "What the extractor sees. latent: the latents, as in the released code; image: the decoded images, as Eq. 6 "
        "reads.",
        choices=("latent", "image"),
    )
    prediction: str = knob(
        "consistency",
        "Which output is compared with the ground truth. consistency: the student's output from the noise that it "
        "predicts for the HR latent, as in Algorithm 1 and the released code; one_step: that from the prior's noise, "
        "as in Eq. 6.",
        choices=("consistency", "one_step"),
    )

    __repr__ = changed_repr

    def __post_init__(self) -> None:
        check_knobs(self)


VARIANTS: Mapping[str, HighFrequencySettings] = {
    "released": HighFrequencySettings(),
    "paper": HighFrequencySettings("image", "one_step"),
}
"""Variant → its settings: the released code, and Eq. 6 as printed."""


def high_frequency_error(features: jax.Array, reference: jax.Array) -> jax.Array:
    """Eq. 6: the mean over h, w and c of (f − g)², f and g the detail features z_K.

    Args:
      features: f of the prediction, [B, H, W, C], any float dtype.
      reference: g of the ground truth, of the same shape.

    Returns:
      [B] float32; 0 for equal features.

    Raises:
      ValueError: the shapes differ, or have another number of axes.
    """
    if features.shape != reference.shape or features.ndim != 4:
        raise ValueError(
            f"the high-frequency loss got features {features.shape} and {reference.shape}: both must be [B, H, W, C]"
        )
    return jnp.square(features.astype(jnp.float32) - reference.astype(jnp.float32)).mean(axis=(1, 2, 3))
