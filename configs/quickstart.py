"""Further training of the starter model on the built-in photographs, as in tools/quickstart.sh.

Command:  framer-jax train --config quickstart --init starter --workdir quickstart/base
          (quickstart_framer is the same with FRAMER)
Hardware: 2 CPU cores. Expected time: 90 s, half of it compilation.
Expected: the table in docs/get_started.md.
"""

from ml_collections import ConfigDict

from framer_jax.config import shipped


def get_config() -> ConfigDict:
    """The quickstart's configuration."""
    config = shipped("starter")
    config.data.degradation = "framer_paper"  # heavier than the degradation of the starter's training
    config.data.crop = 64
    config.data.validation_count = 0  # the quickstart measures at the end
    config.training.best_metric = None
    config.training.steps = 100
    config.training.warmup_steps = 20
    config.training.learning_rate = 2e-4
    config.training.schedule = "constant"
    config.training.ema_decay = 0.98  # so short a run needs a fast average
    config.training.log_every = 20
    config.training.checkpoint_every = 100
    config.training.validate_every = 100
    return config
