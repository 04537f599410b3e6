"""How a denoiser's layers relate to its last one, band by band: FRAMER's Figs. 2, 3, 5, 7 and 9, measured and drawn.

"FRAMER: Frequency-Aligned Self-Distillation with Adaptive Modulation" (CVPR 2026, arXiv 2512.01390). Everything is
measured on one pass of a recipe's taps, with the disc bands of the variant 'paper'.
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
"""Weight of the probes' penalty, relative to the mean variance of the features."""

BINS = 64
"""Of the magnitude densities."""


class LayerSimilarity(NamedTuple):
    """Mean cosine of each student's band to the teacher's, in order of depth (Figs. 3 and 7).

    Attributes:
      low: [N] low band.
      high: [N] high band.
    """

    low: np.ndarray
    high: np.ndarray

    @property
    def middle_high(self) -> float:
        """Mean high-band cosine of the students between the first and the last one."""
        inner = self.high[1:-1] if len(self.high) > 2 else self.high
        return float(np.mean(inner))


class Bands(NamedTuple):
    """One array for each band."""

    low: np.ndarray
    high: np.ndarray


class LayerFactors(NamedTuple):
    """What the FRAMER term multiplies each student's losses by (Fig. 9), means over the images, in order of depth.

    Attributes:
      weight: FAW's w (Eq. 3-5), [N] in (0, 1] for each band.
      alignment: FAM's a (Eq. 6, 7), [N] in [0, 1].
      factor: w a, [N]; the mean of products.
    """

    weight: Bands
    alignment: Bands
    factor: Bands


class LayerDensities(NamedTuple):
    """Densities of log(1 + |S|) in each layer's bands (Fig. 2), the teacher last.

    Attributes:
      edges: [K + 1] bin edges, the same for all layers.
      low: [N + 1, K], fraction of the band's coefficients per unit of log(1 + |S|).
      high: [N + 1, K].
    """

    edges: np.ndarray
    low: np.ndarray
    high: np.ndarray


class LayerAnalysis(NamedTuple):
    """All that is measured of N students and their teacher.

    Attributes:
      similarity: cosines to the teacher.
      factors: FAW's and FAM's factors.
      densities: of the magnitudes.
      matrices: cosines between the images of a batch within each layer (Fig. 5), [N + 1, B, B], the teacher last.
    """

    similarity: LayerSimilarity
    factors: LayerFactors
    densities: LayerDensities
    matrices: Bands


def mapped_taps(recipe: Recipe, params: Params, fit: Batch, measure: Batch, key: jax.Array) -> tuple[jax.Array, ...]:
    """A recipe's taps in the teacher's shape, at times and noises that the recipe's own loss draws from `key`.

    Where the taps differ in shape (U-Net), each student is first mapped to the teacher's channels by a ridge
    regression that is fitted on `fit`, and resized to its size: whether a model was trained with FRAMER's heads or
    without, it is measured through the best linear map, so a rise is a rise of the features.

    Args:
      recipe: gives taps in its first update's loss.
      params: its parameters.
      fit: prepared batch ('hr', 'lr' in [0, 1]) for the probes; unused where the taps agree in shape.
      measure: prepared batch of the same shapes.
      key: of times and noise.

    Returns:
      N + 1 maps [B, H, W, C] float32 of `measure`, the teacher last.

    Raises:
      ValueError: a recipe with fewer than two taps.
    """

    @jax.jit
    def taps(params: Params, frozen: Frozen, batch: Batch, key: jax.Array) -> tuple[jax.Array, ...]:
        found = recipe.updates[0].loss(params, frozen, recipe.init_state(), batch, key, jnp.int32(0)).taps
        return tuple(tap.astype(jnp.float32) for tap in found)

    measured = taps(params, recipe.frozen, measure, jax.random.fold_in(key, 1))
    if len(measured) < 2:
        raise ValueError(f"recipe {recipe.name!r} gives {len(measured)} taps: layers are compared from two on")
    if len({tap.shape[1:] for tap in measured}) == 1:
        return measured
    fitted = _resized(taps(params, recipe.frozen, fit, jax.random.fold_in(key, 0)))
    probes = [_probe(np.asarray(tap), np.asarray(fitted[-1])) for tap in fitted[:-1]]
    *students, teacher = _resized(measured)
    mapped = [tap @ weight + bias[None, None, None] for tap, (weight, bias) in zip(students, probes, strict=True)]
    return (*mapped, teacher)


def layer_similarity(
    recipe: Recipe, params: Params, fit: Batch, measure: Batch, key: jax.Array, radius: float = 0.2
) -> LayerSimilarity:
    """Cosines of a recipe's taps to the last tap.

    Args:
      recipe: see `mapped_taps`.
      params: the same.
      fit: the same.
      measure: the same.
      key: the same.
      radius: of the low band, as a fraction of the Nyquist radius.
    """
    return _similarity(mapped_taps(recipe, params, fit, measure, key), radius)


def layer_analysis(
    recipe: Recipe, params: Params, fit: Batch, measure: Batch, key: jax.Array, radius: float = 0.2
) -> LayerAnalysis:
    """Everything at once, from one pass; arguments as for `layer_similarity`.

    Raises:
      ValueError: fewer than two taps, or a radius that leaves maps of their size no high band.
    """
    taps = mapped_taps(recipe, params, fit, measure, key)
    mask = disc_mask((taps[0].shape[1], taps[0].shape[2]), radius)
    low, high = zip(*(band_similarity_matrices(tap, tap, mask) for tap in taps), strict=True)
    return LayerAnalysis(
        _similarity(taps, radius), _factors(taps, radius), _densities(taps, mask), Bands(_stacked(low), _stacked(high))
    )


def _similarity(taps: tuple[jax.Array, ...], radius: float) -> LayerSimilarity:
    *students, teacher = taps
    mask = disc_mask((teacher.shape[1], teacher.shape[2]), radius)
    low, high = zip(*(band_cosine(student, teacher, mask) for student in students), strict=True)  # N times [B]
    return LayerSimilarity(low=_stacked(low).mean(axis=1), high=_stacked(high).mean(axis=1))


def _factors(taps: tuple[jax.Array, ...], radius: float) -> LayerFactors:
    """The loss's own diagnostics; negatives play no part in them."""
    without_negatives = jnp.full((len(taps) - 1,), -1, jnp.int32)
    diagnostics = framer_loss(taps, without_negatives, paper(radius=radius, objective="none")).diagnostics

    def bands(name: str) -> Bands:
        return Bands(np.asarray(diagnostics[f"{name}_low"]), np.asarray(diagnostics[f"{name}_high"]))

    return LayerFactors(weight=bands("weight"), alignment=bands("gate"), factor=bands("factor"))


def _densities(taps: tuple[jax.Array, ...], mask: np.ndarray) -> LayerDensities:
    # No coefficient exceeds the sum of its map's absolute values, so none falls outside.
    largest = max(float(jnp.max(jnp.sum(jnp.abs(tap), axis=(1, 2)))) for tap in taps)
    edges = np.linspace(0.0, np.log1p(largest) * 1.001 + 1e-6, BINS + 1, dtype=np.float32)
    low, high = zip(*(log_magnitude_density(tap, mask, edges) for tap in taps), strict=True)
    return LayerDensities(edges, _stacked(low), _stacked(high))


def _stacked(arrays: Sequence[jax.Array]) -> np.ndarray:
    return np.stack([np.asarray(array) for array in arrays])


def _resized(taps: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
    """Every map in the last one's height and width."""
    size = taps[-1].shape[:3]
    return tuple(
        tap if tap.shape[1:3] == size[1:] else jax.image.resize(tap, (*size, tap.shape[-1]), "linear", antialias=False)
        for tap in taps
    )


def _probe(features: np.ndarray, target: np.ndarray) -> tuple[jax.Array, jax.Array]:
    """Ridge regression over positions: [B, H, W, C] → [B, H, W, D] as (weight [C, D], bias [D])."""
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
        raise ImportError("plots need matplotlib: pip install 'framer_jax[eval]'") from error
    figure = Figure(figsize=(width, height), layout="constrained")
    if title:
        figure.suptitle(title)
    return figure


def _over_depth(axis: Any, lines: Mapping[str, np.ndarray], title: str) -> None:
    """One line a name, each [N], over the layers in order of depth."""
    for name, values in lines.items():
        axis.plot(np.arange(1, len(values) + 1), values, marker="o", label=name)
    axis.set_title(title)
    axis.set_xlabel("layer (in order of depth)")
    axis.set_xticks(np.arange(1, max(map(len, lines.values())) + 1))
    axis.grid(alpha=0.3)


def plot_similarity(rows: Mapping[str, LayerSimilarity], path: str | Path, title: str = "") -> None:
    """Write one picture: cosine to the last layer over depth, low band left, high band right, a line a row.

    Raises:
      ImportError: matplotlib is not installed (extra `eval`).
    """
    figure = _figure(9, 3.6, title)
    axes = figure.subplots(1, 2, sharey=True)
    for axis, band in zip(axes, Bands._fields, strict=True):
        _over_depth(axis, {name: getattr(row, band) for name, row in rows.items()}, f"{band} frequencies")
    axes[0].set_ylabel("cosine to the last layer")
    axes[1].legend(fontsize="small")
    figure.savefig(path, dpi=120)


def plot_factors(factors: LayerFactors, path: str | Path, title: str = "") -> None:
    """Write one picture: w, a and w a over depth (Fig. 9), a line a band; ImportError as for `plot_similarity`."""
    figure = _figure(12, 3.6, title)
    axes = figure.subplots(1, 3, sharey=True)
    names = {"weight": "w (FAW)", "alignment": "a (FAM)", "factor": "w a"}
    for axis, (field, name) in zip(axes, names.items(), strict=True):
        _over_depth(axis, getattr(factors, field)._asdict(), name)
    axes[0].set_ylim(-0.02, 1.02)
    axes[-1].legend(fontsize="small")
    figure.savefig(path, dpi=120)


def plot_densities(densities: LayerDensities, path: str | Path, title: str = "") -> None:
    """Write one picture: densities of log(1 + |S|) (Fig. 2), a panel a band and a line a layer, the teacher black.

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
    """Write one picture: cosines between images (Fig. 5), a row a band and a column a layer, the teacher last.

    Raises:
      ImportError: matplotlib is not installed (extra `eval`).
    """
    count = len(matrices.low)
    figure = _figure(1.5 * count + 2, 4, title)
    axes = figure.subplots(2, count, squeeze=False)
    for row, (band, layers) in zip(axes, matrices._asdict().items(), strict=True):
        for layer, (axis, matrix) in enumerate(zip(row, layers, strict=True)):
            shown = axis.imshow(matrix, vmin=-1, vmax=1, cmap="RdBu_r")
            axis.set(xticks=[], yticks=[], title="last" if layer == count - 1 else str(layer + 1))
        row[0].set_ylabel(f"{band} frequencies")
    figure.colorbar(shown, ax=axes, label="cosine between images")
    figure.savefig(path, dpi=120)
