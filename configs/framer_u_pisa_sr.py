"""FRAMER_U: PiSA-SR with FRAMER's term on the U-Net's nine blocks, in both phases of training.

Known: the paper names PiSA-SR as the baseline of its U-Net results, compares features of nine blocks (its Fig. 3) and
matches their shapes by 1x1 convolutions and resizing, which inference drops. Its supplement also calls the U-Net
"multi-step", which PiSA-SR is not (see framer_u_multistep). The authors have published no code for a U-Net.
Chosen: the term acts in both phases, because the paper names no phase; λ = 0.1 on the mean over
the blocks, as the released code for transformers has it (Eq. 10 sums without a λ: eight terms near 1 against a pixel
loss near 0.01); the variant 'paper' (hidden maps, radial bands), because a U-Net's blocks have no shared head with
which the released code could decode them; everything else is PiSA-SR's training.

Command:  framer-jax train --config framer_u_pisa_sr --workdir runs/framer_u … (as for pisa_sr_sd21)
Hardware: 4 GPUs with 40 GB. Expected time: not measured yet.
Expected: Table 1 of the paper: RealSR 24.81 dB PSNR, SSIM .746, LPIPS .328, NIQE 5.513, MANIQA .484, MUSIQ 70.03
          (PiSA-SR: 24.02, .719, .355, 5.902, .412, 68.20); not measured here.
"""

from ml_collections import ConfigDict

from framer_jax.config import shipped


def get_config() -> ConfigDict:
    """PiSA-SR with FRAMER."""
    config = shipped("pisa_sr_sd21")
    config.framer.variant = "paper"
    config.framer.weight = 0.1
    config.framer.reduction = "mean"
    return config
