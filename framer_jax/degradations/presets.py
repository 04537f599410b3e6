"""The degradation presets: data, every number with its source."""

from __future__ import annotations

from dataclasses import dataclass
from math import pi

Range = tuple[float, float]
"""Lower and upper end of a uniform draw."""

REAL_ESRGAN_SIZES = (7, 9, 11, 13, 15, 17, 19, 21)  # Real-ESRGAN, realesrgan_dataset.py


@dataclass(frozen=True)
class BlurPreset:
    """How a blur kernel is drawn.

    Attributes:
      sizes: kernel sides in pixels, one drawn uniformly.
      kinds: (kind, probability) pairs of the mixture; kinds as `kernels.py` names them with 'isotropic_' or
        'anisotropic_' before: gaussian, generalized_gaussian, plateau.
      sigma: range of the standard deviations in pixels.
      generalized_beta, plateau_beta: (lower, upper): with equal odds U(lower, 1) or U(1, upper).
      low_pass: probability that a circular low-pass replaces the mixture.
      low_pass_cutoff_small, low_pass_cutoff_large: ranges in radians per pixel, for sizes below 13 and from 13 on.
    """

    sizes: tuple[int, ...] = REAL_ESRGAN_SIZES
    kinds: tuple[tuple[str, float], ...] = (("isotropic_gaussian", 0.5), ("anisotropic_gaussian", 0.5))
    sigma: Range = (0.2, 3.0)
    generalized_beta: Range = (0.5, 4.0)
    plateau_beta: Range = (1.0, 2.0)
    low_pass: float = 0.0
    low_pass_cutoff_small: Range = (pi / 3, pi)
    low_pass_cutoff_large: Range = (pi / 5, pi)


@dataclass(frozen=True)
class NoisePreset:
    """How noise is drawn.

    Attributes:
      gaussian: probability of Gaussian noise; otherwise it is Poisson noise.
      sigma: range of the Gaussian standard deviation in 8-bit steps (of 255).
      poisson_scale: range of the factor on Poisson noise.
      gray: probability that the channels share one pattern.
    """

    gaussian: float = 0.5
    sigma: Range = (1.0, 30.0)
    poisson_scale: Range = (0.05, 3.0)
    gray: float = 0.4


@dataclass(frozen=True)
class DegradationPreset:
    """A degradation HR → LR at 1 / scale, in the order blur, resize, noise, JPEG, rounding to 8 bits.

    Attributes:
      name: key in `PRESETS`.
      source: where the numbers come from.
      scale: HR pixels per LR pixel.
      resize_modes: one drawn uniformly, from `pipeline.RESIZE_MODES`.
      blur, noise: None leaves the stage out.
      jpeg_quality: range of the quality; None leaves JPEG out.
    """

    name: str
    source: str
    scale: int = 4
    resize_modes: tuple[str, ...] = ("area", "bilinear", "bicubic")
    blur: BlurPreset | None = None
    noise: NoisePreset | None = None
    jpeg_quality: Range | None = None


LIGHT_ONE_STAGE = DegradationPreset(
    name="light_one_stage",
    source="ours: the first stage of Real-ESRGAN (Wang et al. 2021) straight to 1/4, with milder ranges",
    # Mixture: Real-ESRGAN's .45 : .25 of the plain Gaussians, made to sum to 1. Sigma: ours (Real-ESRGAN .2 to 3).
    blur=BlurPreset(kinds=(("isotropic_gaussian", 9 / 14), ("anisotropic_gaussian", 5 / 14)), sigma=(0.2, 2.0)),
    # Probabilities: Real-ESRGAN. Levels: ours (Real-ESRGAN 1 to 30, .05 to 3; FRAMER as released 1 to 15, .05 to 2).
    noise=NoisePreset(sigma=(1.0, 10.0), poisson_scale=(0.05, 1.0)),
    jpeg_quality=(60.0, 95.0),  # FRAMER as released, first stage
)

BICUBIC = DegradationPreset(
    name="bicubic",
    source="the classical setting: MATLAB's antialiased bicubic reduction, rounded to 8 bits, nothing else",
    resize_modes=("matlab_bicubic",),
)

PRESETS = {preset.name: preset for preset in (LIGHT_ONE_STAGE, BICUBIC)}


def preset_by_name(name: str) -> DegradationPreset:
    """Look a preset up.

    Raises:
      ValueError: there is none of this name; the message lists them.
    """
    if name not in PRESETS:
        raise ValueError(f"there is no degradation preset {name!r}; choose one of {', '.join(sorted(PRESETS))}")
    return PRESETS[name]
