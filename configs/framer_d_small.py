"""FRAMER_D at a size that a laptop trains: DiT4SR's two streams with FRAMER, on wavelet latents and without text.

Command:  framer-jax train --config configs/framer_d_small.py --workdir runs/framer_d_small --set data.train=PHOTOS
          (--set framer.variant=none for DiT4SR alone)
Hardware: 2 CPU cores. Expected time: 8 minutes (35 examples a second).
Expected: samples at 17.4 dB PSNR-Y (16.9 after half of the steps), far below bicubic's 24.7 on the same images: whole
          latents from noise, without a base. It exercises FRAMER_D's training from nothing, and is no comparison.
"""

from ml_collections import ConfigDict

from configs import default


def get_config() -> ConfigDict:
    """A small FRAMER_D."""
    config = default.get_config()
    config.recipe.name = "dit4sr"
    config.recipe.denoiser.name = "dit4sr"
    transformer = config.recipe.denoiser.dit4sr
    transformer.depth = 4
    transformer.heads = 4
    transformer.head_width = 24
    transformer.dual_blocks = 1
    transformer.position_grid = 64
    transformer.taps = "prediction"
    config.recipe.space.statistics = "image"  # of whole latents, not of what the LR image lacks
    config.recipe.dit4sr.trainable = ""  # all: there is no base
    config.recipe.dit4sr.sampling_steps = 8
    config.recipe.text.condition = "zero"
    config.recipe.text.update({"clip_length": 1, "t5_length": 1, "clip_widths": (16, 16), "width": 32})
    config.framer.variant = "paper"
    config.framer.weight = 0.1
    config.data.crop = 64
    config.training.steps = 1000
    return config
