"""Every switch of the FRAMER term, and the two readings of the method as presets.

"FRAMER: Frequency-Aligned Self-Distillation with Adaptive Modulation" (arXiv 2512.01390, CVPR 2026). The paper and the
code that its authors released differ; both are here by name.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import jax
import jax.numpy as jnp

CHOICES = {
    "objective": ("none", "l2", "contrastive", "full"),
    "bands": ("disc", "quantile"),
    "compare": ("spectra", "magnitudes"),
    "teacher": ("last", "middle", "next"),
    "negatives": ("none", "random", "previous"),
    "low_loss": ("intra", "inter"),
    "high_loss": ("intra", "inter"),
    "magnitude_relative_to": ("teacher", "student", "absolute"),
    "reduction": ("sum", "mean"),
}


@dataclass(frozen=True)
class FramerSettings:
    """The FRAMER term. Defaults are the `paper` reading.

    Attributes:
      objective: 'full'; 'contrastive' (the same two losses with FAW and FAM, on the whole spectrum: no bands);
        'l2' (mean squared difference of the maps to the teacher, no bands, FAW or FAM); 'none'.
      bands: 'disc' of `radius` around zero frequency, or 'quantile': per image, coefficients whose teacher magnitude
        is below the `quantile` of all of them are the low band.
      radius: of the disc, as a fraction of the Nyquist frequency, in [0, sqrt(2)).
      quantile: in [0, 1].
      compare: cosines of complex masked 'spectra' or of their 'magnitudes' (then never negative).
      teacher: 'last' tap; 'middle': tap `teacher_layer`, all other taps are students; 'next': each tap's successor.
      teacher_layer: index of the 'middle' teacher; None for half way.
      last_is_student: students are every block, the last included, and the teacher is the output, equal to the last
        block. Read by callers, who then repeat the last tap; the loss itself always takes the last tap it is given
        as the teacher.
      negatives: of each student, another student of the same image: 'random', the 'previous' one (the first student
        has none), or 'none'. Without one, IntraCL is 0 by its formula; InterCL keeps the other images.
      negatives_of_all_images: InterCL also counts that student's maps of the other images of the batch as negatives.
      low_loss: on the low band, 'intra' (negatives: layers) or 'inter' (negatives: layers and images).
      high_loss: on the high band.
      temperature: divides every cosine.
      adaptive_weight: FAW, w = 1 / (1 + difference of band magnitudes).
      adaptive_modulation: FAM, a = max(0, cosine to the teacher).
      magnitude_relative_to: what the difference of band magnitudes is divided by; 'absolute' divides by nothing.
      magnitude_per_channel: average band magnitudes of channels, instead of one quotient per image.
      epsilon: added to counts and magnitudes that are divided by.
      weight: lambda, the factor of the whole term.
      start_step: no FRAMER term before this step.
      ramp_steps: lambda grows linearly from 0 over so many steps; 0 for at once.
      reduction: 'sum' or 'mean' over the students.

    Raises:
      ValueError: a value outside its range or its choices.
    """

    objective: str = "full"
    bands: str = "disc"
    radius: float = 0.2
    quantile: float = 0.2
    compare: str = "spectra"
    teacher: str = "last"
    teacher_layer: int | None = None
    last_is_student: bool = False
    negatives: str = "random"
    negatives_of_all_images: bool = False
    low_loss: str = "intra"
    high_loss: str = "inter"
    temperature: float = 1.0
    adaptive_weight: bool = True
    adaptive_modulation: bool = True
    magnitude_relative_to: str = "teacher"
    magnitude_per_channel: bool = False
    epsilon: float = 1e-9
    weight: float = 1.0
    start_step: int = 0
    ramp_steps: int = 0
    reduction: str = "sum"

    def __post_init__(self) -> None:
        for name, choices in CHOICES.items():
            if getattr(self, name) not in choices:
                raise ValueError(f"framer.{name} is {getattr(self, name)!r}: choose one of {', '.join(choices)}")
        ranges = {
            "radius": (0 <= self.radius < math.sqrt(2), "in [0, 1.414): a fraction of Nyquist"),
            "quantile": (0 <= self.quantile <= 1, "in [0, 1]"),
            "temperature": (self.temperature > 0, "positive"),
            "epsilon": (self.epsilon > 0, "positive"),
            "weight": (0 <= self.weight < math.inf, "at least 0"),
            "start_step": (self.start_step >= 0, "at least 0"),
            "ramp_steps": (self.ramp_steps >= 0, "at least 0"),
        }
        for name, (fits, words) in ranges.items():
            if not fits:
                raise ValueError(f"framer.{name} is {getattr(self, name)}: it must be {words}")


def paper(**changes: object) -> FramerSettings:
    """The method as the paper describes it (arXiv 2512.01390, Eq. 1-10), with changes by field name.

    The paper prints "radius r = 0.2 %"; 0.2 % of any axis would be the zero frequency alone, so it is read as 0.2.

    Raises:
      ValueError: an unknown field, or a value out of range.
    """
    return _changed({}, changes)


def released(**changes: object) -> FramerSettings:
    """The method as the authors' released FRAMER-D code computes it, with changes by field name.

    Phases are dropped, the "low" band is the 20 % smallest magnitudes of each teacher spectrum, every block is a
    student (the last one equals the teacher), and lambda is 0.1 on the mean over students. The maps are clean-latent
    guesses, see framer_jax.losses.framer.clean_from_velocity. The published trainer calls its loss without two
    required arguments (the noisy latent and the sigmas), so it cannot run as published; this is what the loss itself
    computes.

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
    return _changed(preset, changes)


def teacher_index(settings: FramerSettings, taps: int) -> int:
    """Which of so many taps is the teacher (the last one for 'next', where each student has its own)."""
    if settings.teacher != "middle":
        return taps - 1
    return (taps - 1) // 2 if settings.teacher_layer is None else settings.teacher_layer


def weight_at(step: jax.Array | int, settings: FramerSettings) -> jax.Array:
    """Lambda at a step: float32 scalar.

    0 before `start_step`; from there `weight` at once, or growing linearly from 0 to it over `ramp_steps`.
    """
    since = jnp.asarray(step, jnp.int32) - settings.start_step
    if settings.ramp_steps == 0:
        share = (since >= 0).astype(jnp.float32)
    else:
        share = jnp.clip(since.astype(jnp.float32) / settings.ramp_steps, 0.0, 1.0)
    return share * settings.weight


def _changed(preset: dict[str, object], changes: dict[str, object]) -> FramerSettings:
    known = [field.name for field in fields(FramerSettings)]
    for name in changes:
        if name not in known:
            raise ValueError(f"framer has no setting {name!r}: choose from {', '.join(known)}")
    return FramerSettings(**{**preset, **changes})  # type: ignore[arg-type]
