"""Rectified flow on the small transformer with LR tokens: the shape of DiT4SR, at laptop size.

Command:  framer-jax train --config configs/flow_dit.py --workdir runs/flow_dit --set data.train=PHOTOS
          (without data.train: the built-in photographs; add --set framer.variant=paper for FRAMER)
Hardware: 2 CPU cores, or one GPU. Expected time: about 3 s per step on one busy CPU core (batch 16 of 128 pixels).
Expected: not measured beyond its first steps; the starter (ResShift) is the small model with figures.
"""

from ml_collections import ConfigDict

from configs import default


def get_config() -> ConfigDict:
    """Rectified flow on the small DiT."""
    config = default.get_config()
    config.recipe.name = "flow"
    config.recipe.denoiser.name = "dit"
    return config
