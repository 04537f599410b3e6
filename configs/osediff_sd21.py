"""OSEDiff at its published size: Stable Diffusion 2.1 base distilled into one step by variational score distillation.

Command:  framer-jax train --config osediff_sd21 --workdir runs/osediff --set data.train=PHOTOS
              --set recipe.osediff.base_checkpoint=SD21/unet --set recipe.space.checkpoint=SD21/vae
              --set recipe.lpips.checkpoint=lpips_vgg.safetensors
              --set recipe.text.null_embedding=null.safetensors --set data.embeddings=EMBEDDINGS
          (texts: `framer-jax precompute embeddings` with `--null` and `--captions`, of tags of the photographs;
          --set recipe.text.negative_embedding=negative.safetensors: a negative prompt (`--text`);
          --set recipe.text.condition=null --set recipe.text.prompt_embedding=prompt.safetensors: without captions)
          FRAMER on it: --set framer.variant=paper
          Published weights: framer-jax upscale IN OUT --recipe osediff_sd21 --weights osediff.pkl --protocol osediff,
              with the same U-Net, autoencoder and texts
Hardware: 4 GPUs with 80 GB. Expected time: not measured yet; the released trainer makes up to 100,000 steps of 16
          images.
Expected: not measured. The authors' images of RealSR have 25.15 dB PSNR-Y, SSIM .734, LPIPS .292, DISTS .213, NIQE 5.65
          and MUSIQ 69.09.
"""

from ml_collections import ConfigDict

from framer_jax.config import default


def get_config() -> ConfigDict:
    """OSEDiff."""
    config = default("osediff")
    config.recipe.dtype = "bfloat16"
    config.recipe.denoiser.sd_unet.remat = "attention"
    config.data.caption_dropout = 0.0
    config.data.degradation = "real_esrgan"
    config.data.sharpen_target = False
    config.data.crop = 512
    config.training.steps = 100_000
    config.training.global_batch = 16
    config.training.learning_rate = 5e-5
    config.training.schedule = "constant"
    config.training.warmup_steps = 0
    config.training.weight_decay = 1e-2
    config.training.ema_decay = 0.0
    config.training.best_metric = "sample/psnr-y"  # the method has no mean
    config.training.validate_every = 5000
    config.training.checkpoint_every = 5000
    return config
