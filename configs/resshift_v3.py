"""ResShift realsrx4_s4_v3, the journal version: 4 steps, and LPIPS of decoded estimates next to the latent error.

Command:  framer-jax train --config resshift_v3 --workdir runs/resshift_v3 --set data.train=PHOTOS
              --set recipe.space.checkpoint=AUTOENCODER --set recipe.lpips.checkpoint=LPIPS
          (LPIPS: framer-jax port vgg16.pth lpips_vgg_v0.1.pth LPIPS.safetensors --model lpips_vgg)
Hardware: 8 GPUs in the publication (microbatches of 12 examples each). Expected time: not measured; 400,000 steps.
Expected: the published model; this training has not been run. A distance that is NaN stops the run with the number of
          the step and the records; the authors' code omits it from that batch instead.
"""

from ml_collections import ConfigDict

from framer_jax.config import shipped


def get_config() -> ConfigDict:
    """ResShift v3."""
    config = shipped("resshift_v1")
    config.recipe.resshift.steps = 4
    config.recipe.resshift.min_noise_level = 0.2
    config.recipe.resshift.perceptual_weight = 1.0
    config.training.steps = 400_000
    config.training.global_batch = 96
    config.training.schedule = "cosine"
    config.training.final_learning_rate = 2e-5
    return config
