"""DiT4SR at its published size: Stable Diffusion 3.5 medium with an LR stream, on precomputed latents and embeddings.

Command:  framer-jax train --config dit4sr_sd35 --workdir runs/dit4sr --set data.train=LATENTS
              --set data.embeddings=EMBEDDINGS --set recipe.text.null_embedding=null.safetensors
              --set recipe.space.checkpoint=SD35/vae --set recipe.dit4sr.base_checkpoint=SD35/transformer
          (LATENTS, EMBEDDINGS and null.safetensors: framer-jax precompute latents, captions and embeddings)
          Published weights: framer-jax upscale IN OUT --recipe dit4sr_sd35 --weights DIT4SR/transformer
              --protocol dit4sr, with the same autoencoder and text, and
              --set recipe.denoiser.dit4sr_transformer.variant=released
Hardware: 8 GPUs with 80 GB, or a TPU v5e pod with training.mesh.fsdp. Expected time: not measured yet.
Expected: not measured. The released trainer uses a batch of 8 on each of 8 GPUs and states no number of steps.
"""

from ml_collections import ConfigDict

from framer_jax.config import default


def get_config() -> ConfigDict:
    """DiT4SR."""
    config = default("dit4sr")
    config.recipe.dtype = "bfloat16"
    config.recipe.space.name = "kl"
    config.recipe.denoiser.name = "dit4sr_transformer"
    config.recipe.denoiser.dit4sr_transformer.remat = "attention"
    config.recipe.dit4sr.guidance = 8.0
    config.data.degradation = "framer_paper"
    config.data.crop = 512
    config.training.steps = 100_000
    config.training.global_batch = 64
    config.training.learning_rate = 5e-5
    config.training.schedule = "constant"
    config.training.warmup_steps = 0
    config.training.weight_decay = 1e-2
    config.training.ema_decay = 0.0
    config.training.validate_every = 10_000
    config.training.checkpoint_every = 10_000
    return config
