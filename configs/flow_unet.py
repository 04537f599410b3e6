"""Rectified flow with the small U-Net.

Command:  framer-jax train --config flow_unet --workdir runs/flow_unet --set data.train=PHOTOS
          (without data.train: the built-in photographs; add --set framer.variant=paper for FRAMER)
Hardware: 2 CPU cores, or one GPU. Expected time: about 0.8 s per step on one CPU core (batch 16 of 128 pixels).
Expected: not measured beyond the first steps; of the small models, the starter (ResShift) has been measured.
"""

from ml_collections import ConfigDict

from framer_jax.config import default


def get_config() -> ConfigDict:
    """Rectified flow with the small U-Net."""
    return default("rectified_flow")
