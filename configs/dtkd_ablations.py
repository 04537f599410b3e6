"""The ablations of DTKD's Tables 4 to 7: variants of dtkd_swinir_small, which change what their table varies.

Command:  framer-jax train --config dtkd_ablations:fourier --workdir runs/dtkd_fourier
              --set data.train=PHOTOS --set recipe.teacher.checkpoint=… (as for dtkd_swinir_small)
          (without a variant: the defaults, which are the paper's choice in every table)
Hardware: 1 GPU with 80 GB. Expected time: not measured yet.
Expected: the paper's text states differences only: two levels instead of one +0.02 dB and +4.386 MUSIQ; a linear
          instead of a constant lambda +0.12 dB and +0.727 MUSIQ. docs/results/dtkd.md has some at a smaller size.

One lambda is not the same weight for every transform, number of levels or set of weights: on white noise the default
distance is 10 times the pixel L1. With --set recipe.dtkd.normalise_to_pixel=True it is the pixel L1 for all variants.
"""

from ml_collections import ConfigDict

from framer_jax.config import shipped

VARIANTS = {
    "default": {},
    # Table 4: levels, each with equal weights of all groups; of two levels that is `uniform` below
    "levels_1": {"levels": 1, "weights": (1.0, 1.0, 1.0)},
    "levels_3": {"levels": 3, "weights": (1.0, 1.0, 1.0)},
    "levels_4": {"levels": 4, "weights": (1.0, 1.0, 1.0)},
    # Table 5: transforms
    "dual_tree": {"transform": "dual_tree"},
    "fourier": {"transform": "fourier"},
    "pixel": {"transform": "pixel"},
    # Table 6: weights of the low, middle and high bands (`uniform` is also the two levels of Table 4)
    "uniform": {"weights": (1.0, 1.0, 1.0)},
    "low_2": {"weights": (2.0, 1.0, 1.0)},
    "high_2": {"weights": (1.0, 1.0, 2.0)},
    "middle_4": {"weights": (1.0, 4.0, 1.0)},
    # Table 7: schedule and final value of lambda
    "constant": {"schedule": "constant"},
    "cosine": {"schedule": "cosine"},
    "final_0.1": {"weight": 0.1},
    "final_0.5": {"weight": 0.5},
    "final_2": {"weight": 2.0},
    "final_10": {"weight": 10.0},
}
"""Variant → changed knobs of `recipe.dtkd`. The available text states only the values named above; the other values are
choices made here."""


def get_config(variant: str = "default") -> ConfigDict:
    """One variant of the ablations."""
    if variant not in VARIANTS:
        raise ValueError(f"there is no variant {variant!r}: choose one of {', '.join(VARIANTS)}")
    config = shipped("dtkd_swinir_small")
    config.recipe.dtkd.update(VARIANTS[variant])
    return config
