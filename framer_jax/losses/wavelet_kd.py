"""How far a student's picture is from its teacher's, by frequency bands: DTKD's loss and what it was compared with.

Park and Song, "DTKD" (Electronics 15(10) 1986, 2026): the L1 distance of the bands of a two-level wavelet transform, in
three groups - low (the coarsest low band), middle (the details of the coarser levels) and high (those of level 1) - of
which the middle one counts double. Its Table 5 sets the dual-tree complex wavelet transform and the Fourier transform
against it, other tables plain pixels. What the text leaves open is a setting: wavelet, border, norm, and whether the
bands of a group are added or averaged.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from framer_jax.frequency.bands import full_precision, hermitian_weights, spectrum
from framer_jax.frequency.dual_tree import dual_tree
from framer_jax.frequency.wavelets import (
    BORDER_MODES,
    WaveletBands,
    check_map,
    check_wavelet,
    decompose,
    haar_decompose,
    most_levels,
)

GROUPS = ("low", "middle", "high")

NORMS: Mapping[str, Callable[[jax.Array], jax.Array]] = {
    "l1": jnp.abs,
    "l2": lambda band: jnp.square(band.real) + jnp.square(band.imag) if jnp.iscomplexobj(band) else jnp.square(band),
}
"""Of a difference, real or complex, elementwise."""

MOST_LEVELS = 4


@dataclass(frozen=True)
class WaveletKdSettings:
    """The loss; the defaults are the paper's, or the plainest reading of it.

    Attributes:
      transform: 'dwt'; 'dual_tree' (complex wavelets); 'fourier' (square rings of the spectrum, each half as wide as
        the next: the low group up to 2^-levels of the Nyquist frequency along both axes, the high one above a half);
        'pixel' (no bands, and no use of the other settings but `norm`).
      wavelet: of 'dwt', a discrete one that PyWavelets knows.
      levels: 1 to 4; with one there is no middle group.
      border: of 'dwt', one of framer_jax.frequency.wavelets.BORDER_MODES. Haar on sides that are multiples of 2^levels
        never reaches over the border.
      weights: of the low, the middle and the high group.
      norm: 'l1' or 'l2' (squared), averaged over each band; magnitudes where the bands are complex.
      within: 'sum' or 'mean' over the bands of a group (7 bands for two levels of 'dwt').

    Raises:
      ValueError: a value outside its choices or its range.
    """

    transform: str = "dwt"
    wavelet: str = "haar"
    levels: int = 2
    border: str = "symmetric"
    weights: tuple[float, float, float] = (1.0, 2.0, 1.0)
    norm: str = "l1"
    within: str = "sum"

    def __post_init__(self) -> None:
        choices = {
            "transform": (*TRANSFORMS, "pixel"),
            "border": BORDER_MODES,
            "norm": tuple(NORMS),
            "within": ("sum", "mean"),
        }
        for name, known in choices.items():
            if getattr(self, name) not in known:
                raise ValueError(f"wavelet_kd.{name} is {getattr(self, name)!r}: choose one of {', '.join(known)}")
        if not 1 <= self.levels <= MOST_LEVELS:
            raise ValueError(f"wavelet_kd.levels is {self.levels}: it must be 1 to {MOST_LEVELS}")
        if len(self.weights) != len(GROUPS) or not all(0 <= weight < math.inf for weight in self.weights):
            raise ValueError(f"wavelet_kd.weights are {self.weights}: three numbers of at least 0 (low, middle, high)")
        check_wavelet(self.wavelet)


class WaveletKd(NamedTuple):
    """The loss before its factor lambda, and what it is made of.

    Attributes:
      values: [B] float32.
      groups: name to [B] float32, not weighted: 'low', 'middle' (from two levels on), 'high'; or 'pixel'.
    """

    values: jax.Array
    groups: dict[str, jax.Array]


def wavelet_kd(student: jax.Array, teacher: jax.Array, settings: WaveletKdSettings) -> WaveletKd:
    """The loss.

    Args:
      student: [B, H, W, C] floating point, the student's picture.
      teacher: of the same shape, the teacher's; no gradient reaches it.
      settings: see WaveletKdSettings.

    Returns:
      see WaveletKd.

    Raises:
      ValueError: shapes differ, are not [B, H, W, C], or are too small for so many levels; no floating-point values.
    """
    check_map(student)
    check_map(teacher)
    if student.shape != teacher.shape:
        raise ValueError(f"student and teacher differ in shape: {student.shape} and {teacher.shape}")
    # Every transform here is linear: the bands of the difference are the differences of the bands, at half the cost.
    difference = full_precision(student) - jax.lax.stop_gradient(full_precision(teacher))
    size = NORMS[settings.norm]
    if settings.transform == "pixel":
        values = size(difference).mean(axis=(1, 2, 3)).astype(jnp.float32)
        return WaveletKd(values, {"pixel": values})
    reduce = jnp.sum if settings.within == "sum" else jnp.mean
    means = TRANSFORMS[settings.transform](difference, settings, size)
    groups = {name: reduce(values, axis=0).astype(jnp.float32) for name, values in means.items()}
    weights = dict(zip(GROUPS, settings.weights, strict=True))
    values = jnp.stack([jnp.float32(weights[name]) * value for name, value in groups.items()]).sum(axis=0)
    return WaveletKd(values, groups)


Means = dict[str, jax.Array]
"""Group → mean size of each of its bands, [bands, B]."""

Size = Callable[[jax.Array], jax.Array]


def _by_level(low: jax.Array, details: list[jax.Array]) -> Means:
    """From means [bands, B] of the low band and of each level, from the coarsest to the finest."""
    middle = {"middle": jnp.concatenate(details[:-1])} if len(details) > 1 else {}
    return {"low": low, **middle, "high": details[-1]}


def _dwt(difference: jax.Array, settings: WaveletKdSettings, size: Size) -> Means:
    most = most_levels(difference.shape, settings.wavelet)
    if settings.levels > most:
        raise ValueError(
            f"images of {difference.shape[1:3]} pixels allow {most} levels of {settings.wavelet}, not "
            f"{settings.levels}: use fewer levels, a shorter wavelet or larger images (data.crop)"
        )

    def means(bands: tuple[jax.Array, ...]) -> jax.Array:
        return jnp.stack([size(band).mean(axis=(1, 2, 3)) for band in bands])

    bands = wavelet_bands(difference, settings)
    return _by_level(means((bands.low,)), [means(tuple(detail)) for detail in bands.details])


def wavelet_bands(image: jax.Array, settings: WaveletKdSettings) -> WaveletBands:
    """The bands that 'dwt' compares: Haar by slices wherever the size allows, which is many times faster."""
    if settings.wavelet == "haar" and not any(side % 2**settings.levels for side in image.shape[1:3]):
        return haar_decompose(image, settings.levels)
    return decompose(image, settings.wavelet, settings.levels, settings.border)


def _dual_tree(difference: jax.Array, settings: WaveletKdSettings, size: Size) -> Means:
    bands = dual_tree(difference, settings.levels)
    low = size(bands.low).mean(axis=(1, 2, 3))[None]
    return _by_level(low, [size(detail).mean(axis=(2, 3, 4)) for detail in bands.details])


def _fourier(difference: jax.Array, settings: WaveletKdSettings, size: Size) -> Means:
    height, width = difference.shape[1:3]
    if min(height, width) < 2**settings.levels:
        raise ValueError(f"images of {(height, width)} pixels are too small for {settings.levels} levels")
    coefficients = spectrum(difference * (1.0 / math.sqrt(height * width)))  # orthonormal: as large as the pixels
    sizes = size(coefficients).mean(axis=-1)  # [B, H, W'], over colours
    frequency = np.maximum(np.abs(np.fft.fftfreq(height))[:, None], np.fft.rfftfreq(width)[None, :]) * 2
    limits = 2.0 ** -np.arange(settings.levels, 0, -1)  # of Nyquist: the low group's, then one a level
    ring = np.searchsorted(limits, frequency)  # 0 the low group, then from the coarsest level to the finest
    rings = np.stack([(ring == index) * hermitian_weights(width) for index in range(settings.levels + 1)])
    shares = jnp.asarray(rings / rings.sum(axis=(1, 2), keepdims=True), sizes.dtype)  # [L + 1, H, W'], of sum 1
    means = jnp.einsum("rhw,bhw->rb", shares, sizes, precision=jax.lax.Precision.HIGHEST)
    return _by_level(means[:1], [means[index : index + 1] for index in range(1, settings.levels + 1)])


TRANSFORMS: Mapping[str, Callable[[jax.Array, WaveletKdSettings, Size], Means]] = {
    "dwt": _dwt,
    "dual_tree": _dual_tree,
    "fourier": _fourier,
}
