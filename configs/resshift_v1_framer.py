"""ResShift v1 fine-tuned with FRAMER in the variant 'paper'.

Command:  framer-jax train --config resshift_v1_framer --init WEIGHTS --workdir runs/resshift_v1_framer
              --set data.train=PHOTOS --set recipe.space.checkpoint=AUTOENCODER
          (WEIGHTS: resshift_realsrx4_s15_v1.pth, ported or not; AUTOENCODER as for resshift_v1)
Hardware: 8 GPUs with the batch size of the publication. Expected time: not measured; 30,000 steps.
Expected: not measured. FRAMER's paper has neither this base method nor a number of steps; lambda is the quickstart's.
"""

from ml_collections import ConfigDict

from framer_jax.config import shipped


def get_config() -> ConfigDict:
    """ResShift v1 with FRAMER."""
    config = shipped("resshift_v1")
    config.framer.variant = "paper"
    config.framer.weight = 0.1
    config.training.steps = 30_000
    config.training.checkpoint_every = 2000
    config.training.validate_every = 2000
    return config
