"""Rectified flow with the small transformer and FRAMER as released: prediction taps, magnitude bands, lambda 0.1.

Command:  framer-jax train --config flow_dit_released --workdir runs/released --set data.train=PHOTOS
Hardware: 2 CPU cores, or one GPU. Expected time: about 3 s per step on one busy CPU core (batch 16 of 128 pixels).
Expected: not measured beyond the first steps. The released trainer does not run as published (see
          framer_jax.losses.framer.released).
"""

from ml_collections import ConfigDict

from framer_jax.config import shipped


def get_config() -> ConfigDict:
    """Rectified flow with the small DiT and FRAMER in the variant 'released'."""
    config = shipped("flow_dit")
    config.recipe.denoiser.dit.taps = "prediction"
    config.framer.variant = "released"
    return config
