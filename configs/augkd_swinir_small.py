"""AugKD: classical SwinIR distilled into SwinIR-small, with auxiliary images and label consistency.

Command:  framer-jax train --config augkd_swinir_small --workdir runs/augkd --set data.train=PHOTOS
              --set recipe.teacher.checkpoint=001_classicalSR_DF2K_s64w8_SwinIR-M_x4.pth
          (or the weights of any model trained with framer_jax, such as a ResShift)
Hardware: 1 GPU with 80 GB. Expected time: not measured yet.
Expected: not measured yet. The available sources state neither loss weights nor transforms (framer_jax.recipes.augkd);
          batch size, steps and learning rate are from memory, and the learning rate falls along a cosine, not in steps.
"""

from ml_collections import ConfigDict

from framer_jax.config import shipped, with_method


def get_config() -> ConfigDict:
    """SwinIR-small and its teacher."""
    config = with_method(shipped("swinir_small"), "augkd")
    published = shipped("swinir_small").recipe
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
