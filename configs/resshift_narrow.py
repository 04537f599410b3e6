"""A narrow ResShift Swin U-Net on wavelet latents, for one CPU core: the teacher of the learning experiment.

Command:  framer-jax train --config resshift_narrow --workdir runs/resshift_narrow --set data.train=PHOTOS
          (add --set framer.variant=paper --set framer.weight=0.1 for FRAMER)
Hardware: 1 CPU core. Expected time: 8 minutes (1000 steps of 0.42 s, compilation, validation).
Expected: docs/results/resshift.md.
"""

from ml_collections import ConfigDict

from framer_jax.config import default


def get_config() -> ConfigDict:
    """A narrow ResShift."""
    config = default()
    config.recipe.denoiser.name = "resshift_unet"
    unet = config.recipe.denoiser.resshift_unet
    unet.channels = 64  # two per group of a GroupNorm: with one, the norm would remove every channel's contrast
    unet.multipliers = (1, 1)
    unet.blocks = (1, 1)
    unet.swin_channels = 32
    unet.head_channels = 16
    unet.image_size = 16
    unet.condition_size = 16
    unet.contrast = 4.0
    # More than half of the examples are at the last index, and most of these start from the mean of the prior: because
    # of its group norms, a network that is trained on noisy inputs alone fails on the input without noise.
    config.recipe.resshift.last_step_probability = 0.6
    config.recipe.resshift.centred_probability = 0.6
    config.data.degradation = "resshift_testing"
    config.data.crop = 64  # many small crops train better per second than few large ones
    config.training.steps = 1000
    config.training.learning_rate = 2e-3
    config.training.checkpoint_every = 500
    config.training.validate_every = 500
    return config
