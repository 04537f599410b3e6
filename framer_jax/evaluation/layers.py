"""Layer analysis: how the layers of a denoiser relate to its last one in each frequency band.

It measures and plots Figs. 2, 3, 5, 7 and 9 of "FRAMER: Frequency-Aligned Self-Distillation with Adaptive Modulation"
(CVPR 2026, arXiv 2512.01390), from the taps of one forward pass, with the disc bands of FRAMER's `paper` variant.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

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
      similarity: cosine similarities to the teacher.
      factors: factors of FAW and FAM.
      densities: densities of the magnitudes.
      matrices: cosines between the images of a batch within each layer (Fig. 5), [N + 1, B, B], the teacher last.
    """

    similarity: LayerSimilarity
    factors: LayerFactors
    densities: LayerDensities
    matrices: Bands


def mapped_taps(recipe: Recipe, params: Params, fit: Batch, measure: Batch, key: jax.Array) -> tuple[jax.Array, ...]:
    """The taps of a recipe in the teacher's shape, at timesteps and noise that the recipe's loss draws from `key`.

    If the taps differ in shape (U-Net), each student is resized to the teacher's size and mapped to its channels by a
    ridge regression that is fitted on `fit`. Models with and without FRAMER's heads are thus measured through the best
    linear map, so that a higher similarity is a property of the features.

    Args:
      recipe: the recipe; the loss of its first update returns the taps.
      params: its parameters.
      fit: prepared batch ('hr', 'lr' in [0, 1]) to fit the linear probes; unused if the taps have equal shapes.
      measure: prepared batch of the same shapes, to measure the taps on.
      key: random key of timesteps and noise.

    Returns:
      N + 1 feature maps [B, H, W, C] float32 of `measure`, the teacher last.

    Raises:
      ValueError: the recipe has fewer than two taps.
    """

    @jax.jit
    def taps(params: Params, frozen: Frozen, batch: Batch, key: jax.Array) -> tuple[jax.Array, ...]:
        loss = recipe.updates[0].loss(params, frozen, recipe.init_state(), batch, key, jnp.int32(0))
        return tuple(tap.astype(jnp.float32) for tap in loss.taps)

    measured = taps(params, recipe.frozen, measure, jax.random.fold_in(key, 1))
    if len(measured) < 2:
        raise ValueError(f"the recipe {recipe.name!r} gives {len(measured)} taps: layer analysis needs at least two")
    if len({tap.shape[1:] for tap in measured}) == 1:
        return measured
    *fit_students, fit_teacher = _resize_to_last(taps(params, recipe.frozen, fit, jax.random.fold_in(key, 0)))
    probes = [_fit_probe(np.asarray(tap), np.asarray(fit_teacher)) for tap in fit_students]
    *students, teacher = _resize_to_last(measured)
    mapped = [tap @ weight + bias[None, None, None] for tap, (weight, bias) in zip(students, probes, strict=True)]
    return (*mapped, teacher)


def layer_similarity(
    recipe: Recipe, params: Params, fit: Batch, measure: Batch, key: jax.Array, radius: float = 0.2
) -> LayerSimilarity:
    """Cosine similarities of a recipe's taps to the last tap.

    Args:
      recipe: see `mapped_taps`.
      params: see `mapped_taps`.
      fit: see `mapped_taps`.
      measure: see `mapped_taps`.
      key: see `mapped_taps`.
      radius: radius of the low band, as a fraction of the Nyquist frequency.
    """
    return _similarity(mapped_taps(recipe, params, fit, measure, key), radius)


def layer_analysis(
    recipe: Recipe, params: Params, fit: Batch, measure: Batch, key: jax.Array, radius: float = 0.2
) -> LayerAnalysis:
    """All measurements from one forward pass; arguments as for `layer_similarity`.

    Raises:
      ValueError: fewer than two taps, or a radius that leaves no high band in feature maps of their size.
    """
    taps = mapped_taps(recipe, params, fit, measure, key)
    mask = disc_mask((taps[0].shape[1], taps[0].shape[2]), radius)
    low, high = zip(*(band_similarity_matrices(tap, tap, mask) for tap in taps), strict=True)
    return LayerAnalysis(
        _similarity(taps, radius), _factors(taps, radius), _densities(taps, mask), Bands(_stack(low), _stack(high))
    )


def _similarity(taps: tuple[jax.Array, ...], radius: float) -> LayerSimilarity:
    *students, teacher = taps
    mask = disc_mask((teacher.shape[1], teacher.shape[2]), radius)
    low, high = zip(*(band_cosine(student, teacher, mask) for student in students), strict=True)  # N times [B]
    return LayerSimilarity(low=_stack(low).mean(axis=1), high=_stack(high).mean(axis=1))


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


def _figure(width: float, height: float, title: str) -> Any:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("plots need matplotlib: pip install matplotlib") from error
    figure = Figure(figsize=(width, height), layout="constrained")
    if title:
        figure.suptitle(title)
    return figure


def _plot_over_depth(axis: Any, lines: Mapping[str, np.ndarray], title: str) -> None:
    """Plot one labelled line [N] per entry over the layers in order of depth."""
    for name, values in lines.items():
        axis.plot(np.arange(1, len(values) + 1), values, marker="o", label=name)
    axis.set_title(title)
    axis.set_xlabel("layer (in order of depth)")
    axis.set_xticks(np.arange(1, max(map(len, lines.values())) + 1))
    axis.grid(alpha=0.3)


def plot_similarity(rows: Mapping[str, LayerSimilarity], path: str | Path, title: str = "") -> None:
    """Plot the cosine to the last layer over depth, with one panel per band and one line per entry of `rows`.

    Raises:
      ImportError: matplotlib is not installed (extra `eval`).
    """
    figure = _figure(9, 3.6, title)
    axes = figure.subplots(1, 2, sharey=True)
    for axis, band in zip(axes, Bands._fields, strict=True):
        _plot_over_depth(axis, {name: getattr(row, band) for name, row in rows.items()}, f"{band} frequencies")
    axes[0].set_ylabel("cosine to the last layer")
    axes[1].legend(fontsize="small")
    figure.savefig(path, dpi=120)


def plot_factors(factors: LayerFactors, path: str | Path, title: str = "") -> None:
    """Plot w, a and w a over depth (Fig. 9) with one line per band.

    Raises:
      ImportError: matplotlib is not installed (extra `eval`).
    """
    figure = _figure(12, 3.6, title)
    axes = figure.subplots(1, 3, sharey=True)
    names = {"weight": "w (FAW)", "alignment": "a (FAM)", "factor": "w a"}
    for axis, (field, name) in zip(axes, names.items(), strict=True):
        _plot_over_depth(axis, getattr(factors, field)._asdict(), name)
    axes[0].set_ylim(-0.02, 1.02)
    axes[-1].legend(fontsize="small")
    figure.savefig(path, dpi=120)


def plot_densities(densities: LayerDensities, path: str | Path, title: str = "") -> None:
    """Plot densities of log(1 + |S|) (Fig. 2), with one panel per band and one line per layer; the teacher is black.

    Raises:
      ImportError: matplotlib is not installed (extra `eval`).
    """
    figure = _figure(9, 3.6, title)
    axes = figure.subplots(1, 2)
    for axis, band in zip(axes, Bands._fields, strict=True):
        *students, teacher = getattr(densities, band)
        for layer, values in enumerate(students):
            shade = str(0.85 - 0.6 * layer / len(students))  # greys, darker with depth
            axis.stairs(values, densities.edges, color=shade, label=f"layer {layer + 1}")
        axis.stairs(teacher, densities.edges, color="black", linewidth=2, label="last layer")
        axis.set_title(f"{band} frequencies")
        axis.set_xlabel("log(1 + |S|)")
    axes[0].set_ylabel("density")
    axes[1].legend(fontsize="x-small", ncols=1 + len(densities.low) // 12)
    figure.savefig(path, dpi=120)


def plot_matrices(matrices: Bands, path: str | Path, title: str = "") -> None:
    """Plot cosines between images (Fig. 5), with one row per band and one column per layer, the teacher last.

    Raises:
      ImportError: matplotlib is not installed (extra `eval`).
    """
    count = len(matrices.low)
    figure = _figure(1.5 * count + 2, 4, title)
    axes = figure.subplots(2, count, squeeze=False)
    for row, (band, layers) in zip(axes, matrices._asdict().items(), strict=True):
        for layer, (axis, matrix) in enumerate(zip(row, layers, strict=True)):
            image = axis.imshow(matrix, vmin=-1, vmax=1, cmap="RdBu_r")
            axis.set(xticks=[], yticks=[], title="last" if layer == count - 1 else str(layer + 1))
        row[0].set_ylabel(f"{band} frequencies")
    figure.colorbar(image, ax=axes, label="cosine between images")
    figure.savefig(path, dpi=120)
