"""NIQE, the natural image quality evaluator: the distance of local image statistics from those of clean photographs.

Source: Mittal, Soundararajan, Bovik, "Making a 'completely blind' image quality analyzer", IEEE SPL 2013. The score is
the distance (eq. 10) between two multivariate Gaussians of 36 features per 96x96 block: one of the image, one of
pristine photographs (the model). The maps run in jnp under jit, the 36-vectors in NumPy float64 on the host.

Two variants are in use, whose scores differ in the second decimal:

* `studio` (BasicSR): luma of BT.601 studio range (16..235);
* `full` (pyiqa on a GPU, as in benchmark papers): full-range luma. Its float32 rounding decides on flat areas and on
  half-way luma values, so every rounding step is reproduced, which gives the published digits.

Levels are rounded to 8 bits first, so an array has the score of the file that it would be saved to.
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
      name: name of the file.
      sha256: hash of the file.
    """

    mean: Floats
    covariance: Floats
    name: str
    sha256: str


def load_niqe_model(path: str | Path) -> NiqeModel:
    """Read a pristine model in BasicSR's layout, .npz with `mu_pris_param` [1, 36] and `cov_pris_param` [36, 36].

    Raises:
      FileNotFoundError: no such file.
      ValueError: the file is not a pristine model.
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
    if not (np.isfinite(mean).all() and np.isfinite(covariance).all()):
        raise ValueError(f"{path} is not a NIQE model: it has numbers that are not finite; fit or fetch it again")
    return NiqeModel(mean.reshape(36), covariance, path.name, sha256_of(path))


@lru_cache(maxsize=1)
def shipped_niqe_model() -> NiqeModel:
    """The pristine model of the metric `niqe-framer`, which framer_jax contains; it was fitted by `fit_niqe`."""
    with resources.as_file(resources.files("framer_jax") / "weights" / "niqe_framer.npz") as path:
        return load_niqe_model(path)


def gaussian_window() -> Floats:
    """The window of local means and standard deviations: a Gaussian [7, 7] with sum 1 and standard deviation 7/6."""
    position = np.arange(-3, 4)
    window = np.exp(-(position[:, None] ** 2 + position[None, :] ** 2) / (2 * (7 / 6) ** 2))
    return window / window.sum()


def luma_levels(images: npt.ArrayLike, luma: Luma) -> npt.NDArray[np.float32]:
    """Luma of images [B, H, W, 3] in [0, 1], rounded to integers, [B, H, W] float32; exact, on the host."""
    levels = np.rint(np.clip(np.asarray(images, np.float32), 0.0, 1.0) * np.float32(255.0))
    if luma == "studio":
        plane = levels.astype(np.float64) @ np.array([65.481, 128.553, 24.966]) / 255.0 + 16.0
        return np.rint(plane).astype(np.float32)
    # One value in a thousand lies half-way between two levels. The published scores round it after float32 products
    # with 1/255 and fused multiply-adds in the order R, G, B; float64 represents each product exactly, so it reproduces
    # them.
    scaled = (levels * (np.float32(1.0) / np.float32(255.0))).astype(np.float64)
    weights = np.array([0.299, 0.587, 0.114], np.float32).astype(np.float64)
    total = (scaled[..., 0] * weights[0]).astype(np.float32)
    for channel in (1, 2):
        total = (scaled[..., channel] * weights[channel] + total).astype(np.float32)
    return np.rint(total * np.float32(255.0))


def _normalised(plane: jax.Array, gain: float, single_window: bool) -> tuple[jax.Array, jax.Array]:
    """Mean-subtracted contrast-normalised map (eq. 1-3) of `gain * plane` [B, H, W], and the local standard deviation.

    Sums run over differences to the center pixel, which avoids cancellation in float32 and makes flat areas exactly
    zero. With `single_window` the window is rounded to float32 and its sum differs from one by 1e-8, so that flat areas
    get a definite sign; the published scores depend on that.
    """
    window = gaussian_window()
    excess = 0.0
    if single_window:
        window = window.astype(np.float32).astype(np.float64)
        excess = float(window.sum() - 1.0)
    height, width = plane.shape[1:]
    padded = jnp.pad(plane, ((0, 0), (3, 3), (3, 3)), mode="edge")

    def add_row(sums: tuple[jax.Array, jax.Array], row: tuple[jax.Array, jax.Array]) -> tuple[Any, None]:
        first, second = sums  # first and second moment of the differences
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
    """Split [B, H, W] into [B, blocks, side, side], in column-major order of the blocks."""
    batch, height, width = plane.shape
    grid = plane.reshape(batch, height // side, side, width // side, side)
    return grid.transpose(0, 3, 1, 2, 4).reshape(batch, -1, side, side)


def _row_sums(blocks: jax.Array) -> jax.Array:
    """Row sums [B, blocks, 5 maps, 5 sums, side] of the blocks and of their products with four neighbours."""
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

    Rounding errors decide the sign of flat areas here, so the products are rounded one by one and added in four
    interleaved sums, like a reduction on a GPU. This runs on the host, where no compiler fuses the operations.
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
    """Row sums at both scales and the mean local standard deviation [B, blocks] of integer-valued luma [B, H, W]."""
    single = luma == "full"
    normalised, deviation = _normalised(plane, 1.0, single)
    if half is None:
        half = matlab_bicubic(plane[..., None], scale=0.5)[..., 0]  # exact in flat areas, since the weights are dyadic
    half_normalised, _ = _normalised(half, 255.0 if single else 1.0, single)
    sharpness = _blocks(deviation, BLOCK).mean(axis=(2, 3))
    return _row_sums(_blocks(normalised, BLOCK)), _row_sums(_blocks(half_normalised, BLOCK // 2)), sharpness


@lru_cache(maxsize=1)
def _shape_table() -> tuple[Floats, Floats]:
    """Shape parameters alpha, and the moment ratios (inverse of eq. 5) at which the nearest alpha changes."""
    shapes = np.arange(0.2, 10.001, 0.001)
    ratio = gamma(2 / shapes) ** 2 / (gamma(1 / shapes) * gamma(3 / shapes))
    return shapes, (ratio[1:] + ratio[:-1]) / 2


def _features_from_sums(row_sums: npt.NDArray[np.float32]) -> Floats:
    """Row sums [B, blocks, 5, 5, side] to features [B, blocks, 18] of one scale: fitted asymmetric Gaussians (eq. 4-8).

    A flat block, without negative or without positive values, cannot be fitted; its features are NaN.
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
    single = np.stack([shape[..., 0], (left[..., 0] + right[..., 0]) / 2], axis=-1)
    return np.concatenate([single, pairs.reshape(*pairs.shape[:2], 16)], axis=-1)


def niqe_features(plane: npt.ArrayLike, luma: Luma = "studio") -> tuple[Floats, Floats]:
    """Features of every complete 96x96 block.

    Args:
      plane: [B, H, W] float32 luma, integers in 0..255 (`luma_levels`); rows and columns that do not fill a block are
        ignored.
      luma: the variant, see the module's docstring.

    Returns:
      features [B, blocks, 36] float64 (18 at full and 18 at half size; NaN if a block is flat), in column-major order
      of the blocks; and the sharpness [B, blocks] of each block, its mean local standard deviation.

    Raises:
      ValueError: the image contains no complete block.
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
    """Distance (eq. 10) between the Gaussian of features [blocks, 36] and the model's, without flat (NaN) blocks.

    Raises:
      ValueError: fewer than two blocks are not flat, so that the covariance is undefined.
    """
    valid = features[~np.isnan(features).any(axis=1)]
    if len(valid) < 2:
        raise ValueError(
            f"NIQE needs at least two blocks of {BLOCK}x{BLOCK} pixels that are not flat; this image has {len(valid)}"
        )
    # As in the reference implementations, the mean includes partly undefined blocks; the covariance does not.
    difference = model.mean - np.nanmean(features, axis=0)
    covariance = (model.covariance + np.cov(valid, rowvar=False)) / 2
    try:
        inverse = np.linalg.pinv(covariance)
    except np.linalg.LinAlgError as error:
        raise ValueError(
            f"the covariance of NIQE's features cannot be inverted ({error}): the image, or the NIQE model "
            f"{model.name}, has values that are not finite"
        ) from error
    return float(np.sqrt(difference @ inverse @ difference))


def niqe(images: npt.ArrayLike, model: NiqeModel, crop_border: int = 0, luma: Luma = "studio") -> Floats:
    """NIQE of images; lower is better, clean photographs score about 3.

    Args:
      images: [B, H, W, 3] in [0, 1].
      model: the pristine model, see `load_niqe_model` and `shipped_niqe_model`.
      crop_border: pixels ignored on every side.
      luma: the variant, see the module's docstring.

    Returns:
      [B] float64.

    Raises:
      ValueError: an image contains fewer than two 96x96 blocks that are not flat.
    """
    height, width = np.shape(images)[1:3]
    inner = np.asarray(images)[:, crop_border : height - crop_border, crop_border : width - crop_border]
    features, _ = niqe_features(luma_levels(inner, luma), luma)
    if luma == "full":  # the published scores use the model in float32
        mean, covariance = (array.astype(np.float32).astype(np.float64) for array in (model.mean, model.covariance))
        model = model._replace(mean=mean, covariance=covariance)
    return np.array([gaussian_distance(entry, model) for entry in features])
