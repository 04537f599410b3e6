"""FRAMER_D: DiT4SR on Stable Diffusion 3.5 medium with FRAMER in the variant 'paper'.

Command:  framer-jax train --config framer_d_sd35 --workdir runs/framer_d … (as for dit4sr_sd35)
          (`--config framer_d_sd35:released`: the variant of the released code, bands of the teacher's magnitudes)
Hardware: 8 GPUs with 80 GB, or a TPU v5e pod with training.mesh.fsdp. Expected time: not measured yet.
Expected: Table 1 of the paper: RealSR 23.23 dB PSNR, LPIPS .371, MUSIQ 72.24 (DiT4SR: 21.94, .414, 67.67).
"""

from ml_collections import ConfigDict

from framer_jax.config import shipped


def get_config(variant: str = "paper") -> ConfigDict:
    """FRAMER_D in one of its variants."""
    config = shipped("dit4sr_sd35")
    config.framer.variant = variant
    config.recipe.denoiser.dit4sr_transformer.taps = "prediction"
    config.training.global_batch = 256
    return config
