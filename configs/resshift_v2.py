"""ResShift realsrx4_s15_v2: v1 trained for longer.

Command:  framer-jax train --config configs/resshift_v2.py --workdir runs/resshift_v2 --set data.train=PHOTOS
              --set recipe.space.weights=AUTOENCODER
Hardware: 8 GPUs in the publication. Expected time: not measured; 500,000 steps.
Expected: the published model; this run itself has not been made.
"""

from ml_collections import ConfigDict

from configs import resshift_v1


def get_config() -> ConfigDict:
    """ResShift v2."""
    config = resshift_v1.get_config()
    config.training.steps = 500_000
    return config
