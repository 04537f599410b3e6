"""The ablations of DTKD (Electronics 15(10) 1986, 2026): Tables 4 to 7, which change the loss of dtkd_swinir_small.

Command:  framer-jax ablate dtkd:table4 --output runs/dtkd_table4 --photos HR --set data.train=PHOTOS
              --set recipe.teacher.checkpoint=… (as for dtkd_swinir_small)
          (dtkd:table5, table6 or table7; on one CPU core with --base dtkd_narrow and precomputed teacher outputs)
Hardware: that of the base. Expected time: arms times seeds trainings of the base.
Expected: the paper's text states differences only; docs/results/dtkd.md has some at a smaller size.

The available text states only the values that `published` names; the other values are choices made here. One lambda is
not the same weight for every transform, number of levels or set of weights: on white noise the default distance is 10
times the pixel L1. With --set recipe.dtkd.normalise_to_pixel=True it is the pixel L1 for all arms.
"""

from framer_jax.evaluation.ablation import Ablation, Overlay

BASE, PAPER = "dtkd_swinir_small", "DTKD (Electronics 15(10) 1986, 2026)"


def changed(**knobs: object) -> Overlay:
    """An arm that changes knobs of `recipe.dtkd`."""
    return Overlay(tuple(f"recipe.dtkd.{name}={value}" for name, value in knobs.items()))


EQUAL = (1.0, 1.0, 1.0)
"""Equal weights of the low, middle and high bands."""

LEVELS = Ablation(
    title="DTKD, Table 4: the number of levels",
    source=f"{PAPER}, Table 4; all groups of bands have equal weights",
    base=BASE,
    arms={
        "levels_1": changed(levels=1, weights=EQUAL),
        "uniform": changed(weights=EQUAL),  # two levels
        "levels_3": changed(levels=3, weights=EQUAL),
        "levels_4": changed(levels=4, weights=EQUAL),
    },
    reference="uniform",
    expected=(("uniform", "levels_1"),),
    published="Two levels (`uniform`) instead of one: +0.02 dB and +4.386 MUSIQ.",
)

TRANSFORMS = Ablation(
    title="DTKD, Table 5: the transform",
    source=f"{PAPER}, Table 5",
    base=BASE,
    arms={
        "default": Overlay(),
        "dual_tree": changed(transform="dual_tree"),
        "fourier": changed(transform="fourier"),
        "pixel": changed(transform="pixel"),
    },
    reference="default",
    expected=(("default", "dual_tree"), ("default", "fourier"), ("default", "pixel")),
    published="The wavelet transform (`default`) is the paper's choice; the available text has no numbers.",
)

BANDS = Ablation(
    title="DTKD, Table 6: the weights of the bands",
    source=f"{PAPER}, Table 6",
    base=BASE,
    arms={
        "default": Overlay(),
        "uniform": changed(weights=EQUAL),
        "low_2": changed(weights=(2.0, 1.0, 1.0)),
        "high_2": changed(weights=(1.0, 1.0, 2.0)),
        "middle_4": changed(weights=(1.0, 4.0, 1.0)),
    },
    reference="default",
    expected=(("default", "uniform"), ("default", "low_2"), ("default", "high_2")),
    published="A double weight of the middle bands (`default`) is best; the available text has no numbers.",
)

SCHEDULES = Ablation(
    title="DTKD, Table 7: schedule and final value of lambda",
    source=f"{PAPER}, Table 7",
    base=BASE,
    arms={
        "default": Overlay(),
        "constant": changed(schedule="constant"),
        "cosine": changed(schedule="cosine"),
        "final_0.1": changed(weight=0.1),
        "final_0.5": changed(weight=0.5),
        "final_2": changed(weight=2.0),
        "final_10": changed(weight=10.0),
    },
    reference="default",
    expected=(("default", "constant"),),
    published="A linear (`default`) instead of a constant lambda: +0.12 dB and +0.727 MUSIQ; an excessively large "
    "final value hurts.",
)

TABLES = {"table4": LEVELS, "table5": TRANSFORMS, "table6": BANDS, "table7": SCHEDULES}


def get_ablation(table: str = "") -> Ablation:
    """The ablation of one table."""
    if table not in TABLES:
        raise ValueError(f"name one of its tables, such as dtkd:table4: {', '.join(TABLES)}")
    return TABLES[table]
