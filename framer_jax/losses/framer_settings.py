"""The knobs of the FRAMER term, and the two variants of the method as presets.

"FRAMER: Frequency-Aligned Self-Distillation with Adaptive Modulation" (arXiv 2512.01390, CVPR 2026). The paper and the
code that its authors released differ: `paper` and `released` are the presets of the two variants.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from framer_jax.knobs import MAX_WEIGHT, changed_repr, check_knobs, knob, settings_from
from framer_jax.losses.weight_schedule import WeightSchedule

BAND_LOSSES = ("intra", "inter")


@dataclass(frozen=True)
class FramerSettings:
    """The FRAMER term; the defaults are the variant 'paper'.

    Raises:
      ValueError: a value outside its choices or its range.
    """

    objective: str = knob(
        "full",
        "full: FRAMER; contrastive: both losses with FAW and FAM on the whole spectrum, without bands; l2: mean "
        "squared difference of the maps to the teacher, without bands, FAW and FAM; none: no term.",
        choices=("none", "l2", "contrastive", "full"),
    )
    bands: str = knob(
        "disc",
        "How the low band is chosen. disc: frequencies within a radius; quantile: per image, the coefficients whose "
        "magnitude in the teacher's spectrum is below a quantile of all of them.",
        choices=("disc", "quantile"),
    )
    radius: float = knob(
        0.2, "Radius of the disc.", unit="fraction of the Nyquist frequency", at_least=0, below=math.sqrt(2)
    )
    quantile: float = knob(0.2, "Quantile that separates the bands.", unit="fraction", at_least=0, at_most=1)
    compare: str = knob(
        "spectra",
        "What cosines are taken of: complex masked spectra, or their magnitudes (whose cosines are never negative).",
        choices=("spectra", "magnitudes"),
    )
    teacher: str = knob(
        "last",
        "Teacher of the students: the last tap, a middle one (all other taps are students), or each tap's next one.",
        choices=("last", "middle", "next"),
    )
    teacher_layer: int | None = knob(
        None,
        "Index of the tap that teacher=middle takes, from 0; None for the one halfway through the depth.",
        unit="tap",
        at_least=0,
        at_most=10_000,
    )
    last_is_student: bool = knob(
        False,
        "With teacher=last, every block is a student, the last one included, and the output, which equals the last "
        "block's map, is the teacher; without effect for other teachers. The caller of the loss repeats the last tap "
        "for it; the loss takes the last tap as the teacher.",
    )
    negatives: str = knob(
        "random",
        "Which other student of the same image is a student's negative: a random one, or the previous one (the first "
        "student has none). Without a negative IntraCL is 0 and InterCL keeps the other images.",
        choices=("none", "random", "previous"),
    )
    negatives_of_all_images: bool = knob(
        False, "InterCL also takes the negative student's maps of the other images of the batch as negatives."
    )
    low_loss: str = knob(
        "intra",
        "Loss on the low band. intra: negatives are layers; inter: negatives are layers and images.",
        choices=BAND_LOSSES,
    )
    high_loss: str = knob("inter", "Loss on the high band, as for low_loss.", choices=BAND_LOSSES)
    temperature: float = knob(1.0, "Temperature τ that divides every cosine.", above=0, at_most=1000)
    faw: bool = knob(True, "FAW (Eq. 3-5): weight each band by 1 / (1 + difference of mean magnitudes to the teacher).")
    fam: bool = knob(
        True, "FAM (Eq. 6-8): multiply each weight by the band's alignment, max(0, cosine to the teacher)."
    )
    magnitude_relative_to: str = knob(
        "teacher",
        "Whose mean magnitude divides FAW's difference of mean magnitudes; absolute: it is not divided.",
        choices=("teacher", "student", "absolute"),
    )
    magnitude_per_channel: bool = knob(
        False, "FAW averages the mean magnitudes of the channels, instead of taking one quotient per image."
    )
    epsilon: float = knob(1e-9, "Added to counts and magnitudes before they divide.", above=0, at_most=1)
    weight: float = knob(1.0, "Weight λ of the whole term.", at_least=0, at_most=MAX_WEIGHT)
    start_step: int = knob(0, "First step with a FRAMER term.", unit="steps", at_least=0)
    ramp_steps: int = knob(
        0, "Steps over which λ rises linearly from 0, from start_step on; 0 for λ at once.", unit="steps", at_least=0
    )
    reduction: str = knob("sum", "How the students' losses are reduced.", choices=("sum", "mean"))

    __repr__ = changed_repr

    def __post_init__(self) -> None:
        check_knobs(self)

    @property
    def repeats_last(self) -> bool:
        """Whether the caller of the loss repeats the last tap, as the teacher of all blocks.

        Other teachers are blocks: repeated, the last one would be counted twice, and the middle one be another.
        """
        return self.last_is_student and self.teacher == "last"

    @property
    def weight_schedule(self) -> WeightSchedule:
        """λ as a function of the training step."""
        return WeightSchedule(self.weight, "linear", self.start_step, self.ramp_steps)


def paper(**changes: object) -> FramerSettings:
    """The method as the paper describes it (arXiv 2512.01390, Eq. 1-10), with changes by field name.

    The paper prints "radius r = 0.2 %"; 0.2 % of any axis would be the zero frequency alone, so it is read as 0.2.

    Raises:
      ValueError: an unknown field, or a value out of range.
    """
    return settings_from(FramerSettings, changes, "framer")


def released(**changes: object) -> FramerSettings:
    """The method as the authors' released FRAMER-D code computes it, with changes by field name.

    Phases are dropped, the "low" band is the 20 % smallest magnitudes of each teacher spectrum, every block is a
    student (the last one equals the teacher), and λ is 0.1 on the mean over the students. The maps are estimates of
    the clean latent, see framer_jax.losses.flow_matching.prediction_taps_to_clean. The published trainer calls its
    loss without two required arguments (the noisy latent and the sigmas), so it cannot run as published; this is what
    the loss itself computes.

    Raises:
      ValueError: an unknown field, or a value out of range.
    """
    preset: dict[str, object] = {
        "bands": "quantile",
        "compare": "magnitudes",
        "last_is_student": True,
        "negatives_of_all_images": True,
        "magnitude_relative_to": "student",
        "magnitude_per_channel": True,
        "weight": 0.1,
        "reduction": "mean",
    }
    return settings_from(FramerSettings, {**preset, **changes}, "framer")


VARIANTS: Mapping[str, Callable[..., FramerSettings]] = MappingProxyType({"paper": paper, "released": released})
"""The variants of the method by name: (changes by field name) → settings."""


def teacher_index(settings: FramerSettings, taps: int) -> int:
    """Index of the teacher among that many taps (the last one for 'next', where each student has its own)."""
    if settings.teacher != "middle":
        return taps - 1
    return (taps - 1) // 2 if settings.teacher_layer is None else settings.teacher_layer
