"""The small ResShift process on the small transformer with LR tokens.

Command:  framer-jax train --config configs/resshift_dit.py --workdir runs/resshift_dit --set data.train=PHOTOS
          (without data.train: the built-in photographs; add --set framer.variant=paper for FRAMER)
Hardware: 2 CPU cores, or one GPU. Expected time: about 3 s per step on one busy CPU core (batch 16 of 128 pixels).
Expected: not measured beyond its first steps; the starter (U-Net) is the small model with figures.
"""

from ml_collections import ConfigDict

from configs import default


def get_config() -> ConfigDict:
    """ResShift on the small DiT."""
    config = default.get_config()
    config.recipe.denoiser.name = "dit"
    return config
