"""Draw the degradation parameters of one record from a preset, in NumPy, in the data worker."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from framer_jax.degradations import kernels
from framer_jax.degradations.presets import (
    BlurPreset,
    DegradationPreset,
    LowPassPreset,
    NoisePreset,
    ResizePreset,
    StagePreset,
)
from framer_jax.degradations.resize import MODES

NOISE_KINDS = ("none", "gaussian", "poisson")
"""`StageParameters.noise_kind` is an index into this tuple."""


class StageParameters(NamedTuple):
    """The parameters of one stage; those of a step that the preset omits, or that the draw skips, are neutral.

    Attributes:
      blurs: whether the stage blurs, bool; otherwise the kernel is a delta.
      kernel: blur kernel, [21, 21] float32.
      scale: output pixels per input pixel (first stage), or per pixel of the final LR image (second stage), float32.
      resize_mode: index into `resize.MODES`, int32.
      noise_kind: index into `NOISE_KINDS`, int32.
      noise_level: Gaussian standard deviation for images in [0, 1], or Poisson scale, float32.
      noise_gray: whether the channels share one noise pattern, bool.
      noise_seed: seed of the noise, [2] uint32.
      jpeg_quality: 1 to 100, float32; 0 without JPEG.
    """

    blurs: Any
    kernel: Any
    scale: Any
    resize_mode: Any
    noise_kind: Any
    noise_level: Any
    noise_gray: Any
    noise_seed: Any
    jpeg_quality: Any


class DegradationParameters(NamedTuple):
    """The parameters of one record (NumPy), or of a batch of records with a leading axis B.

    Attributes:
      first, second: the two stages.
      has_second: whether the second stage takes place, bool; otherwise only its JPEG does.
      last_resize_mode: index into `resize.MODES` for the resizing to the LR size, int32.
      low_pass_first: whether that resizing and the final low-pass filter precede the last JPEG, bool.
      low_passes: whether there is a final low-pass filter, bool; otherwise it is a delta.
      low_pass: kernel of the final low-pass filter, [21, 21] float32.
    """

    first: StageParameters
    second: StageParameters
    has_second: Any
    last_resize_mode: Any
    low_pass_first: Any
    low_passes: Any
    low_pass: Any


def draw(rng: np.random.Generator, preset: DegradationPreset) -> DegradationParameters:
    """Draw the degradation parameters of one record.

    Args:
      rng: the record's generator; the same state gives the same parameters.
      preset: the distributions.

    Returns:
      NumPy scalars and arrays without a batch axis.
    """
    if preset.parts:
        preset = draw_part(rng, preset)
    first, second = draw_stage(rng, preset.first), draw_stage(rng, preset.second)
    has_second = preset.second is not None and rng.uniform() < preset.second_probability
    modes = ResizePreset().modes if preset.second is None else preset.second.resize.modes
    low_passes, low_pass = _draw_low_pass(rng, preset.low_pass)
    return DegradationParameters(
        first=first,
        second=second,
        has_second=np.bool_(has_second),
        last_resize_mode=_draw_mode(rng, modes),
        low_pass_first=np.bool_(rng.uniform() < preset.low_pass_first),
        low_passes=np.bool_(low_passes),
        low_pass=low_pass,
    )


def draw_part(rng: np.random.Generator, mixture: DegradationPreset) -> DegradationPreset:
    """Draw the preset of a mixture that degrades one record: the first draw from its generator."""
    shares = np.cumsum([share for _, share in mixture.parts])
    index = int(np.searchsorted(shares, rng.uniform(), side="right"))
    return mixture.parts[min(index, len(mixture.parts) - 1)][0]


def draw_stage(rng: np.random.Generator, preset: StagePreset | None) -> StageParameters:
    """Draw the parameters of one stage, neutral ones without a preset."""
    if preset is None:
        preset = StagePreset(None, ResizePreset(0.0, 0.0, 1.0, (1.0, 1.0)), None, None)
    blurs = preset.blur is not None and rng.uniform() < preset.blur.probability
    kind, level, gray = (0, 0.0, False) if preset.noise is None else _draw_noise(rng, preset.noise)
    return StageParameters(
        blurs=np.bool_(blurs),
        kernel=draw_kernel(rng, preset.blur) if blurs and preset.blur is not None else kernels.delta(),
        scale=np.float32(_draw_scale(rng, preset.resize)),
        resize_mode=_draw_mode(rng, preset.resize.modes),
        noise_kind=np.int32(kind),
        noise_level=np.float32(level),
        noise_gray=np.bool_(gray),
        noise_seed=rng.integers(2**32, size=2, dtype=np.uint32),
        jpeg_quality=np.float32(0.0 if preset.jpeg_quality is None else rng.uniform(*preset.jpeg_quality)),
    )


def draw_kernel(rng: np.random.Generator, preset: BlurPreset) -> kernels.Kernel:
    """Draw a blur kernel, [21, 21] float32 that sums to 1."""
    size = _draw_size(rng, preset.sizes)
    if preset.low_pass > 0.0 and rng.uniform() < preset.low_pass:
        cutoff = rng.uniform(*(preset.low_pass_cutoff_small if size < 13 else preset.low_pass_cutoff_large))
        return kernels.on_canvas(kernels.circular_low_pass(size, cutoff))
    # Inversion of the cumulative distribution: Generator.choice is ten times slower for one draw.
    index = int(np.searchsorted(np.cumsum([p for _, p in preset.kinds]), rng.uniform(), side="right"))
    isotropy, shape = preset.kinds[min(index, len(preset.kinds) - 1)][0].split("_", 1)
    sigma, angle = rng.uniform(*preset.sigma), 0.0
    sigmas = (sigma, sigma)
    if isotropy == "anisotropic":
        sigmas, angle = (sigma, rng.uniform(*preset.sigma)), rng.uniform(-math.pi, math.pi)
    if shape == "gaussian":
        return kernels.on_canvas(kernels.gaussian(size, sigmas, angle))
    lower, upper = preset.generalized_beta if shape == "generalized_gaussian" else preset.plateau_beta
    beta = rng.uniform(lower, 1.0) if rng.uniform() < 0.5 else rng.uniform(1.0, upper)
    make_kernel = {"generalized_gaussian": kernels.generalized_gaussian, "plateau": kernels.plateau}[shape]
    return kernels.on_canvas(make_kernel(size, sigmas, angle, beta))


def _draw_low_pass(rng: np.random.Generator, preset: LowPassPreset | None) -> tuple[bool, kernels.Kernel]:
    if preset is None or rng.uniform() >= preset.probability:
        return False, kernels.delta()
    return True, kernels.on_canvas(
        kernels.circular_low_pass(_draw_size(rng, preset.sizes), rng.uniform(*preset.cutoff))
    )


def _draw_size(rng: np.random.Generator, sizes: tuple[int, ...]) -> int:
    return int(sizes[int(rng.integers(len(sizes)))])


def _draw_mode(rng: np.random.Generator, modes: tuple[str, ...]) -> np.int32:
    return np.int32(MODES.index(modes[int(rng.integers(len(modes)))]))


def _draw_scale(rng: np.random.Generator, preset: ResizePreset) -> float:
    choice = rng.uniform()
    if choice < preset.up:
        return rng.uniform(1.0, preset.range[1])
    return rng.uniform(preset.range[0], 1.0) if choice < preset.up + preset.down else 1.0


def _draw_noise(rng: np.random.Generator, preset: NoisePreset) -> tuple[int, float, bool]:
    """(kind as an index into `NOISE_KINDS`, level, gray)."""
    # A preset that always adds noise consumes no draw for it.
    if preset.probability < 1.0 and rng.uniform() >= preset.probability:
        return NOISE_KINDS.index("none"), 0.0, False
    gray = bool(rng.uniform() < preset.gray)
    if rng.uniform() < preset.gaussian:
        return NOISE_KINDS.index("gaussian"), rng.uniform(*preset.sigma) / 255.0, gray
    return NOISE_KINDS.index("poisson"), rng.uniform(*preset.poisson_scale), gray


def stack(parameters: Sequence[DegradationParameters]) -> DegradationParameters:
    """Stack the parameters of records into those of a batch."""
    return jax.tree.map(lambda *leaves: np.stack(leaves), *parameters)
