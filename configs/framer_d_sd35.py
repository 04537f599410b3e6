"""FRAMER_D: DiT4SR on Stable Diffusion 3.5 medium with FRAMER in the variant 'paper', on the blocks' hidden maps.

Command:  framer-jax train --config framer_d_sd35 --workdir runs/framer_d … (as for dit4sr_sd35)
          (`--config framer_d_sd35:released`: the variant of the released code, bands of the teacher's magnitudes of the
          blocks' predictions)
Hardware: 8 GPUs with 80 GB, or a TPU v5e pod with training.mesh.fsdp. Expected time: not measured yet.
Expected: Table 1 of the paper: RealSR 23.23 dB PSNR, LPIPS .371, MUSIQ 72.24 (DiT4SR: 21.94, .414, 67.67).

                 paper                        released code                here: paper     here: released
lambda           1 (none printed), sum        0.1, mean over the blocks    1, sum          0.1, mean
batch            16 on one H200 (its cost)    32 on each of 8 GPUs         256             256
learning rate    not printed                  5e-5                         5e-5            5e-5
"""

from ml_collections import ConfigDict

from framer_jax.config import shipped


def get_config(variant: str = "paper") -> ConfigDict:
    """FRAMER_D in one of its variants."""
    config = shipped("dit4sr_sd35")
    config.framer.variant = variant
    config.recipe.denoiser.dit4sr_transformer.taps = "hidden" if variant == "paper" else "prediction"
    config.training.global_batch = 256
    return config
