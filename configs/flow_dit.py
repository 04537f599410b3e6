"""Rectified flow with the small transformer on LR tokens: DiT4SR's architecture at laptop size.

Command:  framer-jax train --config flow_dit --workdir runs/flow_dit --set data.train=PHOTOS
          (without data.train: the built-in photographs; add --set framer.variant=paper for FRAMER)
Hardware: 2 CPU cores, or one GPU. Expected time: about 3 s per step on one busy CPU core (batch 16 of 128 pixels).
Expected: not measured beyond the first steps; of the small models, the starter (ResShift) has been measured.
"""

from ml_collections import ConfigDict

from framer_jax.config import default


def get_config() -> ConfigDict:
    """Rectified flow with the small DiT."""
    config = default("rectified_flow")
    config.recipe.denoiser.name = "dit"
    return config
