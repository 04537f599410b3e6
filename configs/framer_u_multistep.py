"""FRAMER_U on a multi-step base: multistep_sd21 with FRAMER in the variant 'paper', on the hidden maps of the U-Net.

Command:  framer-jax train --config framer_u_multistep --workdir runs/framer_u_multistep … (as for multistep_sd21)
Hardware: 8 GPUs with 80 GB. Expected time: not measured yet.
Expected: not measured. Table 1 of the paper, RealSR: FRAMER_U 24.81 dB PSNR, LPIPS .328, MUSIQ 70.03.

FRAMER_U is not published. Its paper calls its experiments "multi-step diffusion backbones (U-Net and DiT)", and its
Table 1 compares FRAMER_U with PiSA-SR, a one-step method: which base it has is unknown. This configuration is the first
reading, framer_u_pisa_sr the second.

                 known of FRAMER_U                           here
taps             9 maps: 4 down, middle, 4 up (Figure 3)     the same; the last one is the teacher
matching         1x1 convolution and resizing, training only the same
lambda           none printed, a sum over the layers         0.1 on the mean, as the released FRAMER_D
taps' content    not stated                                  of the way down and the middle with the ControlNet's
                                                             residuals, without which they are the frozen U-Net's
batch, rate      not printed                                 SeeSR's: 32, 5e-5
"""

from ml_collections import ConfigDict

from framer_jax.config import shipped


def get_config() -> ConfigDict:
    """FRAMER on the multi-step U-Net."""
    config = shipped("multistep_sd21")
    config.framer.variant = "paper"
    config.framer.weight = 0.1
    config.framer.reduction = "mean"
    return config
