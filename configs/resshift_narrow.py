"""ResShift's Swin U-Net, narrow and on wavelet latents, for one CPU core: the learning experiment's teacher.

Command:  framer-jax train --config configs/resshift_narrow.py --workdir runs/resshift_narrow --set data.train=PHOTOS
          (add --set framer.reading=paper --set framer.weight=0.1 for FRAMER)
Hardware: 1 CPU core. Expected time: 7 minutes (1400 steps of 0.27 s, with FRAMER 6 % more; compilation, validation).
Expected: one run on 479 photographs with the degradation light_one_stage, on the built-in held-out ones: samples NIQE
          5.8 and 24.42 dB PSNR-Y (bicubic 9.5 and 24.93), one-step mean 24.95 dB. So short a run hardly moves the mean.
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
    config.training.steps = 1400
    config.training.global_batch = 4
    config.training.learning_rate = 2e-3
    config.training.checkpoint_every = 700
    config.training.validate_every = 700
    return config
