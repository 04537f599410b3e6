"""NIQE, the natural image quality evaluator: how far an image's local statistics are from those of clean photographs.

Source: Mittal, Soundararajan, Bovik, "Making a 'completely blind' image quality analyzer", IEEE SPL 2013. The score is
the distance (eq. 10) between two multivariate Gaussians of 36 features per 96x96 block: one of the image, one of
pristine photographs (the model). The maps run in jnp under jit, the 36-vectors in NumPy float64 on the host.

Two readings of the paper are in use and differ in the second decimal:

* `studio` (BasicSR): luma of BT.601 studio range (16..235);
* `full` (pyiqa as benchmark papers ran it, on a GPU): full-range luma. Its float32 steps decide what flat areas and
  half-way luma values count as, so they are followed step by step: this is what reproduces published digits.

Levels are rounded to 8 bits first: an array scores as the file that it would be saved to.
"""

from __future__ import annotations

from functools import lru_cache, partial
from importlib import resources
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
from scipy.special import gamma

from framer_jax.degradations.matlab_bicubic import bicubic_matrix, matlab_bicubic
from framer_jax.porting.files import sha256_of

BLOCK = 96
"""Side of a block in pixels; 48 at the second scale."""

Luma = Literal["studio", "full"]
Floats = npt.NDArray[np.float64]

_SHIFTS = ((0, 1), (1, 0), (1, 1), (1, -1))
_KEYS = ("mu_pris_param", "cov_pris_param")


class NiqeModel(NamedTuple):
    """The Gaussian of pristine photographs.

    Attributes:
      mean: [36] float64.
      covariance: [36, 36] float64.
      name: file name, for reports.
      sha256: hash of the file, for reports.
    """

    mean: Floats
    covariance: Floats
    name: str
    sha256: str


def load_niqe_model(path: str | Path) -> NiqeModel:
    """Read a pristine model: an .npz with `mu_pris_param` [1, 36] and `cov_pris_param` [36, 36] (BasicSR's layout).

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: it is not such a model.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no NIQE model at {path}; make one from clean photos with: framer-jax fit-niqe")
    try:
        with np.load(path, allow_pickle=False) as archive:
            mean, covariance = (np.asarray(archive[key], np.float64) for key in _KEYS)
    except (KeyError, ValueError, OSError, EOFError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is not a NIQE model: it needs the arrays {' and '.join(_KEYS)}") from error
    if mean.size != 36 or covariance.shape != (36, 36):
        raise ValueError(f"{path} is not a NIQE model: shapes {mean.shape} and {covariance.shape} are not 36, (36, 36)")
    return NiqeModel(mean.reshape(36), covariance, path.name, sha256_of(path))


@lru_cache(maxsize=1)
def shipped_niqe_model() -> NiqeModel:
    """The pristine model that comes with framer_jax, fitted by `fit_niqe`; the metric `niqe-framer` uses it."""
    with resources.as_file(resources.files("framer_jax") / "weights" / "niqe_framer.npz") as path:
        return load_niqe_model(path)


def gaussian_window() -> Floats:
    """The window of local means and deviations, [7, 7] with sum 1: a Gaussian of standard deviation 7/6."""
    position = np.arange(-3, 4)
    window = np.exp(-(position[:, None] ** 2 + position[None, :] ** 2) / (2 * (7 / 6) ** 2))
    return window / window.sum()


def luma_levels(images: npt.ArrayLike, luma: Luma) -> npt.NDArray[np.float32]:
    """Rounded luma, [B, H, W] float32 of whole numbers, of images [B, H, W, 3] in [0, 1]; on the host, exact."""
    levels = np.rint(np.clip(np.asarray(images, np.float32), 0.0, 1.0) * np.float32(255.0))
    if luma == "studio":
        plane = levels.astype(np.float64) @ np.array([65.481, 128.553, 24.966]) / 255.0 + 16.0
        return np.rint(plane).astype(np.float32)
    # One value in a thousand lies half-way between two levels. The published side of it comes from float32 products
    # with 1/255 and fused multiply-adds in the order R, G, B; float64 holds each product exactly, so it can follow.
    scaled = (levels * (np.float32(1.0) / np.float32(255.0))).astype(np.float64)
    weights = np.array([0.299, 0.587, 0.114], np.float32).astype(np.float64)
    total = (scaled[..., 0] * weights[0]).astype(np.float32)
    for channel in (1, 2):
        total = (scaled[..., channel] * weights[channel] + total).astype(np.float32)
    return np.rint(total * np.float32(255.0))


def _normalised(plane: jax.Array, gain: float, single_window: bool) -> tuple[jax.Array, jax.Array]:
    """Mean-subtracted contrast-normalised map (eq. 1-3) of `gain * plane` [B, H, W], and the local deviation.

    Sums run over differences to the centre pixel, so that float32 loses nothing to cancellation and a flat area is
    exactly zero. With `single_window` the window is rounded to float32 and its sum is off one by 1e-8, which puts flat
    areas on one side of zero; that is part of the published scores.
    """
    window = gaussian_window()
    excess = 0.0
    if single_window:
        window = window.astype(np.float32).astype(np.float64)
        excess = float(window.sum() - 1.0)
    height, width = plane.shape[1:]
    padded = jnp.pad(plane, ((0, 0), (3, 3), (3, 3)), mode="edge")

    def add_row(sums: tuple[jax.Array, jax.Array], row: tuple[jax.Array, jax.Array]) -> tuple[Any, None]:
        first, second = sums
        offset, weights = row
        strip = jax.lax.dynamic_slice_in_dim(padded, offset, height, axis=1)  # [B, H, W + 6]
        for column in range(7):
            difference = strip[:, :, column : column + width] - plane
            first = first + weights[column] * difference
            second = second + weights[column] * difference * difference
        return (first, second), None

    zero = jnp.zeros_like(plane)
    rows = (jnp.arange(7), jnp.asarray(window, jnp.float32))
    (first, second), _ = jax.lax.scan(add_row, (zero, zero), rows)
    first, second, level = gain * first, gain * gain * second, gain * plane
    variance = second - first * first - excess * level * level - 2.0 * excess * level * first
    deviation = jnp.sqrt(jnp.abs(variance))
    return -(first + excess * level) / (deviation + 1.0), deviation


def _blocks(plane: jax.Array, side: int) -> jax.Array:
    """[B, H, W] to [B, blocks, side, side], down the first column of blocks, then the next."""
    batch, height, width = plane.shape
    grid = plane.reshape(batch, height // side, side, width // side, side)
    return grid.transpose(0, 3, 1, 2, 4).reshape(batch, -1, side, side)


def _row_sums(blocks: jax.Array) -> jax.Array:
    """Sums over rows [B, blocks, 5 maps, 5 sums, side] of the blocks and of their products with four neighbours."""
    products = [blocks * jnp.roll(blocks, shift, axis=(2, 3)) for shift in _SHIFTS]
    maps = jnp.stack([blocks, *products], axis=2)  # [B, blocks, 5, side, side]
    negative, positive = maps < 0, maps > 0
    square = maps * maps
    zero = jnp.zeros_like(maps)
    sums = (
        jnp.where(negative, square, zero),
        jnp.where(positive, square, zero),
        negative.astype(jnp.float32),
        positive.astype(jnp.float32),
        jnp.abs(maps),
    )
    return jnp.stack([entry.sum(axis=-1) for entry in sums], axis=3)


def _half_size_single(plane: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Half-size luma in [0, 1] with the float32 rounding of the published scores: [B, H, W] to [B, H/2, W/2].

    Rounding noise decides the sign of flat areas here, so the products are rounded one by one and added in four
    interleaved sums, as a GPU's reduction does. On the host, where no compiler fuses them.
    """
    weights = bicubic_matrix(64, 32, 0.5)[16, 28:38]  # ten taps, the outer two zero
    half = (plane.astype(np.float64) / 255.0).astype(np.float32)
    for axis in (1, 2):
        half = np.moveaxis(half, axis, 0)
        size = half.shape[0]
        padded = np.pad(half, ((4, 5), (0, 0), (0, 0)), mode="symmetric")
        taps = [padded[start : start + size : 2] * weight for start, weight in enumerate(weights)]
        first, second, third, fourth = (taps[index] + taps[index + 4] for index in range(4))
        half = np.moveaxis((((first + taps[8]) + (second + taps[9])) + third) + fourth, 0, axis)
    return half


@partial(jax.jit, static_argnames="luma")
def _block_sums(plane: jax.Array, half: jax.Array | None, luma: Luma) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Row sums at both scales and the mean local deviation [B, blocks] of whole-number luma [B, H, W]."""
    single = luma == "full"
    normalised, deviation = _normalised(plane, 1.0, single)
    if half is None:
        half = matlab_bicubic(plane[..., None], scale=0.5)[..., 0]  # exact in flat areas: the weights are dyadic
    half_normalised, _ = _normalised(half, 255.0 if single else 1.0, single)
    sharpness = _blocks(deviation, BLOCK).mean(axis=(2, 3))
    return _row_sums(_blocks(normalised, BLOCK)), _row_sums(_blocks(half_normalised, BLOCK // 2)), sharpness


@lru_cache(maxsize=1)
def _shape_table() -> tuple[Floats, Floats]:
    """Shapes alpha and, between neighbours, the moment ratios (eq. 5's inverse) at which the nearest one changes."""
    shapes = np.arange(0.2, 10.001, 0.001)
    ratio = gamma(2 / shapes) ** 2 / (gamma(1 / shapes) * gamma(3 / shapes))
    return shapes, (ratio[1:] + ratio[:-1]) / 2


def _features_from_sums(row_sums: npt.NDArray[np.float32]) -> Floats:
    """[B, blocks, 5, 5, side] to the 18 features [B, blocks, 18] of one scale: fitted asymmetric Gaussians (eq. 4-8).

    A block without negative or without positive values (a flat one) has no fit: its features are NaN.
    """
    side = row_sums.shape[-1]
    sums = row_sums.astype(np.float64).sum(axis=-1)
    left_square, right_square, left_count, right_count, absolute = np.moveaxis(sums, -1, 0)  # each [B, blocks, 5]
    shapes, boundaries = _shape_table()
    with np.errstate(divide="ignore", invalid="ignore"):
        left, right = np.sqrt(left_square / left_count), np.sqrt(right_square / right_count)
        balance = left / right
        ratio = (absolute / side**2) ** 2 / ((left_square + right_square) / side**2)
        ratio = ratio * (balance**3 + 1) * (balance + 1) / (balance**2 + 1) ** 2
        shape = shapes[np.searchsorted(boundaries, ratio)]
        shape = np.where(np.isfinite(ratio), shape, np.nan)
        factor = np.sqrt(gamma(1 / shape) / gamma(3 / shape))
        left, right = left * factor, right * factor
        mean = (right - left) * gamma(2 / shape) / gamma(1 / shape)
    pairs = np.stack([shape, mean, left, right], axis=-1)[..., 1:, :]  # [B, blocks, 4, 4]
    own = np.stack([shape[..., 0], (left[..., 0] + right[..., 0]) / 2], axis=-1)
    return np.concatenate([own, pairs.reshape(*pairs.shape[:2], 16)], axis=-1)


def niqe_features(plane: npt.ArrayLike, luma: Luma = "studio") -> tuple[Floats, Floats]:
    """Features of every whole 96x96 block.

    Args:
      plane: [B, H, W] float32 luma in whole numbers of 0..255 (`luma_levels`); rows and columns that do not fill a
        block are left out.
      luma: the reading, see the module's docstring.

    Returns:
      features [B, blocks, 36] float64 (18 at full and 18 at half size; NaN where a block is flat), blocks down the
      first column, then the next; and each block's sharpness [B, blocks], its mean local deviation.

    Raises:
      ValueError: the image holds no whole block.
    """
    plane = np.asarray(plane, np.float32)
    height, width = (size // BLOCK * BLOCK for size in plane.shape[1:])
    if height == 0 or width == 0:
        raise ValueError(f"NIQE needs images of at least {BLOCK}x{BLOCK} pixels; got {plane.shape[1]}x{plane.shape[2]}")
    plane = plane[:, :height, :width]
    half = _half_size_single(plane) if luma == "full" else None
    sums, half_sums, sharpness = jax.device_get(_block_sums(plane, half, luma))
    features = np.concatenate([_features_from_sums(sums), _features_from_sums(half_sums)], axis=-1)
    return features, sharpness.astype(np.float64)


def gaussian_distance(features: Floats, model: NiqeModel) -> float:
    """Distance (eq. 10) between the Gaussian of features [blocks, 36] and the model's; flat (NaN) blocks left out.

    Raises:
      ValueError: fewer than two blocks are left, so that there is no covariance.
    """
    whole = features[~np.isnan(features).any(axis=1)]
    if len(whole) < 2:
        raise ValueError(
            f"NIQE needs at least two blocks of {BLOCK}x{BLOCK} pixels that are not flat; this image has {len(whole)}"
        )
    # As in the references, the mean keeps the numbers of partly undefined blocks; the covariance does not.
    difference = model.mean - np.nanmean(features, axis=0)
    covariance = (model.covariance + np.cov(whole, rowvar=False)) / 2
    return float(np.sqrt(difference @ np.linalg.pinv(covariance) @ difference))


def niqe(images: npt.ArrayLike, model: NiqeModel, crop_border: int = 0, luma: Luma = "studio") -> Floats:
    """NIQE of images; lower is better, clean photographs score about 3.

    Args:
      images: [B, H, W, 3] in [0, 1].
      model: of pristine photographs, see `load_niqe_model` and `shipped_niqe_model`.
      crop_border: pixels left out on every side.
      luma: which reading of the paper, see the module's docstring.

    Returns:
      [B] float64.

    Raises:
      ValueError: an image holds fewer than two 96x96 blocks that are not flat.
    """
    height, width = np.shape(images)[1:3]
    inner = np.asarray(images)[:, crop_border : height - crop_border, crop_border : width - crop_border]
    features, _ = niqe_features(luma_levels(inner, luma), luma)
    if luma == "full":  # the published scores read the model in float32
        mean, covariance = (array.astype(np.float32).astype(np.float64) for array in (model.mean, model.covariance))
        model = model._replace(mean=mean, covariance=covariance)
    return np.array([gaussian_distance(entry, model) for entry in features])
