"""SinSR from the narrow ResShift, for one CPU core.

Command:  framer-jax train --config configs/sinsr_narrow.py --workdir runs/sinsr_narrow --set data.train=PHOTOS
              --set recipe.sinsr.teacher=runs/resshift_narrow/weights.safetensors
Hardware: 1 CPU core. Expected time: about 8 minutes.
Expected: not measured yet.
"""

from ml_collections import ConfigDict

from configs import resshift_narrow


def get_config() -> ConfigDict:
    """A narrow SinSR."""
    config = resshift_narrow.get_config()
    config.recipe.name = "sinsr"
    config.training.learning_rate = 2e-4
    config.training.steps = 400
    config.training.best_metric = "sample/psnr-y"
    return config
