"""The distance of a student's image to its teacher's by frequency bands: DTKD's loss and its alternatives.

Park and Song, "DTKD" (Electronics 15(10) 1986, 2026): the L1 distance of the bands of a two-level wavelet transform, in
three groups, low (the coarsest low band), middle (the details of the coarser levels) and high (those of level 1), of
which the middle one has double weight. Its Table 5 compares it with the dual-tree complex wavelet transform and the
Fourier transform, other tables with plain pixels. What the available text does not state is a setting: wavelet, padding
mode, norm, and whether the bands of a group are summed or averaged.
"""

from __future__ import annotations

import functools
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
    PADDING_MODES,
    WaveletBands,
    check_map,
    check_wavelet,
    decompose,
    haar_decompose,
    max_levels,
)
from framer_jax.knobs import MAX_WEIGHT, changed_repr, check_knobs, knob, shown

GROUPS = ("low", "middle", "high")

Norm = Callable[[jax.Array], jax.Array]
"""Elementwise norm of a difference."""

NORMS: Mapping[str, Norm] = {
    "l1": jnp.abs,
    "l2": lambda band: jnp.square(band.real) + jnp.square(band.imag) if jnp.iscomplexobj(band) else jnp.square(band),
}
"""Name → elementwise norm of a real or complex difference."""

MAX_LEVELS = 4


@dataclass(frozen=True)
class WaveletKdSettings:
    """The distance; the defaults are the paper's, or the simplest choice where its text states none.

    Raises:
      ValueError: a value outside its choices or its range.
    """

    transform: str = knob(
        "dwt",
        "dwt; dual_tree (complex wavelets); fourier (square rings of the spectrum, each half as wide as the next: the "
        "low group up to 2^-levels of the Nyquist frequency along both axes, the high one above a half); pixel (no "
        "bands; of the other settings only norm is used).",
        choices=("dwt", "dual_tree", "fourier", "pixel"),
    )
    wavelet: str = knob("haar", "Wavelet of dwt, a discrete one that PyWavelets knows.")
    levels: int = knob(
        2, "Levels of the transform; with one level there is no middle group.", at_least=1, at_most=MAX_LEVELS
    )
    padding_mode: str = knob(
        "symmetric",
        "Padding of dwt at the borders. Haar never reads beyond the border where the sides are multiples of 2^levels.",
        choices=PADDING_MODES,
    )
    weights: tuple[float, float, float] = knob(
        (1.0, 2.0, 1.0), "Weights of the low, the middle and the high group.", at_least=0, at_most=MAX_WEIGHT
    )
    norm: str = knob(
        "l1",
        "Norm of the difference, averaged over each band: l1 or l2 (squared); of magnitudes where bands are complex.",
        choices=tuple(NORMS),
    )
    band_reduction: str = knob(
        "sum", "How the bands of a group are reduced (dwt of two levels has 7 bands).", choices=("sum", "mean")
    )
    normalise_to_pixel: bool = knob(
        False,
        "Divide the distance by its value on white noise of pixel distance 1 (10 for dwt with the default knobs), so "
        "that lambda means the same for every transform, number of levels and set of weights.",
    )

    __repr__ = changed_repr

    def __post_init__(self) -> None:
        check_knobs(self)
        if not any(self.weights):
            raise ValueError(
                "weights is 0 for all groups: one of them must be above 0; weight=0 trains without a teacher"
            )
        low, _, high = self.weights
        if self.transform != "pixel" and self.levels == 1 and not (low or high):
            raise ValueError(
                f"weights is {shown(self.weights)}: with levels=1 there is no middle group, so that of the low or the "
                "high group must be above 0; or use more levels"
            )
        try:
            check_wavelet(self.wavelet)
        except ValueError as error:
            raise ValueError(f"wavelet is {shown(self.wavelet)}: {error}") from error


class WaveletKd(NamedTuple):
    """The distance before its weight λ, and its groups.

    Attributes:
      values: [B] float32, L_DWT.
      groups: name to [B] float32, not weighted: 'low', 'middle' (from two levels on), 'high'; or 'pixel'.
    """

    values: jax.Array
    groups: dict[str, jax.Array]


def wavelet_kd(student: jax.Array, teacher: jax.Array, settings: WaveletKdSettings) -> WaveletKd:
    """DTKD's distillation loss: L_DWT = Σ_g w_g Σ_{b in g} |DWT_b(S(x)) − DWT_b(T(x))|₁ over the groups g of bands b.

    The paper's equation is reconstructed from its prose: the available text has the formulas as images.

    Args:
      student: S(x), [B, H, W, C] floating point.
      teacher: T(x), of the same shape; no gradient reaches it.
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
    norm = NORMS[settings.norm]
    if settings.transform == "pixel":
        values = norm(difference).mean(axis=(1, 2, 3)).astype(jnp.float32)
        return WaveletKd(values, {"pixel": values})
    check_size(settings, difference.shape[1:3])
    distance = _distance(difference, settings, norm)
    if settings.normalise_to_pixel:
        return distance._replace(values=distance.values / jnp.float32(white_noise_ratio(settings)))
    return distance


def _distance(difference: jax.Array, settings: WaveletKdSettings, norm: Norm) -> WaveletKd:
    reduce = jnp.sum if settings.band_reduction == "sum" else jnp.mean
    means = TRANSFORMS[settings.transform](difference, settings, norm)
    groups = {name: reduce(values, axis=0).astype(jnp.float32) for name, values in means.items()}
    weights = dict(zip(GROUPS, settings.weights, strict=True))
    values = jnp.stack([jnp.float32(weights[name]) * value for name, value in groups.items()]).sum(axis=0)
    return WaveletKd(values, groups)


@functools.cache
def white_noise_ratio(settings: WaveletKdSettings) -> float:
    """The distance of white Gaussian noise divided by its pixel distance, measured on a fixed draw of 2^21 pixels."""
    noise = np.random.default_rng(0).standard_normal((8, 512, 512, 1), np.float32)
    norm = NORMS[settings.norm]
    if settings.transform == "pixel":
        return 1.0
    with jax.ensure_compile_time_eval():  # a constant of the program that is being traced
        values = _distance(jnp.asarray(noise), settings, norm).values
        return float(values.mean() / norm(jnp.asarray(noise)).mean())


def check_size(settings: WaveletKdSettings, sides: tuple[int, ...]) -> None:
    """Check that images are large enough for the levels, and can be halved so often where the transform needs it.

    Args:
      settings: see WaveletKdSettings.
      sides: height and width of the images.

    Raises:
      ValueError: they are not; the message starts with the knob.
    """
    if settings.transform == "dual_tree" and any(side % 2**settings.levels for side in sides):
        raise ValueError(
            f"levels is {settings.levels}: transform=dual_tree needs images whose sides are multiples of "
            f"{2**settings.levels}, and these have {tuple(sides)} pixels; use fewer levels or other sides (data.crop)"
        )
    if settings.transform == "dwt":
        allowed, of = max_levels((1, *sides, 1), settings.wavelet), f" of {settings.wavelet}"
    elif settings.transform == "fourier":
        allowed, of = min(sides).bit_length() - 1, ""
    else:
        return
    if settings.levels > allowed:
        raise ValueError(
            f"levels is {settings.levels}: images of {tuple(sides)} pixels allow {allowed}{of}; use fewer levels, a "
            "shorter wavelet or larger images (data.crop)"
        )


def mean_wavelet_kd(student: jax.Array, teacher_images: jax.Array, settings: WaveletKdSettings) -> WaveletKd:
    """`wavelet_kd` averaged over K outputs of a stochastic teacher.

    Args:
      student: S(x), [B, H, W, C].
      teacher_images: T(x), [B, K, H, W, C].
      settings: see WaveletKdSettings.

    Returns:
      means over K, see WaveletKd.

    Raises:
      ValueError: as for `wavelet_kd`.
    """
    per_sample = jax.vmap(lambda teacher: wavelet_kd(student, teacher, settings), in_axes=1)(teacher_images)  # [K, B]
    return WaveletKd(
        per_sample.values.mean(axis=0), {name: values.mean(axis=0) for name, values in per_sample.groups.items()}
    )


def dtkd_total(pixel_loss: jax.Array, wavelet_loss: jax.Array, weight: jax.Array | float) -> jax.Array:
    """DTKD's training loss: L = |S(x) − y|₁ + λ(t) L_DWT(S(x), T(x)).

    λ rises linearly from 0 over all training steps; the available text does not state its final value.

    Args:
      pixel_loss: [B], |S(x) − y|₁ from framer_jax.losses.pixel.pixel_l1.
      wavelet_loss: [B], L_DWT, the values of `mean_wavelet_kd`.
      weight: λ(t), a scalar from framer_jax.losses.weight_schedule.weight_at.

    Returns:
      [B] float32.
    """
    return pixel_loss + weight * wavelet_loss


Means = dict[str, jax.Array]
"""Group → mean norm of each of its bands, [bands, B]."""


def _by_level(low: jax.Array, details: list[jax.Array]) -> Means:
    """The means of the low band and of each level's details (coarsest first), [bands, B] each, by group."""
    middle = {"middle": jnp.concatenate(details[:-1])} if len(details) > 1 else {}
    return {"low": low, **middle, "high": details[-1]}


def _dwt(difference: jax.Array, settings: WaveletKdSettings, norm: Norm) -> Means:
    def means(bands: tuple[jax.Array, ...]) -> jax.Array:
        return jnp.stack([norm(band).mean(axis=(1, 2, 3)) for band in bands])

    bands = wavelet_bands(difference, settings)
    return _by_level(means((bands.low,)), [means(tuple(detail)) for detail in bands.details])


def wavelet_bands(image: jax.Array, settings: WaveletKdSettings) -> WaveletBands:
    """The bands that 'dwt' compares; Haar is computed by slicing where the size allows, which is many times faster."""
    if settings.wavelet == "haar" and not any(side % 2**settings.levels for side in image.shape[1:3]):
        return haar_decompose(image, settings.levels)
    return decompose(image, settings.wavelet, settings.levels, settings.padding_mode)


def _dual_tree(difference: jax.Array, settings: WaveletKdSettings, norm: Norm) -> Means:
    bands = dual_tree(difference, settings.levels)
    low = norm(bands.low).mean(axis=(1, 2, 3))[None]
    return _by_level(low, [norm(detail).mean(axis=(2, 3, 4)) for detail in bands.details])


def _fourier(difference: jax.Array, settings: WaveletKdSettings, norm: Norm) -> Means:
    height, width = difference.shape[1:3]
    coefficients = spectrum(difference * (1.0 / math.sqrt(height * width)))  # orthonormal, so of the pixels' magnitude
    norms = norm(coefficients).mean(axis=-1)  # [B, H, W // 2 + 1], mean over colors
    frequency = np.maximum(np.abs(np.fft.fftfreq(height))[:, None], np.fft.rfftfreq(width)[None, :]) * 2
    limits = 2.0 ** -np.arange(settings.levels, 0, -1)  # fractions of Nyquist: the low group's, then one per level
    ring = np.searchsorted(limits, frequency)  # 0: low group; then the levels, coarsest first
    rings = np.stack([(ring == index) * hermitian_weights(width) for index in range(settings.levels + 1)])
    # [L + 1, H, W // 2 + 1], each ring of sum 1
    ring_weights = jnp.asarray(rings / rings.sum(axis=(1, 2), keepdims=True), norms.dtype)
    means = jnp.einsum("rhw,bhw->rb", ring_weights, norms, precision=jax.lax.Precision.HIGHEST)
    return _by_level(means[:1], [means[index : index + 1] for index in range(1, settings.levels + 1)])


TRANSFORMS: Mapping[str, Callable[[jax.Array, WaveletKdSettings, Norm], Means]] = {
    "dwt": _dwt,
    "dual_tree": _dual_tree,
    "fourier": _fourier,
}
