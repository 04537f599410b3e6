"""A narrow SRVGG trained as in Real-ESRGAN, for one CPU core: the second stage, from the weights of the first.

Command:  framer-jax train --config realesrgan_narrow:first --workdir runs/realesrnet_narrow --set data.train=PHOTOS
          framer-jax train --config realesrgan_narrow --workdir runs/realesrgan_narrow --set data.train=PHOTOS
              --init runs/realesrnet_narrow/weights.safetensors
Hardware: 1 CPU core. Expected time: 5 and 11 minutes (2000 and 600 steps).
Expected: LPIPS (alex) .638 and .432 on 20 photographs: docs/methods/realesrgan.md.
"""

from ml_collections import ConfigDict

from framer_jax.config import default

STAGES = ("first", "second")


def get_config(stage: str = "second") -> ConfigDict:
    """A stage: L1 alone, or L1, LPIPS and the discriminator."""
    if stage not in STAGES:
        raise ValueError(f"there is no stage {stage!r}: choose one of {', '.join(STAGES)}")
    config = default("realesrgan")
    config.recipe.student.name = "srvgg"
    config.recipe.student.srvgg.channels = 48
    config.recipe.student.srvgg.depth = 16
    config.recipe.realesrgan.discriminator_channels = 24
    config.recipe.lpips.net = "alex"  # a tenth of VGG16's time on a CPU
    config.data.degradation = "framer_released"
    config.data.crop = 64  # many small crops train better per second than few large ones
    config.training.global_batch = 8
    config.training.steps = 600
    config.training.learning_rate = 2e-4
    config.training.schedule = "constant"
    config.training.ema_decay = 0.99
    config.training.log_every = 20
    config.training.validate_every = 200
    config.training.checkpoint_every = 200
    if stage == "first":
        config.recipe.realesrgan.perceptual_weight = 0.0
        config.recipe.realesrgan.adversarial_weight = 0.0
        config.training.global_batch = 16
        config.training.steps = 2000
        config.training.learning_rate = 1e-3
        config.training.schedule = "cosine"
        config.training.ema_decay = 0.999
        config.training.validate_every = 1000
        config.training.checkpoint_every = 1000
    return config
