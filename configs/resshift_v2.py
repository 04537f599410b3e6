"""ResShift realsrx4_s15_v2: v1 trained for longer.

Command:  framer-jax train --config resshift_v2 --workdir runs/resshift_v2 --set data.train=PHOTOS
              --set recipe.space.checkpoint=AUTOENCODER
Hardware: 8 GPUs in the publication. Expected time: not measured; 500,000 steps.
Expected: the published model; this training has not been run.
"""

from ml_collections import ConfigDict

from framer_jax.config import shipped


def get_config() -> ConfigDict:
    """ResShift v2."""
    config = shipped("resshift_v1")
    config.training.steps = 500_000
    return config
