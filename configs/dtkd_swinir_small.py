"""DTKD: SwinIR-small taught by ResShift's 15 steps through a two-level wavelet loss with a rising weight.

Command:  framer-jax train --config configs/dtkd_swinir_small.py --workdir runs/dtkd --set data.train=PHOTOS
              --set recipe.teacher.weights=resshift_realsrx4_s15_v1.pth
              --set recipe.teacher.published.space.weights=vq_f4.safetensors
          (a ResShift trained here needs its weights only; `framer-jax precompute teacher` runs the teacher once)
Hardware: 1 GPU with 80 GB. Expected time: not measured yet.
Expected: not measured at this size; docs/results/dtkd.md has a smaller one. The text at hand states no iterations,
          batch, learning rate, degradation or lambda; training is that of configs/swinir_small.py, lambda 1.
"""

from ml_collections import ConfigDict

from configs import resshift_v1, swinir_small


def get_config() -> ConfigDict:
    """SwinIR-small and its teacher."""
    config = swinir_small.get_config()
    config.recipe.name = "dtkd"
    config.recipe.teacher.published = resshift_v1.get_config().recipe
    return config
