"""Real-ESRNet: RRDBNet with the L1 loss on sharpened targets, the first stage of RealESRGAN_x4plus.

Command:  framer-jax train --config realesrnet_x4plus --workdir runs/realesrnet --set data.train=PHOTOS
Hardware: 4 GPUs with 24 GB. Expected time: not measured yet (the authors: a million steps).
Expected: not measured yet.
"""

from ml_collections import ConfigDict

from framer_jax.config import shipped


def get_config() -> ConfigDict:
    """The published options; the second stage without its perceptual and adversarial terms."""
    config = shipped("realesrgan_x4plus")
    config.recipe.realesrgan.perceptual_weight = 0.0
    config.recipe.realesrgan.adversarial_weight = 0.0
    config.training.steps = 1_000_000
    config.training.learning_rate = 2e-4
    return config
