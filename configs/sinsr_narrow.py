"""SinSR distilled from the narrow ResShift, for one CPU core.

Command:  framer-jax train --config sinsr_narrow --workdir runs/sinsr_narrow --set data.train=PHOTOS
              --set recipe.sinsr.teacher_checkpoint=runs/resshift_narrow/weights.safetensors
Hardware: 1 CPU core. Expected time: about 6 minutes (200 steps of 1.6 s: four calls of the student, three of which have
          gradients, and four steps of the teacher).
Expected: docs/results/resshift.md.
"""

from ml_collections import ConfigDict

from framer_jax.config import shipped, with_method


def get_config() -> ConfigDict:
    """A narrow SinSR."""
    config = with_method(shipped("resshift_narrow"), "sinsr")
    config.training.learning_rate = 2e-4
    config.training.steps = 200
    config.training.warmup_steps = 20
    config.training.ema_decay = 0.98  # so short a run needs a fast average
    config.training.checkpoint_every = 100
    config.training.validate_every = 100
    config.training.best_metric = "sample/psnr-y"
    return config
