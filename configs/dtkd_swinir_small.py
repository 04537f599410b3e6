"""DTKD: 15-step ResShift distilled into SwinIR-small by a two-level wavelet loss whose weight rises.

Command:  framer-jax train --config dtkd_swinir_small --workdir runs/dtkd --set data.train=PHOTOS
              --set recipe.teacher.checkpoint=resshift_realsrx4_s15_v1.pth
              --set recipe.teacher.published.space.checkpoint=vq_f4.safetensors
          (a ResShift trained with framer_jax needs its own weights only; `framer-jax precompute teacher` computes the
          teacher's outputs once)
Hardware: 1 GPU with 80 GB. Expected time: not measured yet.
Expected: not measured at this size; docs/results/dtkd.md has a smaller one. The available text states no iterations,
          batch size, learning rate, degradation or lambda; training is that of swinir_small, with a lambda of 1.
"""

from ml_collections import ConfigDict

from framer_jax.config import shipped, with_method


def get_config() -> ConfigDict:
    """SwinIR-small and its teacher."""
    config = with_method(shipped("swinir_small"), "dtkd")
    config.recipe.teacher.published = shipped("resshift_v1").recipe
    return config
