"""Rectified flow on the small transformer with FRAMER as released: prediction taps, magnitude bands, lambda 0.1.

Command:  framer-jax train --config configs/flow_dit_released.py --workdir runs/released --set data.train=PHOTOS
Hardware: 2 CPU cores, or one GPU. Expected time: about 3 s per step on one busy CPU core (batch 16 of 128 pixels).
Expected: not measured beyond its first steps. The released trainer itself cannot run as published (see
          framer_jax.losses.framer.released).
"""

from ml_collections import ConfigDict

from configs import flow_dit


def get_config() -> ConfigDict:
    """Rectified flow on the small DiT with FRAMER in the variant 'released'."""
    config = flow_dit.get_config()
    config.recipe.denoiser.dit.taps = "prediction"
    config.framer.variant = "released"
    return config
