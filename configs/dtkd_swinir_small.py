"""DTKD: SwinIR-small taught by ResShift's 15 steps through a two-level wavelet loss with a rising weight.

Command:  framer-jax train --config dtkd_swinir_small --workdir runs/dtkd --set data.train=PHOTOS
              --set recipe.teacher.checkpoint=resshift_realsrx4_s15_v1.pth
              --set recipe.teacher.published.space.weights=vq_f4.safetensors
          (a ResShift trained here needs its weights only; `framer-jax precompute teacher` runs the teacher once)
Hardware: 1 GPU with 80 GB. Expected time: not measured yet.
Expected: not measured at this size; docs/results/dtkd.md has a smaller one. The text at hand states no iterations,
          batch, learning rate, degradation or lambda; training is that of configs/swinir_small.py, lambda 1.
"""

from ml_collections import ConfigDict

from framer_jax.config import shipped, with_method


def get_config() -> ConfigDict:
    """SwinIR-small and its teacher."""
    config = with_method(shipped("swinir_small"), "dtkd")
    config.recipe.teacher.published = shipped("resshift_v1").recipe
    return config
