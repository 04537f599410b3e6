"""The defaults of a method as a configuration; for ResShift, the small U-Net on the built-in photographs.

Command:  framer-jax train --config default --workdir runs/try --set training.steps=500
          (`--config default:dtkd` gives the defaults of another method; `framer-jax info dtkd --knobs` explains them)
Hardware: 2 CPU cores. Expected time: 30 minutes for the 2000 default steps.
Expected: not measured; the model that ships was trained with the configuration starter.
"""

from ml_collections import ConfigDict

from framer_jax.config import default


def get_config(method: str = "resshift") -> ConfigDict:
    """The default configuration of a method."""
    return default(method)
