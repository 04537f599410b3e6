"""A narrow SwinIR distilled from the narrow ResShift, for one CPU core: the student of the learning experiment.

Command:  framer-jax train --config dtkd_narrow --workdir runs/dtkd_narrow --set data.train=PHOTOS
              --set recipe.teacher.checkpoint=runs/resshift_narrow/weights.safetensors
          (--set recipe.dtkd.weight=0: L1 alone; --set recipe.dtkd.transform=pixel: distillation of pixels)
Hardware: 1 CPU core. Expected time: 2.5 minutes on precomputed records (1600 steps).
Expected: docs/results/dtkd.md.
"""

from ml_collections import ConfigDict

from framer_jax.config import default


def get_config() -> ConfigDict:
    """DTKD with a narrow student."""
    config = default("dtkd")
    student = config.recipe.student.swinir
    student.head = "pixelshuffledirect"  # convolutions on LR pixels only: the most steps per minute
    student.channels = 32
    student.depths = (2, 2)
    student.heads = 2
    student.drop_path = 0.0
    config.data.degradation = "resshift_testing"
    config.data.crop = 64
    config.training.steps = 1600
    config.training.learning_rate = 2e-3
    config.training.checkpoint_every = 800
    config.training.validate_every = 800
    return config
