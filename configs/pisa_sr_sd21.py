"""PiSA-SR at its published size: two LoRAs on Stable Diffusion 2.1, a pixel-level and a semantic-level one.

Command:  framer-jax train --config pisa_sr_sd21 --workdir runs/pisa_sr --set data.train=PHOTOS
              --set recipe.pisa_sr.base_checkpoint=SD21_BASE/unet --set recipe.space.checkpoint=SD21_BASE/vae
              --set recipe.lpips.checkpoint=lpips_vgg.safetensors
              --set recipe.text.null_embedding=null.safetensors
              --set recipe.text.negative_embedding=negative.safetensors --set data.embeddings=EMBEDDINGS
          (SD21_BASE: the pipeline stable-diffusion-2-1-base, which predicts noise; texts: `framer-jax precompute
          embeddings --model SD21_BASE` with `--null`, `--text` and `--captions`; the authors' negative prompt is in
          docs/methods/pisa_sr.md; without captions: --set recipe.text.condition=null in place of data.embeddings; the
          distillation then leads from the negative prompt to the null text)
Hardware: 4 GPUs with 40 GB. Expected time: not measured yet; the released trainer takes 12,500 steps of 16 images.
Expected: not measured. FRAMER's Table 1: PiSA-SR has 24.02 dB PSNR, LPIPS .355 and MUSIQ 68.20 on RealSR.
"""

from ml_collections import ConfigDict

from framer_jax.config import default


def get_config() -> ConfigDict:
    """The published training."""
    config = default("pisa_sr")
    config.recipe.dtype = "bfloat16"
    config.recipe.denoiser.sd_unet.remat = "attention"
    config.data.degradation = "framer_released"  # the parameters of PiSA-SR's params.yml
    config.data.crop = 512
    config.data.caption_dropout = 0.0  # the student alone gets the null text: recipe.pisa_sr.null_text_ratio
    config.training.steps = 12_500  # 4,000 of the first phase and 8,500 of the second
    config.training.global_batch = 16
    config.training.learning_rate = 5e-5
    config.training.schedule = "constant"
    config.training.warmup_steps = 0
    config.training.weight_decay = 1e-2
    config.training.clip_norm = 1.0
    config.training.ema_decay = 0.0
    config.training.best_metric = "sample/psnr-y"  # the method has no mean
    config.training.validate_every = 500
    config.training.checkpoint_every = 500
    return config
