"""A few more steps from the starter model on the built-in photographs: what tools/quickstart.sh runs.

Command:  framer-jax train --config quickstart --init starter --workdir quickstart/base
          (the same with configs/quickstart_framer.py adds FRAMER)
Hardware: 2 CPU cores. Expected time: 2 minutes.
Expected: the table in README.md.
"""

from ml_collections import ConfigDict

from framer_jax.config import shipped


def get_config() -> ConfigDict:
    """The quickstart's configuration."""
    config = shipped("starter")
    config.data.degradation = "framer_paper"  # heavier than what the starter was trained with
    config.training.steps = 120
    config.training.warmup_steps = 20
    config.training.learning_rate = 2e-4
    config.training.schedule = "constant"
    config.training.ema_decay = 0.98  # so short a run needs a short memory
    config.training.log_every = 20
    config.training.checkpoint_every = 60
    config.training.validate_every = 60
    return config
