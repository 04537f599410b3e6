"""The end of the starter's training: the same model, now mostly on what its one-step mean will see.

Command:  tools/train_starter.sh PHOTOS RUN  (configs/starter.py first, then this from its weights)
Hardware: 2 CPU cores. Expected time: 20 minutes.
Expected: see the model card, framer_jax/weights/starter.md.
"""

from ml_collections import ConfigDict

from configs import starter


def get_config() -> ConfigDict:
    """The starter's last steps: pixel error, and examples from the centre of the prior."""
    config = starter.get_config()
    config.recipe.resshift.last_step_probability = 0.7
    config.recipe.resshift.centred_probability = 0.7
    config.recipe.resshift.channel_weight_power = 2.0
    config.training.seed = 1
    config.training.steps = 1400
    config.training.warmup_steps = 50
    config.training.learning_rate = 5e-4
    config.training.ema_decay = 0.995
    return config
