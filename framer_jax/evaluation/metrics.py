"""Image quality metrics, each with an id that names its variant, collected in the table `METRICS`.

Published numbers are only comparable within one variant (color space, rounding, weights), so there is no default
variant of a metric such as `psnr`: `score` and the command line refuse unknown ids and list the known ones.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

from framer_jax.evaluation.niqe import BLOCK, Luma, NiqeModel, niqe, shipped_niqe_model
from framer_jax.evaluation.perceptual import (
    PerceptualNetwork,
    installed_network,
    is_installed,
    missing_weights,
    perceptual_scores,
    smallest_side,
)

Images = jax.Array | npt.NDArray[np.float32]


def _crop(images: jax.Array, crop_border: int) -> jax.Array:
    height, width = images.shape[1:3]
    return images[:, crop_border : height - crop_border, crop_border : width - crop_border]


def luma_studio(images: jax.Array) -> jax.Array:
    """Unrounded luma of ITU-R BT.601 in studio range (16..235), [B, H, W, 3] in [0, 1] to [B, H, W] float32."""
    red, green, blue = (images[..., channel].astype(jnp.float32) for channel in range(3))
    return 65.481 * red + 128.553 * green + 24.966 * blue + 16.0


def _decibel(squared_error: jax.Array) -> jax.Array:
    """PSNR [B] in dB of squared errors [B, ...] for a peak of 1; the 1e-8 (from pyiqa) gives equal images 80 dB."""
    mean = squared_error.mean(axis=tuple(range(1, squared_error.ndim)))
    return -10.0 * jnp.log10(mean + 1e-8)


@partial(jax.jit, static_argnames="crop_border")
def psnr_rgb(sr: jax.Array, reference: jax.Array, crop_border: int = 0) -> jax.Array:
    """Peak signal-to-noise ratio over all three channels.

    Args:
      sr: [B, H, W, 3] in [0, 1].
      reference: the same shape.
      crop_border: pixels ignored on every side.

    Returns:
      [B] float32 in dB; 80 for equal images.
    """
    difference = _crop(sr, crop_border).astype(jnp.float32) - _crop(reference, crop_border).astype(jnp.float32)
    return _decibel(difference * difference)


@partial(jax.jit, static_argnames="crop_border")
def psnr_y(sr: jax.Array, reference: jax.Array, crop_border: int = 0) -> jax.Array:
    """Peak signal-to-noise ratio of unrounded BT.601 studio luma with peak 255; arguments as for `psnr_rgb`."""
    difference = (luma_studio(_crop(sr, crop_border)) - luma_studio(_crop(reference, crop_border))) / 255.0
    return _decibel(difference * difference)


def structural_similarity(first: jax.Array, second: jax.Array, peak: float = 255.0) -> jax.Array:
    """SSIM of single-channel images (Wang, Bovik, Sheikh, Simoncelli 2004, eq. 13).

    Gaussian window 11x11 with standard deviation 1.5, without padding; the contrast-structure term is clipped at 0.

    Args:
      first: [B, H, W] float32 in [0, peak].
      second: the same shape.
      peak: the largest value.

    Returns:
      [B] float32.

    Raises:
      ValueError: images smaller than the window.
    """
    height, width = first.shape[1:]
    if min(height, width) < 11:
        raise ValueError(f"SSIM needs images of at least 11x11 pixels; got {height}x{width}")
    taps = np.exp(-(np.arange(-5, 6) ** 2) / (2 * 1.5**2))
    taps /= taps.sum()
    # Moments about mid-range give the same variances with a quarter of the float32 cancellation.
    first, second = first - peak / 2, second - peak / 2
    stack = jnp.stack([first, second, first * first, second * second, first * second])  # [5, B, H, W]
    rows = [float(tap) * stack[:, :, row : row + height - 10] for row, tap in enumerate(taps)]
    smooth = jnp.asarray(sum(rows))
    columns = [float(tap) * smooth[..., column : column + width - 10] for column, tap in enumerate(taps)]
    maps = jnp.asarray(sum(columns))  # [5, B, H - 10, W - 10]
    mean_first, mean_second, square_first, square_second, product = maps
    variances = square_first - mean_first**2 + square_second - mean_second**2
    covariance = product - mean_first * mean_second
    mean_first, mean_second = mean_first + peak / 2, mean_second + peak / 2
    small, large = (0.01 * peak) ** 2, (0.03 * peak) ** 2
    structure = jnp.maximum((2.0 * covariance + large) / (variances + large), 0.0)
    luminance = (2.0 * mean_first * mean_second + small) / (mean_first**2 + mean_second**2 + small)
    return (luminance * structure).mean(axis=(1, 2))


@partial(jax.jit, static_argnames="crop_border")
def ssim_y(sr: jax.Array, reference: jax.Array, crop_border: int = 0) -> jax.Array:
    """SSIM of BT.601 studio luma rounded to integers, as in published tables; arguments as for `psnr_rgb`.

    Returns:
      [B] float32; 1 for equal images.
    """
    levels = [jnp.round(luma_studio(_crop(images, crop_border))) for images in (sr, reference)]
    return structural_similarity(levels[0], levels[1])


class Options(NamedTuple):
    """Options of metrics.

    Attributes:
      crop_border: the ignored border in pixels.
      niqe_model: the pristine model of `niqe` and `niqe-pyiqa`.
      networks: metric id → its network, for perceptual metrics; those of installed packages are used for others.
    """

    crop_border: int = 0
    niqe_model: NiqeModel | None = None
    networks: Mapping[str, PerceptualNetwork] = {}


class Metric(NamedTuple):
    """One row of `METRICS`.

    Attributes:
      function: (sr [B, H, W, 3], reference of the same shape or None, options) → scores [B].
      needs_reference: whether the metric compares with a reference.
      higher_is_better: whether higher scores are better.
      description: the variant in words.
      needs_niqe_model: whether a pristine model must be given.
      fits: (height, width) → whether an image of this size is large enough.
      needs_network: whether it compares features of a trained network.
    """

    function: Callable[[Images, Images | None, Options], Images]
    needs_reference: bool
    higher_is_better: bool
    description: str
    needs_niqe_model: bool = False
    fits: Callable[[int, int], bool] = lambda height, width: True
    needs_network: bool = False


def _full_reference(function: Callable[..., jax.Array]) -> Callable[[Images, Images | None, Options], Images]:
    return lambda sr, reference, options: function(sr, reference, crop_border=options.crop_border)


def _niqe(luma: Luma) -> Callable[[Images, Images | None, Options], Images]:
    def function(sr: Images, reference: Images | None, options: Options) -> Images:
        assert options.niqe_model is not None
        return niqe(sr, options.niqe_model, options.crop_border, luma).astype(np.float32)

    return function


def _niqe_framer(sr: Images, reference: Images | None, options: Options) -> Images:
    return niqe(sr, shipped_niqe_model(), options.crop_border, "studio").astype(np.float32)


def _perceptual(name: str, description: str) -> Metric:
    def function(sr: Images, reference: Images | None, options: Options) -> Images:
        network = options.networks[name] if name in options.networks else installed_network(name)
        return perceptual_scores(network, jnp.asarray(sr), jnp.asarray(reference), options.crop_border)

    def fits(height: int, width: int) -> bool:
        return min(height, width) >= smallest_side(name)

    return Metric(function, True, False, description, fits=fits, needs_network=True)


def _fits_window(height: int, width: int) -> bool:
    return min(height, width) >= 11


def _fits_blocks(height: int, width: int) -> bool:
    return (height // BLOCK) * (width // BLOCK) >= 2


METRICS: dict[str, Metric] = {
    "psnr-rgb": Metric(_full_reference(psnr_rgb), True, True, "PSNR over RGB, dB"),
    "psnr-y": Metric(_full_reference(psnr_y), True, True, "PSNR on BT.601 studio luma, not rounded, peak 255, dB"),
    "ssim-y": Metric(
        _full_reference(ssim_y),
        True,
        True,
        "SSIM on BT.601 studio luma rounded to 8 bits, 11x11 window",
        fits=_fits_window,
    ),
    "niqe": Metric(
        _niqe("studio"),
        False,
        False,
        "NIQE on BT.601 studio luma (as BasicSR), model given by path",
        needs_niqe_model=True,
        fits=_fits_blocks,
    ),
    "niqe-pyiqa": Metric(
        _niqe("full"),
        False,
        False,
        "NIQE on full-range luma (as pyiqa), model given by path",
        needs_niqe_model=True,
        fits=_fits_blocks,
    ),
    "niqe-framer": Metric(
        _niqe_framer,
        False,
        False,
        "NIQE on BT.601 studio luma, framer_jax's own pristine model",
        fits=_fits_blocks,
    ),
    "lpips-alex": _perceptual("lpips-alex", "LPIPS 0.1 on AlexNet (torchvision's), whole images in RGB"),
    "lpips-vgg": _perceptual("lpips-vgg", "LPIPS 0.1 on VGG16 (torchvision's), whole images in RGB"),
    "dists": _perceptual("dists", "DISTS (2020) on VGG16 (torchvision's), whole images in RGB, not resized"),
}
"""Every metric by its id."""


def check_metric_ids(ids: Sequence[str]) -> list[str]:
    """The ids as a list in the given order, without duplicates.

    Raises:
      ValueError: no id, or an unknown one; the message lists the keys of `METRICS`.
    """
    valid = ", ".join(METRICS)
    if not ids:
        raise ValueError(f"no metric given; choose from: {valid}")
    for name in ids:
        if name not in METRICS:
            near = [known for known in METRICS if known.split("-")[0] == name.split("-")[0]]
            near = near or difflib.get_close_matches(name, METRICS, n=1)
            hint = f" (did you mean {' or '.join(near)}?)" if near else ""
            raise ValueError(f"there is no metric {name!r}{hint}; choose from: {valid}")
    return list(dict.fromkeys(ids))


def check_metric_inputs(
    ids: Sequence[str],
    has_reference: bool,
    niqe_model: NiqeModel | None,
    networks: Mapping[str, PerceptualNetwork] | None = None,
) -> list[str]:
    """Check ids (`check_metric_ids`) and that the inputs of their metrics are given.

    Raises:
      ValueError: a metric needs a reference, a pristine model or a trained network that is missing.
    """
    ids = check_metric_ids(ids)
    for name in ids:
        if METRICS[name].needs_reference and not has_reference:
            raise ValueError(
                f"the metric {name} compares with a reference: give one (--reference), or leave the metric out"
            )
        if METRICS[name].needs_niqe_model and niqe_model is None:
            raise ValueError(
                f"the metric {name} needs a pristine model: give its path (--niqe-model), or use niqe-framer"
            )
        if METRICS[name].needs_network and name not in (networks or {}) and not is_installed(name):
            raise ValueError(missing_weights(name))
    return ids


def score(
    sr: Images,
    reference: Images | None,
    ids: Sequence[str],
    niqe_model: NiqeModel | None = None,
    crop_border: int = 0,
    networks: Mapping[str, PerceptualNetwork] | None = None,
) -> dict[str, npt.NDArray[np.float32]]:
    """Score a batch of images.

    Args:
      sr: [B, H, W, 3] in [0, 1].
      reference: the same shape, or None for metrics that need none.
      ids: keys of `METRICS`.
      niqe_model: pristine model of `niqe` and `niqe-pyiqa`.
      crop_border: pixels ignored on every side.
      networks: networks of perceptual metrics by id, from framer_jax.evaluation.perceptual.load_networks; by default
        those of installed packages.

    Returns:
      id to scores [B] float32 on the host.

    Raises:
      ValueError: unknown ids, different shapes, a missing reference, model or network, images too small for a metric.
    """
    ids = check_metric_inputs(ids, reference is not None, niqe_model, networks)
    if np.ndim(sr) != 4 or np.shape(sr)[-1] != 3:
        raise ValueError(f"images to score must be [B, H, W, 3]; got the shape {np.shape(sr)}")
    if reference is not None and np.shape(sr) != np.shape(reference):
        raise ValueError(f"the images {np.shape(sr)} and their references {np.shape(reference)} differ in shape")
    if crop_border < 0 or 2 * crop_border >= min(np.shape(sr)[1:3]):
        raise ValueError(f"a crop border of {crop_border} does not fit images of {np.shape(sr)[1]}x{np.shape(sr)[2]}")
    options = Options(crop_border, niqe_model, networks or {})
    # All metrics are dispatched before the first result is waited for.
    results = {name: METRICS[name].function(sr, reference, options) for name in ids}
    return {name: np.asarray(values) for name, values in results.items()}
