"""FRAMER_D at laptop size on the latents of Stable Diffusion 3: dit4sr_taesd3_small with FRAMER.

Command:  framer-jax train --config framer_d_taesd3_small --workdir runs/framer_d_taesd3 … (as for dit4sr_taesd3_small)
          (`--config framer_d_taesd3_small:released`: the variant of the released code; --set framer.weight=0.01 for
          another λ)
Hardware: 1 CPU core. Expected time: 3.5 hours (3.7 to 4.3 images a second, 0.9 to 1.1 steps) after encoding.
Expected: the whole run was not measured; 120 steps of fine-tuning: docs/results/framer_latents.md.
"""

from ml_collections import ConfigDict

from framer_jax.config import shipped


def get_config(variant: str = "paper") -> ConfigDict:
    """FRAMER_D in one of its variants."""
    config = shipped("dit4sr_taesd3_small")
    config.framer.variant = variant
    config.framer.weight = 0.1
    config.recipe.denoiser.dit4sr_transformer.taps = "hidden" if variant == "paper" else "prediction"
    return config
