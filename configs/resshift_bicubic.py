"""ResShift bicsrx4_s4: v3 for images that were only downsampled, with MATLAB's bicubic filter.

Command:  framer-jax train --config resshift_bicubic --workdir runs/resshift_bicubic
              --set data.train=PHOTOS --set recipe.space.checkpoint=AUTOENCODER --set recipe.lpips.checkpoint=LPIPS
Hardware: 8 GPUs in the publication. Expected time: not measured; 400,000 steps.
Expected: the published model; this training has not been run. LR images are rounded to 8 bits here.
"""

from ml_collections import ConfigDict

from framer_jax.config import shipped


def get_config() -> ConfigDict:
    """ResShift for bicubic downsampling."""
    config = shipped("resshift_v3")
    config.data.degradation = "bicubic"
    config.data.flip_and_rotate = True
    return config
