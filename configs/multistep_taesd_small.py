"""The multi-step U-Net at laptop size on the latents of Stable Diffusion 2: TAESD, no text, no base model.

Command:  framer-jax precompute latents --config multistep_taesd_small --vae TAESD --output LATENTS --samples 4000
              --set data.train=PHOTOS
          framer-jax train --config multistep_taesd_small --workdir runs/multistep_taesd --set data.train=LATENTS
              --set recipe.space.checkpoint=TAESD
          (TAESD: the folder with taesd_encoder.safetensors and taesd_decoder.safetensors)
Hardware: 1 CPU core. Expected time: 4 minutes (0.21 s a step) after compilation; encoding 718 records
          takes 4 more.
Expected: docs/results/framer_u.md.
"""

from ml_collections import ConfigDict

from framer_jax.config import default


def get_config() -> ConfigDict:
    """A small U-Net with a ControlNet that sees the LR latent."""
    config = default("multistep_sd")
    config.recipe.space.name = "taesd"
    unet = config.recipe.denoiser.controlled_sd_unet
    unet.channels = (32, 64, 96)
    unet.blocks = 1
    unet.attention_levels = (2,)
    unet.heads = (1, 2, 3)
    unet.control = "latent"  # precomputed latents have no images
    unet.groups = 16
    unet.image_widths = (32,)
    config.recipe.multistep_sd.trainable = ""  # everything: there is no base model
    config.recipe.multistep_sd.sampling_steps = 20
    config.recipe.multistep_sd.sampler = "ddim"
    config.recipe.text.condition = "zero"
    config.recipe.text.update({"length": 1, "width": 32})
    config.data.degradation = "framer_released"
    config.data.crop = 128
    config.training.steps = 1_000
    config.training.global_batch = 8
    config.training.learning_rate = 3e-4
    config.training.warmup_steps = 100
    config.training.ema_decay = 0.99
    config.training.best_metric = "sample/psnr-y"
    config.training.validate_every = 500
    config.training.checkpoint_every = 500
    return config
