"""TSD-SR with FRAMER in the variant 'paper', but on the blocks' estimates of the student latent, not on hidden maps.

Command:  framer-jax train --config framer_tsd_sr_sd3 --workdir runs/framer_tsd_sr … (as for tsd_sr_sd3)
          (`--config framer_tsd_sr_sd3:released`: latents without the autoencoder's shift;
          --set recipe.denoiser.mmdit.taps=hidden: the paper's hidden maps; --set recipe.tsd_sr.framer_taps=velocity:
          the blocks' velocities)
Hardware: 8 GPUs with 80 GB. Expected time: not measured yet.
Expected: Table 7 of the paper: RealSR 24.46 dB PSNR, LPIPS .345, NIQE 4.295, MUSIQ 73.63 (TSD-SR: 23.45, .383, 5.163,
          71.08); not measured here.
"""

from ml_collections import ConfigDict

from framer_jax.config import shipped


def get_config(variant: str = "correct") -> ConfigDict:
    """TSD-SR with FRAMER."""
    config = shipped("tsd_sr_sd3", variant)
    config.recipe.denoiser.mmdit.taps = "prediction"
    config.framer.variant = "paper"
    return config
