"""The quickstart's steps with FRAMER: the same weights, seed, data and number of steps as configs/quickstart.py.

Command:  framer-jax train --config configs/quickstart_framer.py --init starter --workdir quickstart/framer
Hardware: 2 CPU cores. Expected time: 3 minutes.
Expected: the table in README.md.
"""

from ml_collections import ConfigDict

from configs import quickstart


def get_config() -> ConfigDict:
    """The quickstart's configuration with FRAMER in the variant 'paper'."""
    config = quickstart.get_config()
    config.framer.variant = "paper"
    # At lambda 1 the sum over layers would be some 2.6 times the main loss of the trained starter (measured).
    config.framer.weight = 0.1
    return config
