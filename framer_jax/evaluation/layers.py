"""How far the layers of a denoiser agree with its last one, band by band (FRAMER, Figs. 3 and 7)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from framer_jax.frequency.bands import band_cosine, disc_mask
from framer_jax.recipes.base import Batch, Params, Recipe

RIDGE = 1e-3
"""Weight of the probes' penalty, relative to the mean variance of the features."""


class LayerSimilarity(NamedTuple):
    """Mean cosine of each student's band to the teacher's, in order of depth.

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


def layer_similarity(
    recipe: Recipe, params: Params, fit: Batch, measure: Batch, key: jax.Array, radius: float = 0.2
) -> LayerSimilarity:
    """Cosines of a recipe's taps to the last tap, at times and noises that the recipe's own loss draws from `key`.

    Where the taps differ in shape (U-Net), each student is first mapped to the teacher's channels by a ridge
    regression that is fitted on `fit` and judged on `measure`, and resized to its size: whether a model was trained
    with FRAMER's heads or without, it is measured through the best linear map, so a rise is a rise of the features.

    Args:
      recipe: gives taps in its first update's loss.
      params: its parameters.
      fit: prepared batch ('hr', 'lr' in [0, 1]) for the probes; unused where the taps agree in shape.
      measure: prepared batch of the same shapes.
      key: of times and noise.
      radius: of the low band, as a fraction of the Nyquist radius.
    """

    @jax.jit
    def taps(params: Params, batch: Batch, key: jax.Array) -> tuple[jax.Array, ...]:
        found = recipe.updates[0].loss(params, recipe.frozen, recipe.init_carry(), batch, key, jnp.int32(0)).taps
        teacher = found[-1]
        resized = [
            tap
            if tap.shape[1:3] == teacher.shape[1:3]
            else jax.image.resize(tap, (*teacher.shape[:3], tap.shape[-1]), "linear", antialias=False)
            for tap in found
        ]
        return tuple(tap.astype(jnp.float32) for tap in resized)

    shapes = {tap.shape[1:] for tap in _tap_shapes(recipe, params, measure)}
    measured = taps(params, measure, jax.random.fold_in(key, 1))
    students, teacher = measured[:-1], measured[-1]
    if len(shapes) > 1:
        fitted = taps(params, fit, jax.random.fold_in(key, 0))
        probes = [_probe(np.asarray(tap), np.asarray(fitted[-1])) for tap in fitted[:-1]]
        students = tuple(
            tap @ weight + bias[None, None, None] for tap, (weight, bias) in zip(students, probes, strict=True)
        )
    mask = disc_mask((teacher.shape[1], teacher.shape[2]), radius)
    cosines = [band_cosine(student, teacher, mask) for student in students]  # pairs of [B]
    return LayerSimilarity(
        low=np.asarray([float(jnp.mean(low)) for low, _ in cosines]),
        high=np.asarray([float(jnp.mean(high)) for _, high in cosines]),
    )


def _tap_shapes(recipe: Recipe, params: Params, batch: Batch) -> tuple[jax.ShapeDtypeStruct, ...]:
    def taps(params: Params, batch: Batch) -> tuple[jax.Array, ...]:
        key = jax.random.key(0)
        return recipe.updates[0].loss(params, recipe.frozen, recipe.init_carry(), batch, key, jnp.int32(0)).taps

    return jax.eval_shape(taps, params, batch)


def _probe(features: np.ndarray, target: np.ndarray) -> tuple[jax.Array, jax.Array]:
    """Ridge regression over positions: [B, H, W, C] → [B, H, W, D] as (weight [C, D], bias [D])."""
    x = features.reshape(-1, features.shape[-1]).astype(np.float64)
    y = target.reshape(-1, target.shape[-1]).astype(np.float64)
    x_mean, y_mean = x.mean(axis=0), y.mean(axis=0)
    covariance = (x - x_mean).T @ (x - x_mean) / len(x)
    penalty = RIDGE * np.trace(covariance) / len(covariance) * np.eye(len(covariance))
    weight = np.linalg.solve(covariance + penalty, (x - x_mean).T @ (y - y_mean) / len(x))
    return jnp.asarray(weight, jnp.float32), jnp.asarray(y_mean - x_mean @ weight, jnp.float32)


def plot_similarity(rows: Mapping[str, LayerSimilarity], path: str | Path, title: str = "") -> None:
    """Write one picture: cosine to the last layer over depth, low band left, high band right, a line a row.

    Raises:
      ImportError: matplotlib is not installed (extra `eval`).
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("plots need matplotlib: pip install 'framer_jax[eval]'") from error
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    for axis, band in zip(axes, ("low", "high"), strict=True):
        for name, similarity in rows.items():
            values = getattr(similarity, band)
            axis.plot(np.arange(1, len(values) + 1), values, marker="o", label=name)
        axis.set_title(f"{band} frequencies")
        axis.set_xlabel("layer (in order of depth)")
        axis.set_xticks(np.arange(1, len(values) + 1))
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("cosine to the last layer")
    axes[1].legend(fontsize="small")
    if title:
        figure.suptitle(title)
    figure.savefig(path, dpi=120)
