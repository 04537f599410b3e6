"""FRAMER_D at laptop size: DiT4SR's two streams with FRAMER, on wavelet latents and without text.

Command:  framer-jax train --config framer_d_small --workdir runs/framer_d_small --set data.train=PHOTOS
          (--set framer.variant=none: DiT4SR alone; --set recipe.denoiser.dit4sr_transformer.taps=hidden: the paper's
          hidden maps instead of the blocks' predictions)
Hardware: 2 CPU cores. Expected time: 8 minutes (35 examples a second).
Expected: samples at 17.4 dB PSNR-Y (16.9 after half of the steps), far below bicubic's 24.7 on the same images, because
          whole latents are generated from noise without a base model. It shows that FRAMER_D trains from random
          weights, and is not a comparison.
"""

from ml_collections import ConfigDict

from framer_jax.config import default


def get_config() -> ConfigDict:
    """A small FRAMER_D."""
    config = default("dit4sr")
    config.recipe.denoiser.name = "dit4sr_transformer"
    transformer = config.recipe.denoiser.dit4sr_transformer
    transformer.depth = 4
    transformer.heads = 4
    transformer.head_width = 24
    transformer.dual_blocks = 1
    transformer.position_grid = 64
    transformer.taps = "prediction"
    config.recipe.space.statistics = "image"  # the clean latent is that of the whole image, not a residual
    config.recipe.dit4sr.trainable = ""  # everything: there is no base model
    config.recipe.dit4sr.sampling_steps = 8
    config.recipe.text.condition = "zero"
    config.recipe.text.update({"clip_length": 1, "t5_length": 1, "clip_widths": (16, 16), "width": 32})
    config.framer.variant = "paper"
    config.framer.weight = 0.1
    config.data.crop = 64
    config.training.steps = 1000
    return config
