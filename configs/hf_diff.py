"""HF-Diff (arXiv 2411.13548, 2024): SinSR with a high-frequency perceptual loss and distribution matching.

Command:  framer-jax train --config hf_diff --workdir runs/hf_diff --init SINSR --set data.train=PHOTOS
              --set recipe.space.checkpoint=AUTOENCODER --set recipe.sinsr.teacher_checkpoint=TEACHER
              --set recipe.hf_diff.extractor_checkpoint=EXTRACTOR --set recipe.hf_diff.dinov2_checkpoint=DINOV2
          (SINSR: SinSR_v2.pth or a run of sinsr; TEACHER: resshift_realsrx4_s15_v2.pth; EXTRACTOR: the weights of
          `framer-jax pretrain`; DINOV2: dinov2_vits14_pretrain.pth; `--config hf_diff:VARIANT` for a row of Table 4:
          high_frequency, distribution, vgg19 or lpips)
Hardware: 2 RTX 6000 Ada in the paper. Expected time: 20 hours there, for 20,000 steps; not measured here.
Expected: gains over SinSR, as the paper reports; this training has not been run. Not stated in the paper and chosen
          here: the extractor's K and layers, ViT-S/14, its class token, images of 224 pixels for it, temperature 1,
          natural logarithm. As in the released code, the extractor sees latents of VQ-f4 (three channels, like the
          images that it was trained on) of the consistency prediction. Eq. 6 as printed is
          --set recipe.high_frequency.features_of=image --set recipe.high_frequency.prediction=one_step, which did
          better in docs/results/hf_diff.md.
"""

from ml_collections import ConfigDict

from framer_jax.config import shipped, with_method

VARIANTS = {
    "both": {},
    "base": {"high_frequency_weight": 0.0, "distribution_weight": 0.0},
    "high_frequency": {"distribution_weight": 0.0},
    "distribution": {"high_frequency_weight": 0.0},
    "vgg19": {
        "high_frequency_weight": 0.0,
        "distribution_weight": 0.0,
        "perceptual": "vgg19",
        "perceptual_weight": 0.2,
    },
    "lpips": {"high_frequency_weight": 0.0, "distribution_weight": 0.0, "perceptual_weight": 0.2},
}
"""Variant → its knobs of recipe.hf_diff, where they are not the defaults: rows of the paper's Table 4. The weights of
the other perceptual losses there are not stated: that of the high-frequency loss is used."""


def get_config(variant: str = "both") -> ConfigDict:
    """HF-Diff, or a row of its ablations."""
    if variant not in VARIANTS:
        raise ValueError(f"there is no variant {variant!r}: choose one of {', '.join(VARIANTS)}")
    config = with_method(shipped("sinsr"), "hf_diff")
    config.recipe.hf_diff.update(VARIANTS[variant])
    config.training.learning_rate = 2.5e-5
    config.training.global_batch = 32
    config.training.steps = 20_000
    return config
