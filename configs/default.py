"""The defaults of a method, as a configuration of their own: the small ResShift U-Net on the built-in photographs.

Command:  framer-jax train --config default --workdir runs/try --set training.steps=500
          (`--config default:dtkd` has the defaults of another method; `framer-jax info dtkd --knobs` explains them)
Hardware: 2 CPU cores. Expected time: 30 minutes for the default's 2000 steps.
Expected: nothing in particular; starter.py is the configuration of the model that ships.
"""

from ml_collections import ConfigDict

from framer_jax.config import default


def get_config(method: str = "resshift") -> ConfigDict:
    """The default configuration of a method."""
    return default(method)
