"""ResShift's small process with the small transformer on LR tokens.

Command:  framer-jax train --config resshift_dit --workdir runs/resshift_dit --set data.train=PHOTOS
          (without data.train: the built-in photographs; add --set framer.variant=paper for FRAMER)
Hardware: 2 CPU cores, or one GPU. Expected time: about 3 s per step on one busy CPU core (batch 16 of 128 pixels).
Expected: not measured beyond the first steps; of the small models, the starter (ResShift U-Net) has been measured.
"""

from ml_collections import ConfigDict

from framer_jax.config import default


def get_config() -> ConfigDict:
    """ResShift with the small DiT."""
    config = default()
    config.recipe.denoiser.name = "dit"
    return config
