"""ResShift's Swin U-Net, narrow and on wavelet latents, for one CPU core: the learning experiment's teacher.

Command:  framer-jax train --config configs/resshift_narrow.py --workdir runs/resshift_narrow --set data.train=PHOTOS
          (add --set framer.variant=paper --set framer.weight=0.1 for FRAMER)
Hardware: 1 CPU core. Expected time: 8 minutes (1000 steps of 0.42 s, compilation, validation).
Expected: docs/results/resshift.md.
"""

from ml_collections import ConfigDict

from configs import default


def get_config() -> ConfigDict:
    """A narrow ResShift."""
    config = default.get_config()
    config.recipe.denoiser.name = "resshift_unet"
    swin = config.recipe.denoiser.resshift_unet
    swin.channels = 64  # two channels per group of a norm: with one, a norm would hide every channel's contrast
    swin.multipliers = (1, 1)
    swin.blocks = (1, 1)
    swin.swin_channels = 32
    swin.head_channels = 16
    swin.image_size = 16
    swin.condition_size = 16
    swin.contrast = 4.0
    # More than half of the examples lie at the last index, and most of those start from the prior's centre: with group
    # norms, a network that saw only noise there does not know an input without.
    config.recipe.resshift.last_step_probability = 0.6
    config.recipe.resshift.centred_probability = 0.6
    config.data.degradation = "resshift_testing"
    config.data.crop = 64  # more and smaller crops teach more per second than fewer large ones
    config.training.steps = 1000
    config.training.learning_rate = 2e-3
    config.training.checkpoint_every = 500
    config.training.validate_every = 500
    return config
