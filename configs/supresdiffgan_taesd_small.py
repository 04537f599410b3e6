"""SupResDiffGAN at laptop size on Stable Diffusion 2's latents: TAESD as the autoencoder, a small U-Net.

Command:  framer-jax precompute latents --config supresdiffgan_taesd_small --vae TAESD --output LATENTS --samples 4000
              --set data.train=PHOTOS
          framer-jax train --config supresdiffgan_taesd_small --workdir runs/supresdiffgan --set data.train=LATENTS
              --set recipe.space.checkpoint=TAESD
          (TAESD: the folder with taesd_encoder.safetensors and taesd_decoder.safetensors; data.train=PHOTOS encodes
          in every step; `--config supresdiffgan_taesd_small:framer_0.1` and `:framer_0.01`: with FRAMER at that λ on
          the sum over the blocks)
Hardware: 1 CPU core. Expected time: 4 minutes (0.73 s a step) after compilation; encoding 958 records
          takes 3 more.
Expected: docs/results/framer_u.md.
"""

from ml_collections import ConfigDict

from framer_jax.config import default

VARIANTS = {"base": None, "framer_0.01": 0.01, "framer_0.1": 0.1}
"""Variant → FRAMER's λ, None without FRAMER."""


def get_config(variant: str = "base") -> ConfigDict:
    """The small SupResDiffGAN, without FRAMER or with it."""
    if variant not in VARIANTS:
        raise ValueError(f"there is no variant {variant!r}: choose one of {', '.join(VARIANTS)}")
    config = default("supresdiffgan")
    config.recipe.space.name = "taesd"
    unet = config.recipe.denoiser.supresdiffgan_unet
    unet.channels = (32, 64)
    unet.blocks = 1
    config.recipe.supresdiffgan.discriminator_channels = (16, 32)
    config.recipe.supresdiffgan.sampling_steps = 20
    config.data.degradation = "framer_released"
    config.data.crop = 64
    config.training.steps = 300
    config.training.global_batch = 4
    config.training.learning_rate = 5e-4
    config.training.warmup_steps = 30
    config.training.ema_decay = 0.99
    config.training.log_every = 20
    config.training.validate_every = 300
    config.training.checkpoint_every = 300
    if VARIANTS[variant]:
        config.framer.variant = "paper"
        config.framer.weight = VARIANTS[variant]
    return config
