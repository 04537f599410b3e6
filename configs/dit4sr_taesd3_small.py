"""DiT4SR at laptop size on the latents of Stable Diffusion 3: TAESD3 as the autoencoder, no text, no base model.

Command:  framer-jax precompute latents --config dit4sr_taesd3_small --vae TAESD3 --output LATENTS --samples 4000
              --set data.train=PHOTOS
          framer-jax train --config dit4sr_taesd3_small --workdir runs/dit4sr_taesd3 --set data.train=LATENTS
              --set recipe.space.checkpoint=TAESD3
          (TAESD3: the folder with taesd3_encoder.safetensors and taesd3_decoder.safetensors)
Hardware: 1 CPU core. Expected time: 3 hours (4.0 to 4.5 images a second, 1.0 to 1.1 steps); encoding the records takes
          another hour, 0.9 s each.
Expected: the whole run was not measured; after 1,069 steps the loss is 0.14 and images are poor:
          docs/results/framer_latents.md.
"""

from ml_collections import ConfigDict

from framer_jax.config import default


def get_config() -> ConfigDict:
    """A small DiT4SR on latents of Stable Diffusion 3."""
    config = default("dit4sr")
    config.recipe.space.name = "taesd3"
    config.recipe.denoiser.name = "dit4sr_transformer"
    transformer = config.recipe.denoiser.dit4sr_transformer
    transformer.depth = 4
    transformer.heads = 4
    transformer.head_width = 24
    transformer.dual_blocks = 1
    transformer.position_grid = 64
    config.recipe.dit4sr.trainable = ""  # everything: there is no base model
    config.recipe.dit4sr.sampling_steps = 20
    config.recipe.text.condition = "zero"
    config.recipe.text.update({"clip_length": 1, "t5_length": 1, "clip_widths": (16, 16), "width": 32})
    config.data.degradation = "framer_released"
    config.data.crop = 256
    config.training.steps = 12_000
    config.training.global_batch = 4
    config.training.learning_rate = 3e-4
    config.training.warmup_steps = 200
    config.training.validate_every = 2_000
    config.training.checkpoint_every = 2_000
    return config
