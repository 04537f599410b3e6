"""The standard model that ships in framer_jax/weights: an SRVGG for real photographs, x4, distilled from Real-ESRGAN.

Command:  framer-jax train --config standard:distill --workdir runs/distill
              --set data.pairs="('heavy/lr', 'heavy/hr')"
          framer-jax train --config standard:refine --workdir runs/refine
              --set data.pairs="('light/lr', 'light/hr')" --init runs/distill/weights.safetensors
          framer-jax train --config standard:finish --workdir runs/finish
              --set data.pairs="('light/lr', 'light/hr')" --init runs/refine/weights.safetensors
          framer-jax train --config standard:perceptual --workdir runs/perceptual
              --set data.train=PHOTOS --init runs/finish/weights.safetensors
          framer-jax train --config standard --workdir runs/standard
              --set data.train=PHOTOS --init INTERPOLATED
          (lr: photographs degraded by `framer-jax degrade`; hr: the same, upscaled by `framer-jax upscale --model
          realesr-general-x4v3`; INTERPOLATED: 0.8 of the weights of `perceptual` and 0.2 of those of `finish`. The last
          two stages need LPIPS: pip install 'framer_jax[lpips]'. The model card has all commands.)
Hardware: 1 CPU core. Expected time: 31, 19, 15, 62 and 76 minutes, after 20 minutes of two cores for degradations
          and teacher.
Expected: the scores of the model card, framer_jax/weights/standard.md.
"""

from ml_collections import ConfigDict

from framer_jax.config import default

STAGES = ("distill", "refine", "finish", "perceptual", "texture")


def get_config(stage: str = "texture") -> ConfigDict:
    """A stage: L1 to the teacher at a constant and twice at a falling rate, then L1 and LPIPS to the photographs.

    The last one also has the term against texture that is stronger at some pixels of each cell than at others.
    """
    if stage not in STAGES:
        raise ValueError(f"there is no stage {stage!r}: choose one of {', '.join(STAGES)}")
    config = default("realesrgan")
    config.recipe.student.name = "srvgg"
    config.recipe.student.srvgg.channels = 64
    config.recipe.student.srvgg.depth = 16
    config.recipe.realesrgan.perceptual_weight = 0.0
    config.recipe.realesrgan.adversarial_weight = 0.0  # a discriminator of 16 channels changed nothing in 400 steps
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
    if stage in ("perceptual", "texture"):
        _add_perceptual_terms(config)
    if stage == "texture":
        config.recipe.realesrgan.checkerboard_texture_weight = 20.0
        config.training.steps = 1500
        config.training.validate_every = 250
        config.training.checkpoint_every = 250
    return config


def _add_perceptual_terms(config: ConfigDict) -> None:
    config.recipe.realesrgan.perceptual_weight = 1.0
    config.recipe.realesrgan.checkerboard_weight = 10.0  # without it LPIPS leaves a visible pattern of 4 pixels
    config.recipe.lpips.net = "vgg"
    config.recipe.lpips.phases = 4
    config.data.degradation_geometry = "aligned"
    config.data.crop = 128
    config.training.global_batch = 6
    config.training.steps = 1200
    config.training.learning_rate = 4e-4
    config.training.ema_decay = 0.998
    config.training.validate_every = 400
    config.training.checkpoint_every = 400
