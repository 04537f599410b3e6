"""The diffusion model that ships in framer_jax/weights: the starter, trained on for real photographs, x4 in four steps.

Command:  framer-jax train --config diffusion --workdir runs/diffusion --init starter --set data.train=PHOTOS
          (LPIPS: pip install 'framer_jax[lpips]'; the shipped weights were trained on BSDS500 train + test and
          General-100)
Hardware: 1 CPU core. Expected time: 90 minutes (1.3 s per step of 6 crops of 128 pixels).
Expected: the scores of the model card, framer_jax/weights/diffusion.md.
"""

from ml_collections import ConfigDict

from framer_jax.config import shipped


def get_config() -> ConfigDict:
    """The latent error of ResShift and LPIPS (as its journal version), on photographs that are mostly blurred."""
    config = shipped("starter")
    config.recipe.resshift.perceptual_weight = 2.0
    config.recipe.resshift.last_step_probability = 0.3
    config.recipe.resshift.mean_share = 0.4
    config.recipe.lpips.net = "vgg"
    config.recipe.lpips.phases = 4
    config.data.degradation = "camera"
    config.data.degradation_geometry = "aligned"
    config.data.crop = 128
    config.data.flip_and_rotate = True
    config.training.steps = 4000
    config.training.global_batch = 6
    config.training.learning_rate = 6e-4
    config.training.warmup_steps = 50
    config.training.schedule = "cosine"
    config.training.ema_decay = 0.998
    config.training.log_every = 20
    config.training.validate_every = 300
    config.training.checkpoint_every = 300
    return config
