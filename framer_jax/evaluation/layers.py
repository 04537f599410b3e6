"""Layer analysis: how the layers of a network relate to its last one in each frequency band.

It measures Figs. 2, 3, 5, 7 and 9 of "FRAMER: Frequency-Aligned Self-Distillation with Adaptive Modulation" (CVPR 2026,
arXiv 2512.01390) from the network's taps, with the disc bands of FRAMER's `paper` variant;
framer_jax.evaluation.layer_figures draws them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from framer_jax.frequency.bands import band_cosine, band_similarity_matrices, disc_mask, log_magnitude_density
from framer_jax.losses.framer import framer_loss, paper
from framer_jax.recipes.base import Batch, Frozen, Params, Recipe

RIDGE = 1e-3
"""Ridge penalty of the linear probes, relative to the mean variance of the features."""

BINS = 64
"""Number of histogram bins of the magnitude densities."""

RADIUS = 0.2
"""Radius of the low band, as a fraction of the Nyquist frequency: that of FRAMER's paper."""

TapProgram = Callable[[Params, Batch, jax.Array, float | None], tuple[jax.Array, ...]]
"""(params, batch, key, time or None) → taps in float32, see `tap_program`."""


class LayerSimilarity(NamedTuple):
    """Mean cosine similarity of each student layer to the teacher, in order of depth (Figs. 3 and 7).

    Attributes:
      low: [N], in the low band.
      high: [N], in the high band.
    """

    low: np.ndarray
    high: np.ndarray

    @property
    def middle_high(self) -> float:
        """Mean high-band cosine of the students, without the first and the last one."""
        inner = self.high[1:-1] if len(self.high) > 2 else self.high
        return float(np.mean(inner))


class Bands(NamedTuple):
    """One array for each frequency band."""

    low: np.ndarray
    high: np.ndarray


class LayerFactors(NamedTuple):
    """Factors of each student's losses in the FRAMER term (Fig. 9): means over the images, in order of depth.

    Attributes:
      weight: FAW weight w (Eq. 3-5), [N] in (0, 1] for each band.
      alignment: FAM alignment a (Eq. 6, 7), [N] in [0, 1] for each band.
      factor: mean of the product w a, [N] for each band.
    """

    weight: Bands
    alignment: Bands
    factor: Bands


class LayerDensities(NamedTuple):
    """Densities of log(1 + |S|) in each layer's bands (Fig. 2); the last layer is the teacher.

    Attributes:
      edges: [K + 1] bin edges, the same for all layers.
      low: [N + 1, K], fraction of the low band's coefficients per unit of log(1 + |S|).
      high: [N + 1, K], the same for the high band.
    """

    edges: np.ndarray
    low: np.ndarray
    high: np.ndarray


class LayerAnalysis(NamedTuple):
    """All measurements of N students and their teacher.

    Attributes:
      cosines: cosine similarities to the teacher, [N, B] for each band.
      factors: factors of FAW and FAM.
      densities: densities of the magnitudes.
      matrices: cosines between the images of a batch within each layer (Fig. 5), [N + 1, B, B], the teacher last.
    """

    cosines: Bands
    factors: LayerFactors
    densities: LayerDensities
    matrices: Bands

    @property
    def similarity(self) -> LayerSimilarity:
        """Means of the cosines over the images."""
        return LayerSimilarity(self.cosines.low.mean(axis=1), self.cosines.high.mean(axis=1))


def tap_program(recipe: Recipe) -> TapProgram:
    """The function that computes a recipe's taps; it is compiled once for each shape of batches.

    With a time, the taps are those of `Recipe.layer_taps`, which need no weights but those of sampling. Without one,
    they are those of the loss of the first update, at timesteps and noise that it draws from the key.

    Args:
      recipe: the recipe.

    Returns:
      (params, batch with 'hr' and 'lr' in [0, 1], key, time in [0, 1] or None) → taps [B, H_i, W_i, C_i] float32.
    """

    @jax.jit
    def compute(
        params: Params, frozen: Frozen, batch: Batch, key: jax.Array, time: jax.Array | None
    ) -> tuple[jax.Array, ...]:
        if time is None:
            taps = recipe.updates[0].loss(params, frozen, recipe.init_state(), batch, key, jnp.int32(0)).taps
        else:
            assert recipe.layer_taps is not None
            taps = recipe.layer_taps.compute(params, frozen, batch, key, time)
        return tuple(tap.astype(jnp.float32) for tap in taps)

    frozen = jax.device_put(recipe.frozen)

    def taps(params: Params, batch: Batch, key: jax.Array, time: float | None) -> tuple[jax.Array, ...]:
        if time is not None and recipe.layer_taps is None:
            raise ValueError(f"the recipe {recipe.name!r} has no taps at chosen timesteps")
        return compute(params, frozen, batch, key, None if time is None else jnp.float32(time))

    return taps


def tap_shapes(recipe: Recipe, params: Params, batch: Batch) -> tuple[tuple[int, ...], ...]:
    """Shapes [H_i, W_i, C_i] of a recipe's taps at chosen timesteps, without computing them; () if it has none."""
    if recipe.layer_taps is None:
        return ()
    arguments = (params, recipe.frozen, dict(batch), jax.random.key(0), jnp.float32(0))
    return tuple(tap.shape[1:] for tap in jax.eval_shape(recipe.layer_taps.compute, *arguments))


def mapped_taps(
    program: TapProgram, params: Params, fit: Batch, measure: Batch, key: jax.Array, time: float | None = None
) -> tuple[jax.Array, ...]:
    """A recipe's taps in the teacher's shape.

    If the taps differ in shape (U-Net), each student is resized to the teacher's size and mapped to its channels by a
    ridge regression that is fitted on `fit`. Models with and without FRAMER's heads are thus measured through the best
    linear map, so that a higher similarity is a property of the features.

    Args:
      program: computes the taps, from `tap_program`.
      params: the recipe's parameters.
      fit: prepared batch ('hr', 'lr' in [0, 1]) to fit the linear probes; unused if the taps have equal shapes.
      measure: prepared batch of the same shapes, to measure the taps on.
      key: random key of the noise.
      time: fraction of the process; None: timesteps as in training.

    Returns:
      N + 1 feature maps [B, H, W, C] float32 of `measure`, the teacher last.

    Raises:
      ValueError: there are fewer than two taps, or values that are not finite.
    """
    measured = program(params, measure, jax.random.fold_in(key, 1), time)
    if len(measured) < 2:
        raise ValueError(f"the network has {len(measured)} taps: layer analysis needs at least two")
    if not all(bool(jnp.isfinite(tap).all()) for tap in measured):
        raise ValueError("the network's feature maps have values that are not finite: choose other weights")
    if len({tap.shape[1:] for tap in measured}) == 1:
        return measured
    *fit_students, fit_teacher = _resize_to_last(program(params, fit, jax.random.fold_in(key, 0), time))
    probes = [_fit_probe(np.asarray(tap), np.asarray(fit_teacher)) for tap in fit_students]
    *students, teacher = _resize_to_last(measured)
    mapped = [tap @ weight + bias[None, None, None] for tap, (weight, bias) in zip(students, probes, strict=True)]
    return (*mapped, teacher)


def layer_similarity(
    recipe: Recipe, params: Params, fit: Batch, measure: Batch, key: jax.Array, radius: float = RADIUS
) -> LayerSimilarity:
    """Cosine similarities of a recipe's taps to the last tap, at timesteps and noise drawn as in training.

    Args:
      recipe: the recipe.
      params: see `mapped_taps`.
      fit: see `mapped_taps`.
      measure: see `mapped_taps`.
      key: see `mapped_taps`.
      radius: radius of the low band, as a fraction of the Nyquist frequency.

    Raises:
      ValueError: fewer than two taps.
    """
    low, high = _cosines(mapped_taps(tap_program(recipe), params, fit, measure, key), radius)
    return LayerSimilarity(low.mean(axis=1), high.mean(axis=1))


def layer_analysis(
    program: TapProgram,
    params: Params,
    fit: Batch,
    measure: Batch,
    key: jax.Array,
    time: float | None = None,
    radius: float = RADIUS,
) -> LayerAnalysis:
    """All measurements from one forward pass; arguments as for `mapped_taps` and `layer_similarity`.

    Raises:
      ValueError: fewer than two taps, or a radius that leaves no high band in feature maps of their size.
    """
    taps = mapped_taps(program, params, fit, measure, key, time)
    mask = disc_mask((taps[0].shape[1], taps[0].shape[2]), radius)
    low, high = zip(*(band_similarity_matrices(tap, tap, mask) for tap in taps), strict=True)
    matrices = Bands(_stack(low), _stack(high))
    return LayerAnalysis(_cosines(taps, radius), _factors(taps, radius), _densities(taps, mask), matrices)


def _cosines(taps: tuple[jax.Array, ...], radius: float) -> Bands:
    *students, teacher = taps
    mask = disc_mask((teacher.shape[1], teacher.shape[2]), radius)
    low, high = zip(*(band_cosine(student, teacher, mask) for student in students), strict=True)  # N times [B]
    return Bands(_stack(low), _stack(high))


def _factors(taps: tuple[jax.Array, ...], radius: float) -> LayerFactors:
    """The diagnostics of the FRAMER loss, which do not depend on negatives."""
    without_negatives = jnp.full((len(taps) - 1,), -1, jnp.int32)
    diagnostics = framer_loss(taps, without_negatives, paper(radius=radius, objective="none")).diagnostics

    def bands(name: str) -> Bands:
        return Bands(np.asarray(diagnostics[f"{name}_low"]), np.asarray(diagnostics[f"{name}_high"]))

    return LayerFactors(weight=bands("weight"), alignment=bands("gate"), factor=bands("factor"))


def _densities(taps: tuple[jax.Array, ...], mask: np.ndarray) -> LayerDensities:
    # No coefficient exceeds the sum of the absolute values of its feature map, so the bins cover all of them.
    bound = max(float(jnp.max(jnp.sum(jnp.abs(tap), axis=(1, 2)))) for tap in taps)
    edges = np.linspace(0.0, np.log1p(bound) * 1.001 + 1e-6, BINS + 1, dtype=np.float32)
    low, high = zip(*(log_magnitude_density(tap, mask, edges) for tap in taps), strict=True)
    return LayerDensities(edges, _stack(low), _stack(high))


def _stack(arrays: Sequence[jax.Array]) -> np.ndarray:
    return np.stack([np.asarray(array) for array in arrays])


def _resize_to_last(taps: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
    """Resize all feature maps to the height and width of the last one."""
    size = taps[-1].shape[:3]
    return tuple(
        tap if tap.shape[1:3] == size[1:] else jax.image.resize(tap, (*size, tap.shape[-1]), "linear", antialias=False)
        for tap in taps
    )


def _fit_probe(features: np.ndarray, target: np.ndarray) -> tuple[jax.Array, jax.Array]:
    """Ridge regression from features [B, H, W, C] to target [B, H, W, D] over positions: (weight [C, D], bias [D])."""
    x = features.reshape(-1, features.shape[-1]).astype(np.float64)
    y = target.reshape(-1, target.shape[-1]).astype(np.float64)
    x_mean, y_mean = x.mean(axis=0), y.mean(axis=0)
    covariance = (x - x_mean).T @ (x - x_mean) / len(x)
    penalty = max(RIDGE * np.trace(covariance) / len(covariance), 1e-12)  # constant features have no variance
    weight = np.linalg.solve(covariance + penalty * np.eye(len(covariance)), (x - x_mean).T @ (y - y_mean) / len(x))
    return jnp.asarray(weight, jnp.float32), jnp.asarray(y_mean - x_mean @ weight, jnp.float32)
