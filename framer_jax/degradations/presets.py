"""The degradation presets: data, every number with its source."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import pi

Range = tuple[float, float]
"""Lower and upper end of a uniform draw."""

KINDS = (
    ("isotropic_gaussian", 0.45),
    ("anisotropic_gaussian", 0.25),
    ("isotropic_generalized_gaussian", 0.12),
    ("anisotropic_generalized_gaussian", 0.03),
    ("isotropic_plateau", 0.12),
    ("anisotropic_plateau", 0.03),
)
"""The mixture of Real-ESRGAN, in both stages."""


def odd_sizes(smallest: int, largest: int) -> tuple[int, ...]:
    """Kernel sides smallest, smallest + 2, … largest."""
    return tuple(range(smallest, largest + 1, 2))


@dataclass(frozen=True)
class BlurPreset:
    """How a blur kernel is drawn.

    Attributes:
      sizes: kernel sides in pixels, one drawn uniformly.
      kinds: (kind, probability) pairs of the mixture; kinds as `kernels.py` names them with 'isotropic_' or
        'anisotropic_' before: gaussian, generalized_gaussian, plateau.
      sigma: range of the standard deviations in pixels.
      generalized_beta, plateau_beta: (lower, upper): with equal odds U(lower, 1) or U(1, upper).
      low_pass: probability that a circular low-pass (sinc) replaces the mixture.
      low_pass_cutoff_small, low_pass_cutoff_large: ranges in radians per pixel, for sizes below 13 and from 13 on.
      probability: that the stage blurs at all.
    """

    sizes: tuple[int, ...] = odd_sizes(7, 21)
    kinds: tuple[tuple[str, float], ...] = KINDS
    sigma: Range = (0.2, 3.0)
    generalized_beta: Range = (0.5, 4.0)
    plateau_beta: Range = (1.0, 2.0)
    low_pass: float = 0.1
    low_pass_cutoff_small: Range = (pi / 3, pi)
    low_pass_cutoff_large: Range = (pi / 5, pi)
    probability: float = 1.0


@dataclass(frozen=True)
class LowPassPreset:
    """How the last sinc filter is drawn.

    Attributes:
      sizes: kernel sides in pixels, one drawn uniformly.
      probability: that there is one.
      cutoff: range in radians per pixel.
    """

    sizes: tuple[int, ...] = odd_sizes(7, 21)
    probability: float = 0.8
    cutoff: Range = (pi / 3, pi)


@dataclass(frozen=True)
class ResizePreset:
    """How a resizing is drawn.

    Attributes:
      up, down, keep: probabilities of U(1, range's upper end), U(range's lower end, 1) and 1; they sum to 1.
      range: the extreme scales.
      modes: one drawn uniformly, from `resize.MODES`.
    """

    up: float = 0.2
    down: float = 0.7
    keep: float = 0.1
    range: Range = (0.15, 1.5)
    modes: tuple[str, ...] = ("area", "bilinear", "bicubic")


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
class StagePreset:
    """Blur, resize, noise, JPEG, in this order; None leaves a part out.

    Attributes:
      blur, noise: as they say.
      resize: in the first stage relative to the HR image, in the second to the LR image that shall come out.
      jpeg_quality: range of the quality. The second stage's JPEG and the last sinc filter stand in either order.
    """

    blur: BlurPreset | None = BlurPreset()
    resize: ResizePreset = ResizePreset()
    noise: NoisePreset | None = NoisePreset()
    jpeg_quality: Range | None = (30.0, 95.0)


@dataclass(frozen=True)
class DegradationPreset:
    """A degradation HR → LR at 1 / scale, and what is rounded to 8 bits at its end.

    Attributes:
      name: key in `PRESETS`.
      source: where the numbers come from.
      scale: HR pixels per LR pixel.
      first: the first stage; None starts with the second.
      second: the second stage, which ends at the size of the LR image; None (with `first` None): MATLAB's bicubic
        reduction of 8-bit images and nothing else, as the classical test sets are made.
      second_probability: that the second stage's blur, resize and noise take place; its JPEG and the end always do.
      low_pass: the last sinc filter; None leaves it out.
      low_pass_first: probability that the reduction to the LR size and the last filter come before the last JPEG.
      sharpen_target: HR images are sharpened (USM) before they are degraded, and are then the training target.
    """

    name: str
    source: str
    scale: int = 4
    first: StagePreset | None = StagePreset()
    second: StagePreset | None = StagePreset()
    second_probability: float = 1.0
    low_pass: LowPassPreset | None = LowPassPreset()
    low_pass_first: float = 0.5
    sharpen_target: bool = False


_SECOND_RESIZE = ResizePreset(up=0.3, down=0.4, keep=0.3, range=(0.3, 1.2))
_NO_RESIZE = ResizePreset(up=0.0, down=0.0, keep=1.0, range=(1.0, 1.0))


REAL_ESRGAN = DegradationPreset(
    name="real_esrgan",
    source="Real-ESRGAN (Wang et al. 2021), options of x4plus; HR sharpened, and the sharpened HR is the target",
    second=StagePreset(
        blur=BlurPreset(sigma=(0.2, 1.5), probability=0.8),
        resize=_SECOND_RESIZE,
        noise=NoisePreset(sigma=(1.0, 25.0), poisson_scale=(0.05, 2.5)),
    ),
    sharpen_target=True,
)

RESSHIFT = DegradationPreset(
    name="resshift",
    source="ResShift v1 to v3 (Yue et al. 2023), also SinSR and HF-Diff: smaller kernels, half of the second stages",
    first=StagePreset(blur=BlurPreset(sizes=odd_sizes(3, 19))),
    second=StagePreset(
        blur=BlurPreset(sizes=odd_sizes(3, 13), sigma=(0.2, 1.5), probability=0.8),
        resize=_SECOND_RESIZE,
        noise=NoisePreset(sigma=(1.0, 25.0), poisson_scale=(0.05, 2.5)),
    ),
    second_probability=0.5,
    low_pass=LowPassPreset(sizes=odd_sizes(3, 13)),
)

_TESTING_KINDS = (("isotropic_gaussian", 0.6), ("anisotropic_gaussian", 0.4))
RESSHIFT_TESTING = DegradationPreset(
    name="resshift_testing",
    source="ResShift's degradation_testing_realesrgan.yaml: how ImageNet-Test was made; never a second stage",
    first=StagePreset(
        blur=BlurPreset(
            sizes=odd_sizes(3, 11),
            kinds=_TESTING_KINDS,
            sigma=(0.2, 0.8),
        ),
        resize=ResizePreset(range=(0.5, 1.5)),
        noise=NoisePreset(sigma=(1.0, 15.0), poisson_scale=(0.05, 0.3)),
        jpeg_quality=(70.0, 95.0),
    ),
    second=StagePreset(
        blur=BlurPreset(
            sizes=odd_sizes(3, 5),
            kinds=_TESTING_KINDS,
            sigma=(0.2, 0.5),
            low_pass=0.0,
            probability=0.2,
        ),
        resize=replace(_SECOND_RESIZE, range=(0.8, 1.2)),
        noise=NoisePreset(sigma=(1.0, 10.0), poisson_scale=(0.05, 0.2)),
        jpeg_quality=(80.0, 100.0),
    ),
    second_probability=0.0,
    low_pass=LowPassPreset(sizes=odd_sizes(3, 5), probability=0.2),
)

FRAMER_PAPER = DegradationPreset(
    name="framer_paper",
    source="FRAMER (CVPR 2026), supplement, Table 6; what it does not state is Real-ESRGAN's: the kernels' mixture and "
    "sizes (second 7 to 11: its canvas is 11), the odds of up, down and keep, gray .4, second blur .8. The HR image is "
    "not sharpened: the table is silent (the data preparation that it was made with, SeeSR's, sharpens)",
    second=StagePreset(
        blur=BlurPreset(sizes=odd_sizes(7, 11), sigma=(0.2, 1.5), probability=0.8),
        resize=_SECOND_RESIZE,
        noise=NoisePreset(sigma=(1.0, 25.0), poisson_scale=(0.05, 2.5)),
    ),
)

FRAMER_RELEASED = DegradationPreset(
    name="framer_released",
    source="the file that FRAMER's released trainer ships (also PiSA-SR's light degradation)",
    first=StagePreset(
        resize=ResizePreset(range=(0.3, 1.5)),
        noise=NoisePreset(sigma=(1.0, 15.0), poisson_scale=(0.05, 2.0)),
        jpeg_quality=(60.0, 95.0),
    ),
    second=StagePreset(
        blur=BlurPreset(sigma=(0.2, 1.5), probability=0.5),
        resize=replace(_SECOND_RESIZE, range=(0.6, 1.2)),
        noise=NoisePreset(sigma=(1.0, 12.0), poisson_scale=(0.05, 1.0)),
        jpeg_quality=(60.0, 100.0),
    ),
)

LIGHT_ONE_STAGE = DegradationPreset(
    name="light_one_stage",
    source="ours: one stage of Real-ESRGAN (Wang et al. 2021) straight to 1/4, with milder ranges",
    first=None,
    second=StagePreset(
        # Mixture: Real-ESRGAN's .45 : .25 of the plain Gaussians, made to sum to 1. Sigma: ours (Real-ESRGAN .2 to 3).
        blur=BlurPreset(
            kinds=(("isotropic_gaussian", 9 / 14), ("anisotropic_gaussian", 5 / 14)), sigma=(0.2, 2.0), low_pass=0.0
        ),
        resize=_NO_RESIZE,
        # Odds: Real-ESRGAN. Levels: ours (Real-ESRGAN 1 to 30, .05 to 3; FRAMER as released 1 to 15, .05 to 2).
        noise=NoisePreset(sigma=(1.0, 10.0), poisson_scale=(0.05, 1.0)),
        jpeg_quality=(60.0, 95.0),  # FRAMER as released, first stage
    ),
    low_pass=None,
)

BICUBIC = DegradationPreset(
    name="bicubic",
    source="the classical setting: MATLAB's antialiased bicubic reduction of 8-bit images, nothing else",
    first=None,
    second=None,
    low_pass=None,
)

PRESETS = {
    preset.name: preset
    for preset in (
        BICUBIC,
        FRAMER_PAPER,
        FRAMER_RELEASED,
        LIGHT_ONE_STAGE,
        REAL_ESRGAN,
        RESSHIFT,
        RESSHIFT_TESTING,
    )
}


SCALES = (2, 3, 4, 8)
"""What presets can be asked for; the published numbers are those of 4."""


def preset_by_name(name: str, scale: int = 4) -> DegradationPreset:
    """Look a preset up.

    Args:
      name: key in `PRESETS`.
      scale: HR pixels per LR pixel, one of `SCALES`; all other numbers stay as they are.

    Raises:
      ValueError: there is none of this name, or the scale is not supported; the message lists what is.
    """
    if name not in PRESETS:
        raise ValueError(f"there is no degradation preset {name!r}; choose one of {', '.join(sorted(PRESETS))}")
    if scale not in SCALES:
        raise ValueError(f"degradations by {scale} are not supported; choose one of {', '.join(map(str, SCALES))}")
    return replace(PRESETS[name], scale=scale)
