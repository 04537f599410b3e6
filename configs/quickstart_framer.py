"""The quickstart's training with FRAMER: the same initial weights, seed, data and number of steps as quickstart.

Command:  framer-jax train --config quickstart_framer --init starter --workdir quickstart/framer
Hardware: 2 CPU cores. Expected time: 100 s, half of it compilation.
Expected: the table in docs/get_started.md.
"""

from ml_collections import ConfigDict

from framer_jax.config import shipped


def get_config() -> ConfigDict:
    """The quickstart's configuration with FRAMER in the variant 'paper'."""
    config = shipped("quickstart")
    config.framer.variant = "paper"
    # With a lambda of 1 the sum over layers is about 2.6 times the main loss of the trained starter (measured).
    config.framer.weight = 0.1
    return config
