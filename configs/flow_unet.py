"""Rectified flow on the small U-Net.

Command:  framer-jax train --config configs/flow_unet.py --workdir runs/flow_unet --set data.train=PHOTOS
          (without data.train: the built-in photographs; add --set framer.variant=paper for FRAMER)
Hardware: 2 CPU cores, or one GPU. Expected time: about 0.8 s per step on one CPU core (batch 16 of 128 pixels).
Expected: not measured beyond its first steps; the starter (ResShift) is the small model with figures.
"""

from ml_collections import ConfigDict

from configs import default


def get_config() -> ConfigDict:
    """Rectified flow on the small U-Net."""
    config = default.get_config()
    config.recipe.name = "flow"
    return config
