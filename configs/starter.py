"""The starter model that ships in framer_jax/weights: a small ResShift super-resolver for laptops.

Command:  framer-jax train --config starter --workdir runs/starter --set data.train=PHOTOS
          (PHOTOS: a folder of photographs; the shipped weights were trained on BSDS500 train + test and General-100)
Hardware: 2 CPU cores. Expected time: 60 to 90 minutes (0.6 to 0.8 s per step of 16 crops of 128 pixels).
Expected: one-step mean 0.58 dB PSNR-Y above bicubic on BSD100; see the model card, framer_jax/weights/starter.md.
"""

from ml_collections import ConfigDict

from framer_jax.config import default


def get_config() -> ConfigDict:
    """The starter's configuration."""
    config = default()
    config.training.steps = 6200
    config.training.warmup_steps = 200
    config.training.learning_rate = 2e-3
    config.training.checkpoint_every = 400
    config.training.validate_every = 400
    return config
