"""Multi-step diffusion on Stable Diffusion 2.1 base in SeeSR's manner, with SeeSR's published settings.

Command:  framer-jax train --config multistep_sd21 --workdir runs/multistep --set data.train=PHOTOS
              --set data.embeddings=EMBEDDINGS --set recipe.text.null_embedding=null.safetensors
              --set recipe.space.checkpoint=SD21/vae --set recipe.multistep_sd.base_checkpoint=SD21/unet
              --set recipe.multistep_sd.dinov2_checkpoint=dinov2_vitb14_pretrain.pth
          (EMBEDDINGS and null.safetensors: framer-jax precompute captions and embeddings; upscaling also takes the
          embeddings of a prompt and of a negative prompt, see docs/methods/multistep_sd.md)
Hardware: 8 GPUs with 80 GB. Expected time: not measured yet.
Expected: not measured. SeeSR on RealSR by FRAMER's Table 1: 23.69 dB PSNR, LPIPS .386, MUSIQ 69.80.

                 SeeSR, released                       here
image tokens     DAPE (RAM Swin-L, fine-tuned), 512    DINOv2 ViT-B/14, 768: DAPE is not in this library
text             tags by DAPE, null for half of them   captions, null for half of them
batch            2 on each of 8 GPUs, 2 accumulated    32
steps            not stated                            150,000
learning rate    5e-5                                  5e-5
sampling         50 steps of DDPM, guidance 5.5        the same
                 from the LR latent with noise         the same
"""

from ml_collections import ConfigDict

from framer_jax.config import default


def get_config() -> ConfigDict:
    """SeeSR's settings."""
    config = default("multistep_sd")
    config.recipe.dtype = "bfloat16"
    config.recipe.space.name = "kl"
    config.recipe.denoiser.controlled_sd_unet.image_context_width = 768
    config.recipe.denoiser.controlled_sd_unet.remat = "attention"
    config.recipe.multistep_sd.image_tokens = "dinov2"
    config.recipe.multistep_sd.guidance = 5.5
    config.data.degradation = "framer_paper"
    config.data.sharpen_target = True  # as SeeSR's data preparation
    config.data.crop = 512
    config.data.caption_dropout = 0.5
    config.training.steps = 150_000
    config.training.global_batch = 32
    config.training.learning_rate = 5e-5
    config.training.schedule = "constant"
    config.training.warmup_steps = 0
    config.training.weight_decay = 1e-2
    config.training.ema_decay = 0.0
    config.training.best_metric = "sample/psnr-y"
    config.training.validate_every = 10_000
    config.training.checkpoint_every = 10_000
    return config
