"""AugKD: SwinIR-small taught by classical SwinIR, with auxiliary images and label consistency.

Command:  framer-jax train --config configs/augkd_swinir_small.py --workdir runs/augkd --set data.train=PHOTOS
              --set recipe.teacher.weights=001_classicalSR_DF2K_s64w8_SwinIR-M_x4.pth
          (or the weights of any model trained here, such as a ResShift)
Hardware: 1 GPU with 80 GB. Expected time: not measured yet.
Expected: not measured yet. The sources at hand print neither weights nor transforms (framer_jax.recipes.augkd); batch,
          steps and learning rate are recalled, not checked, and its steps down are a cosine here.
"""

from ml_collections import ConfigDict

from configs import swinir_small


def get_config() -> ConfigDict:
    """SwinIR-small and its teacher."""
    config = swinir_small.get_config()
    config.recipe.name = "augkd"
    published = swinir_small.get_config().recipe
    published.student.swinir.head = "pixelshuffle"
    published.student.swinir.channels = 180
    published.student.swinir.depths = (6, 6, 6, 6, 6, 6)
    config.recipe.teacher.published = published
    config.data.degradation = "bicubic"
    config.data.crop = 192  # 48 LR pixels
    config.training.global_batch = 16
    config.training.steps = 250_000
    config.training.learning_rate = 1e-4
    config.training.b2 = 0.99
    return config
