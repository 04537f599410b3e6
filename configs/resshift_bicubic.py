"""ResShift bicsrx4_s4: v3 for images that were reduced by MATLAB's bicubic filter and nothing else.

Command:  framer-jax train --config configs/resshift_bicubic.py --workdir runs/resshift_bicubic
              --set data.train=PHOTOS --set recipe.space.weights=AUTOENCODER --set recipe.lpips.weights=LPIPS
Hardware: 8 GPUs in the publication. Expected time: not measured; 400,000 steps.
Expected: the published model; this run itself has not been made. (LR images are rounded to 8 bits here.)
"""

from ml_collections import ConfigDict

from configs import resshift_v3


def get_config() -> ConfigDict:
    """ResShift for bicubic reduction."""
    config = resshift_v3.get_config()
    config.data.degradation = "bicubic"
    config.data.flip_and_rotate = True
    return config
