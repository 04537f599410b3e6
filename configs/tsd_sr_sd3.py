"""TSD-SR at its published size: Stable Diffusion 3 medium distilled into one step by target scores.

Command:  framer-jax train --config tsd_sr_sd3 --workdir runs/tsd_sr --set data.train=PHOTOS
              --set recipe.tsd_sr.base_checkpoint=SD3/transformer --set recipe.space.checkpoint=SD3/vae
              --set recipe.tsd_sr.teacher_lora_checkpoint=teacher.safetensors
              --set recipe.lpips.checkpoint=lpips_alex.safetensors
              --set recipe.text.null_embedding=null.safetensors
              --set recipe.text.prompt_embedding=prompt.safetensors --set data.embeddings=EMBEDDINGS
          (texts: `framer-jax precompute embeddings --t5-length 256` with `--null`, `--text` and `--captions`;
          teacher.safetensors: TSD-SR's LoRA; --set recipe.text.condition=null: without captions, the teacher has the
          student's text; `--config tsd_sr_sd3:released`: latents without the autoencoder's shift, as the published
          weights expect)
Hardware: 8 GPUs with 80 GB. Expected time: not measured yet; the released trainer takes 200,000 steps of 16 images.
Expected: not measured. FRAMER's Table 7: TSD-SR has 23.45 dB PSNR, LPIPS .383 and MUSIQ 71.08 on RealSR.
"""

from ml_collections import ConfigDict

from framer_jax.config import default

VARIANTS = ("correct", "released")


def get_config(variant: str = "correct") -> ConfigDict:
    """TSD-SR on latents with the autoencoder's shift ('correct') or without it ('released')."""
    if variant not in VARIANTS:
        raise ValueError(f"there is no variant {variant!r}: choose one of {', '.join(VARIANTS)}")
    config = default("tsd_sr")
    config.recipe.dtype = "bfloat16"
    config.recipe.space.name = "kl"
    config.recipe.space.shift = 0.0 if variant == "released" else None
    config.recipe.denoiser.name = "mmdit"
    config.recipe.denoiser.mmdit.remat = "attention"
    config.recipe.lpips.net = "alex"
    config.recipe.text.t5_length = 256
    config.data.caption_dropout = 0.0
    config.data.degradation = "framer_paper"
    config.data.crop = 512
    config.training.steps = 200_000
    config.training.global_batch = 16
    config.training.learning_rate = 5e-6
    config.training.final_learning_rate = 0.0
    config.training.warmup_steps = 3000
    config.training.weight_decay = 1e-4
    config.training.ema_decay = 0.0
    config.training.updates = {"regulariser": {"learning_rate": 1e-6}}
    config.training.best_metric = "sample/psnr-y"  # the method has no mean
    config.training.validate_every = 5000
    config.training.checkpoint_every = 5000
    return config
