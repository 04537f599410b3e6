"""SupResDiffGAN with FRAMER in the variant 'paper', the paper's plug-in into a GAN-based diffusion model.

Command:  framer-jax train --config framer_u_supresdiffgan --workdir runs/framer_supresdiffgan --set data.train=PHOTOS
              --set recipe.space.checkpoint=SD21/vae
Hardware: 1 GPU with 80 GB. Expected time: not measured yet.
Expected: Table 7 of the paper: RealSR 25.72 dB PSNR, LPIPS .416, NIQE 6.229, MUSIQ 41.59 (SupResDiffGAN: 24.36, .472,
          7.294, 39.57); not measured here.

Known from the paper: both runs are trained alike, and the U-Net's maps are compared by 1x1 convolutions and a resize.
Chosen here: SupResDiffGAN's released options, FRAMER's degradation, λ = 0.1 on the mean over the
blocks as in the released FRAMER_D, and the term in the generator's update alone.
"""

from ml_collections import ConfigDict

from framer_jax.config import shipped


def get_config() -> ConfigDict:
    """SupResDiffGAN with FRAMER."""
    config = shipped("supresdiffgan")
    config.data.degradation = "framer_paper"
    config.framer.variant = "paper"
    config.framer.weight = 0.1
    config.framer.reduction = "mean"
    return config
