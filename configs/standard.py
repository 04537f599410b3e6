"""The standard model that ships in framer_jax/weights: an SRVGG for real photographs, x4, distilled from Real-ESRGAN.

Command:  framer-jax train --config standard:distill --workdir runs/distill
              --set data.pairs="('heavy/lr', 'heavy/hr')"
          framer-jax train --config standard:refine --workdir runs/refine
              --set data.pairs="('light/lr', 'light/hr')" --init runs/distill/weights.safetensors
          framer-jax train --config standard --workdir runs/standard
              --set data.pairs="('light/lr', 'light/hr')" --init runs/refine/weights.safetensors
          (lr: photographs degraded by `framer-jax degrade`; hr: the same, upscaled by `framer-jax upscale --model
          realesr-general-x4v3`. The model card has the commands.)
Hardware: 1 CPU core. Expected time: 31, 19 and 15 minutes, after 20 minutes of two cores for degradations and teacher.
Expected: the scores of the model card, framer_jax/weights/standard.md.
"""

from ml_collections import ConfigDict

from framer_jax.config import default

STAGES = ("distill", "refine", "finish")


def get_config(stage: str = "finish") -> ConfigDict:
    """A stage of L1 training: at a constant rate, then twice with a falling one on milder degradations."""
    if stage not in STAGES:
        raise ValueError(f"there is no stage {stage!r}: choose one of {', '.join(STAGES)}")
    config = default("realesrgan")
    config.recipe.student.name = "srvgg"
    config.recipe.student.srvgg.channels = 64
    config.recipe.student.srvgg.depth = 16
    # Tried for minutes, and left out: LPIPS on AlexNet leaves a grid of 4 pixels, a discriminator changed nothing.
    config.recipe.realesrgan.perceptual_weight = 0.0
    config.recipe.realesrgan.adversarial_weight = 0.0
    config.data.degradation = "framer_released"
    config.data.crop = 96
    config.data.flip_and_rotate = True
    config.training.global_batch = 16
    config.training.steps = 1300
    config.training.learning_rate = 6e-4
    config.training.warmup_steps = 50
    config.training.schedule = "cosine"
    config.training.ema_decay = 0.99
    config.training.log_every = 20
    config.training.validate_every = 650
    config.training.checkpoint_every = 650
    if stage == "refine":
        config.training.steps = 1400
        config.training.learning_rate = 1e-3
        config.training.validate_every = 700
        config.training.checkpoint_every = 700
    if stage == "distill":
        config.data.flip_and_rotate = False
        config.training.steps = 2000
        config.training.learning_rate = 1e-3
        config.training.warmup_steps = 100
        config.training.schedule = "constant"
        config.training.ema_decay = 0.999
        config.training.validate_every = 500
        config.training.checkpoint_every = 500
    return config
