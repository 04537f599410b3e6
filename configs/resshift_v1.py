"""ResShift as published at NeurIPS 2023 (realsrx4_s15_v1): 15 steps, Swin U-Net of 119 M parameters, VQ-f4 latents.

Command:  framer-jax train --config resshift_v1 --workdir runs/resshift_v1 --set data.train=PHOTOS
              --set recipe.space.checkpoint=AUTOENCODER
          (AUTOENCODER: autoencoder_vq_f4.pth, ported or not; --init WEIGHTS fine-tunes the published denoiser,
          resshift_realsrx4_s15_v1.pth)
Hardware: 8 GPUs in the publication (microbatches of 8 examples each). Expected time: not measured; 300,000 steps.
Expected: the published model; this training has not been run. Differences: float32 instead of mixed float16, a
          moving average that warms up, the seed.
"""

from ml_collections import ConfigDict

from framer_jax.config import default


def get_config() -> ConfigDict:
    """ResShift v1."""
    config = default()
    config.recipe.space.name = "vq_f4"
    config.recipe.denoiser.name = "resshift_unet"
    process = config.recipe.resshift
    process.steps = 15
    process.kappa = 2.0
    process.min_noise_level = 0.04
    process.residual = False
    process.last_step_probability = 0.0
    process.centred_mean = False
    process.channel_weight_power = 0.0
    config.data.crop = 256
    config.data.crop_mode = "square"  # whole scenes at 256 pixels, as the authors crop ImageNet
    config.data.degradation = "resshift"
    training = config.training
    training.steps = 300_000
    training.global_batch = 64
    training.learning_rate = 5e-5
    training.warmup_steps = 5000
    training.schedule = "constant"
    training.clip_norm = None
    training.log_every = 100
    training.checkpoint_every = 10_000
    training.validate_every = 10_000
    training.best_metric = "sample/psnr-y"  # as published: PSNR of the luma
    return config
