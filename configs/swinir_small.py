"""SwinIR-small (60 channels, 4 groups of 6 blocks, nearest+conv, 1,050,799 parameters) with the L1 loss alone.

Command:  framer-jax train --config swinir_small --workdir runs/swinir_small --set data.train=PHOTOS
Hardware: 1 GPU with 80 GB. Expected time: not measured yet.
Expected: not measured yet. DTKD's paper states no iterations, batch size or learning rate; these are KAIR's for the
          lightweight SwinIR.
"""

from ml_collections import ConfigDict

from framer_jax.config import default


def get_config() -> ConfigDict:
    """DTKD's student without a teacher."""
    config = default("supervised_l1")
    config.data.degradation = "resshift_testing"
    config.data.crop = 256  # 64 LR pixels
    config.training.steps = 500_000
    config.training.global_batch = 64
    config.training.learning_rate = 2e-4
    config.training.warmup_steps = 0
    config.training.ema_decay = 0.999
    config.training.log_every = 200
    config.training.validate_every = 5000
    config.training.checkpoint_every = 5000
    return config
