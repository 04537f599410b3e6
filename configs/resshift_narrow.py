"""ResShift's Swin U-Net, narrow and on wavelet latents, for one CPU core: the learning experiment's teacher.

Command:  framer-jax train --config configs/resshift_narrow.py --workdir runs/resshift_narrow --set data.train=PHOTOS
          (add --set framer.reading=paper --set framer.weight=0.1 for FRAMER)
Hardware: 1 CPU core. Expected time: about 8 minutes (0.56 s per step, with FRAMER 6 % more; compilation, validation).
Expected: not measured yet.
"""

from ml_collections import ConfigDict

from configs import default


def get_config() -> ConfigDict:
    """A narrow ResShift."""
    config = default.get_config()
    config.recipe.denoiser.name = "resshift_unet"
    swin = config.recipe.denoiser.resshift_unet
    swin.channels = 32
    swin.multipliers = (1, 2)
    swin.blocks = (1, 1)
    swin.swin_channels = 32
    swin.head_channels = 16
    swin.image_size = 32
    swin.condition_size = 32
    config.data.degradation = "resshift_testing"
    config.training.steps = 700
    config.training.global_batch = 8
    config.training.checkpoint_every = 350
    config.training.validate_every = 350
    return config
