"""SupResDiffGAN at its published size: a U-Net on Stable Diffusion 2.1's latents and a discriminator of image pairs.

Command:  framer-jax train --config supresdiffgan --workdir runs/supresdiffgan --set data.train=PHOTOS
              --set recipe.space.checkpoint=SD21/vae
          (--set recipe.supresdiffgan.variant=released: the generator is trained by the latent MSE alone, as in the
          released code; --set recipe.supresdiffgan.perceptual_weight=0.001 --set recipe.vgg19.checkpoint=VGG19: the
          released option of a perceptual term)
Hardware: 1 GPU with 80 GB. Expected time: not measured yet; the released trainer takes 330,000 steps of 32 images, of
          which half update the generator and half the discriminator.
Expected: not measured. The authors: LPIPS .1875 on CelebA-HQ and .3970 on RealSR (Nikon).
"""

from ml_collections import ConfigDict

from framer_jax.config import default


def get_config() -> ConfigDict:
    """The released options: Adam at 1e-4 for both networks, batch 32, bicubic LR images of CelebA-HQ at 256 pixels."""
    config = default("supresdiffgan")
    config.recipe.space.name = "kl"
    config.data.degradation = "bicubic"
    config.data.crop = 256
    config.training.steps = 330_000
    config.training.global_batch = 32
    config.training.learning_rate = 1e-4
    config.training.schedule = "constant"
    config.training.warmup_steps = 0
    config.training.b1 = 0.9
    config.training.b2 = 0.999
    config.training.weight_decay = 0.0
    config.training.clip_norm = None
    config.training.ema_decay = 0.0
    config.training.log_every = 200
    config.training.validate_every = 5000
    config.training.checkpoint_every = 5000
    return config
