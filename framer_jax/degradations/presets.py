"""The degradation presets as data, with the source of every number."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import pi

Range = tuple[float, float]
"""Lower and upper end of a uniform distribution."""

GEOMETRIES = ("released", "aligned")
"""How the first stage resizes. 'released', as BasicSR: with steps of 1 / scale on floor(side · scale) pixels, of which
the following steps take the whole for the whole image; the LR image is therefore the HR image stretched about its upper
left corner, by less than one pixel of the first stage's result at the far edge. 'aligned': with the ratio of the sizes,
so that an LR pixel lies where its HR pixels are. Area resizing is aligned in both."""

KERNEL_KINDS = (
    ("isotropic_gaussian", 0.45),
    ("anisotropic_gaussian", 0.25),
    ("isotropic_generalized_gaussian", 0.12),
    ("anisotropic_generalized_gaussian", 0.03),
    ("isotropic_plateau", 0.12),
    ("anisotropic_plateau", 0.03),
)
"""Real-ESRGAN's mixture of kernel kinds, in both stages."""


def odd_sizes(smallest: int, largest: int) -> tuple[int, ...]:
    """Kernel sizes smallest, smallest + 2, … largest."""
    return tuple(range(smallest, largest + 1, 2))


@dataclass(frozen=True)
class BlurPreset:
    """Distribution of a blur kernel.

    Attributes:
      sizes: kernel sizes in pixels, of which one is drawn uniformly.
      kinds: (kind, probability) pairs of the mixture; a kind is 'isotropic_' or 'anisotropic_' followed by a kernel of
        `kernels.py`: gaussian, generalized_gaussian or plateau.
      sigma: range of the standard deviations in pixels.
      generalized_beta, plateau_beta: (lower, upper); β is U(lower, 1) or U(1, upper) with equal probability.
      low_pass: probability that a circular low-pass (sinc) kernel replaces the mixture.
      low_pass_cutoff_small, low_pass_cutoff_large: ranges of its cutoff in radians per pixel, for kernel sizes below
        13 and from 13 on.
      probability: probability that the stage blurs at all.
    """

    sizes: tuple[int, ...] = odd_sizes(7, 21)
    kinds: tuple[tuple[str, float], ...] = KERNEL_KINDS
    sigma: Range = (0.2, 3.0)
    generalized_beta: Range = (0.5, 4.0)
    plateau_beta: Range = (1.0, 2.0)
    low_pass: float = 0.1
    low_pass_cutoff_small: Range = (pi / 3, pi)
    low_pass_cutoff_large: Range = (pi / 5, pi)
    probability: float = 1.0


@dataclass(frozen=True)
class LowPassPreset:
    """Distribution of the final sinc filter.

    Attributes:
      sizes: kernel sizes in pixels, of which one is drawn uniformly.
      probability: probability that there is a final filter.
      cutoff: range of the cutoff in radians per pixel.
    """

    sizes: tuple[int, ...] = odd_sizes(7, 21)
    probability: float = 0.8
    cutoff: Range = (pi / 3, pi)


@dataclass(frozen=True)
class ResizePreset:
    """Distribution of a resizing.

    Attributes:
      up, down, keep: probabilities of a scale from U(1, range's upper end), from U(range's lower end, 1), and of 1;
        they sum to 1.
      range: smallest and largest scale.
      modes: entries of `resize.MODES`, of which one is drawn uniformly.
    """

    up: float = 0.2
    down: float = 0.7
    keep: float = 0.1
    range: Range = (0.15, 1.5)
    modes: tuple[str, ...] = ("area", "bilinear", "bicubic")


@dataclass(frozen=True)
class NoisePreset:
    """Distribution of the noise.

    Attributes:
      gaussian: probability of Gaussian noise; otherwise the noise is Poisson.
      sigma: range of the Gaussian standard deviation in 8-bit levels (of 255).
      poisson_scale: range of the factor on Poisson noise.
      gray: probability that the channels share one noise pattern.
      probability: probability that the stage adds noise at all.
    """

    gaussian: float = 0.5
    sigma: Range = (1.0, 30.0)
    poisson_scale: Range = (0.05, 3.0)
    gray: float = 0.4
    probability: float = 1.0


@dataclass(frozen=True)
class StagePreset:
    """One stage: blur, resize, noise and JPEG, in this order; None omits a step.

    Attributes:
      blur, noise: distributions of the blur kernel and of the noise.
      resize: distribution of the scale, relative to the HR image in the first stage and to the final LR image in the
        second.
      jpeg_quality: range of the quality. The second stage's JPEG may precede or follow the final sinc filter.
    """

    blur: BlurPreset | None = BlurPreset()
    resize: ResizePreset = ResizePreset()
    noise: NoisePreset | None = NoisePreset()
    jpeg_quality: Range | None = (30.0, 95.0)


@dataclass(frozen=True)
class DegradationPreset:
    """A degradation from HR to LR images at 1 / scale; the result is rounded to 8 bits.

    Attributes:
      name: key in `PRESETS`; of a mixture, its presets with their shares.
      source: source of the numbers.
      scale: HR pixels per LR pixel.
      first: the first stage; None to start with the second.
      second: the second stage, which ends at the size of the LR image; None (with `first` None) for MATLAB's bicubic
        downsampling of 8-bit images alone, as in the classical test sets.
      second_probability: probability of the second stage's blur, resize and noise; its JPEG, the resizing to the LR
        size and the final filter take place in any case.
      low_pass: the final sinc filter; None omits it.
      low_pass_first: probability that the resizing to the LR size and the final filter precede the last JPEG.
      sharpen_target: whether HR images are sharpened (USM) before they are degraded; the sharpened images are also the
        training targets.
      geometry: one of `GEOMETRIES`.
      parts: the presets of a mixture (`lookup.preset_by_name`) with their probabilities; the parameters of each record
        are drawn from one of them. The stages and the final filter then have the kernel sizes and the resizing ranges
        of all of them, for which the program is compiled. () for a preset that is no mixture.
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
    geometry: str = "released"
    parts: tuple[tuple[DegradationPreset, float], ...] = ()

    def __repr__(self) -> str:
        return f"<DegradationPreset {self.name} x{self.scale}, {self.geometry} geometry>"


_SECOND_RESIZE = ResizePreset(up=0.3, down=0.4, keep=0.3, range=(0.3, 1.2))
_NO_RESIZE = ResizePreset(up=0.0, down=0.0, keep=1.0, range=(1.0, 1.0))


REAL_ESRGAN = DegradationPreset(
    name="real_esrgan",
    source="Real-ESRGAN (Wang et al. 2021), options of x4plus; the HR images are sharpened and are then the targets",
    second=StagePreset(
        blur=BlurPreset(sigma=(0.2, 1.5), probability=0.8),
        resize=_SECOND_RESIZE,
        noise=NoisePreset(sigma=(1.0, 25.0), poisson_scale=(0.05, 2.5)),
    ),
    sharpen_target=True,
)

RESSHIFT = DegradationPreset(
    name="resshift",
    source="ResShift v1 to v3 (Yue et al. 2023), also SinSR and HF-Diff: smaller kernels, half as many second stages",
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
    source="ResShift's degradation_testing_realesrgan.yaml, which made ImageNet-Test; there is never a second stage",
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
    source="FRAMER (CVPR 2026), supplement, Table 6; values that it does not state are Real-ESRGAN's: the kernels' "
    "mixture and sizes (7 to 11 in the second stage, whose canvas is 11), the probabilities of up, down and keep, gray "
    "0.4, second blur 0.8. The HR image is not sharpened: the table does not mention it (SeeSR's data preparation, "
    "which FRAMER used, sharpens)",
    second=StagePreset(
        blur=BlurPreset(sizes=odd_sizes(7, 11), sigma=(0.2, 1.5), probability=0.8),
        resize=_SECOND_RESIZE,
        noise=NoisePreset(sigma=(1.0, 25.0), poisson_scale=(0.05, 2.5)),
    ),
)

FRAMER_RELEASED = DegradationPreset(
    name="framer_released",
    source="the parameter file in FRAMER's released trainer (also PiSA-SR's light degradation)",
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
    source="ours: one stage of Real-ESRGAN (Wang et al. 2021), directly to 1/4, with milder ranges",
    first=None,
    second=StagePreset(
        # Mixture: Real-ESRGAN's 0.45 : 0.25 for the two Gaussians, scaled to sum to 1. Sigma: ours (Real-ESRGAN's is
        # 0.2 to 3).
        blur=BlurPreset(
            kinds=(("isotropic_gaussian", 9 / 14), ("anisotropic_gaussian", 5 / 14)), sigma=(0.2, 2.0), low_pass=0.0
        ),
        resize=_NO_RESIZE,
        # Probabilities: Real-ESRGAN's. Levels: ours (Real-ESRGAN's are 1 to 30 and 0.05 to 3, those of FRAMER's
        # release 1 to 15 and 0.05 to 2).
        noise=NoisePreset(sigma=(1.0, 10.0), poisson_scale=(0.05, 1.0)),
        jpeg_quality=(60.0, 95.0),  # FRAMER's release, first stage
    ),
    low_pass=None,
)

CAMERA = DegradationPreset(
    name="camera",
    source="ours: two stages of Real-ESRGAN (Wang et al. 2021) for photographs as cameras make them, such as RealSR's: "
    "mostly blur, with weak noise in half of the images at each stage",
    first=StagePreset(
        # Both stages together blur more than RealSR's cameras: the Gaussian that explains an LR image best has a sigma
        # of 1.8 to 4.8 HR pixels in 90 % of images (BSD100; median 3.2), of RealSR's crops 1.6 to 2.8 (median 2.0).
        blur=BlurPreset(sigma=(0.6, 2.8)),
        resize=ResizePreset(range=(0.5, 1.2)),
        noise=NoisePreset(sigma=(1.0, 8.0), poisson_scale=(0.05, 1.0), probability=0.5),
        jpeg_quality=(75.0, 95.0),
    ),
    second=StagePreset(
        blur=BlurPreset(sigma=(0.2, 1.5), probability=0.5),
        resize=replace(_SECOND_RESIZE, range=(0.6, 1.2)),
        noise=NoisePreset(sigma=(1.0, 6.0), poisson_scale=(0.05, 0.5), probability=0.5),
        jpeg_quality=(60.0, 100.0),
    ),
)

LENS = DegradationPreset(
    name="lens",
    source="ours: two stages of Real-ESRGAN (Wang et al. 2021) for photographs degraded by little other "
    "than lens blur, such as RealSR's crops: weak noise, light JPEG, in half of the images no intermediate resizing",
    first=StagePreset(
        # The Gaussian that explains an LR image best has a sigma of 1.2 to 3.0 HR pixels in 90 % of images (BSD100;
        # median 2.0), of RealSR's crops 1.6 to 2.8 (median 2.0).
        blur=BlurPreset(
            kinds=(("isotropic_gaussian", 0.6), ("anisotropic_gaussian", 0.4)), sigma=(1.0, 2.2), low_pass=0.05
        ),
        resize=ResizePreset(up=0.1, down=0.2, keep=0.7, range=(0.7, 1.2)),
        noise=NoisePreset(sigma=(1.0, 5.0), poisson_scale=(0.05, 0.5), probability=0.5),
        jpeg_quality=(80.0, 98.0),
    ),
    second=StagePreset(
        blur=None,
        resize=ResizePreset(up=0.1, down=0.15, keep=0.75, range=(0.8, 1.2)),
        noise=NoisePreset(sigma=(1.0, 3.0), poisson_scale=(0.05, 0.2), probability=0.2),
        jpeg_quality=(75.0, 100.0),
    ),
    low_pass=LowPassPreset(probability=0.2),
)

BICUBIC = DegradationPreset(
    name="bicubic",
    source="the classical setting: MATLAB's antialiased bicubic downsampling of 8-bit images, nothing else",
    first=None,
    second=None,
    low_pass=None,
)

PRESETS = {
    preset.name: preset
    for preset in (
        BICUBIC,
        CAMERA,
        FRAMER_PAPER,
        FRAMER_RELEASED,
        LENS,
        LIGHT_ONE_STAGE,
        REAL_ESRGAN,
        RESSHIFT,
        RESSHIFT_TESTING,
    )
}
