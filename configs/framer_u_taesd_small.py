"""FRAMER_U at laptop size on the latents of Stable Diffusion 2: multistep_taesd_small with FRAMER.

Command:  framer-jax train --config framer_u_taesd_small --workdir runs/framer_u_taesd … (as for multistep_taesd_small)
          (`--config framer_u_taesd_small:lambda_0.01`: λ = 0.01; the default is 0.1, on the sum over the blocks. The
          variant of the released code compares the predictions of a transformer's blocks, which a U-Net does not
          have.)
Hardware: 1 CPU core. Expected time: 5 minutes, as for multistep_taesd_small and FRAMER's term.
Expected: docs/results/framer_u.md.
"""

from ml_collections import ConfigDict

from framer_jax.config import shipped

WEIGHTS = {"lambda_0.1": 0.1, "lambda_0.01": 0.01}
"""Variant of this configuration → λ."""


def get_config(variant: str = "lambda_0.1") -> ConfigDict:
    """FRAMER on the small U-Net, with one of two weights."""
    if variant not in WEIGHTS:
        raise ValueError(f"there is no variant {variant!r}: choose one of {', '.join(WEIGHTS)}")
    config = shipped("multistep_taesd_small")
    config.framer.variant = "paper"
    config.framer.weight = WEIGHTS[variant]
    return config
