"""ResShift as published at NeurIPS 2023 (realsrx4_s15_v1): 15 steps, Swin U-Net of 119 M parameters, VQ-f4 latents.

Command:  framer-jax train --config configs/resshift_v1.py --workdir runs/resshift_v1 --set data.train=PHOTOS
              --set recipe.space.weights=AUTOENCODER
          (AUTOENCODER: autoencoder_vq_f4.pth, or what framer-jax port makes of it; --init WEIGHTS fine-tunes the
          published denoiser, resshift_realsrx4_s15_v1.pth)
Hardware: 8 GPUs in the publication (8 examples each at a time). Expected time: not measured; 300,000 steps.
Expected: the published model; this run itself has not been made. What differs: float32 instead of mixed float16, the
          moving average warms up, the seed.
"""

from ml_collections import ConfigDict

from configs import default


def get_config() -> ConfigDict:
    """ResShift v1."""
    config = default.get_config()
    config.recipe.space.name = "vq_f4"
    config.recipe.denoiser.name = "resshift_unet"
    chain = config.recipe.resshift
    chain.steps = 15
    chain.kappa = 2.0
    chain.min_noise_level = 0.04
    chain.residual = False
    chain.last_step_probability = 0.0
    chain.centred_mean = False
    chain.channel_weight_power = 0.0
    config.data.crop = 256
    config.data.crop_mode = "square"  # whole scenes of 256 pixels, as the authors cut them from ImageNet
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
    training.best_metric = "sample/psnr-y"  # published: PSNR of the luma
    return config
