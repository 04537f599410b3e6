"""Image quality metrics, each with an id that names its variant, collected in the table `METRICS`.

Published numbers are only comparable within one variant (color space, rounding, weights), so there is no default
variant of a metric such as `psnr`: `score` and the command line refuse unknown ids and list the known ones.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

from framer_jax.evaluation.checkerboard import PERIOD, SMALLEST_TEXTURE_SIDE, checkerboard, checkerboard_texture
from framer_jax.evaluation.checkerboard import SMALLEST_SIDE as SMALLEST_CHECKERBOARD
from framer_jax.evaluation.learned import LEARNED, LearnedNetwork, learned_scores, missing
from framer_jax.evaluation.learned import SMALLEST_SIDE as SMALLEST_LEARNED
from framer_jax.evaluation.niqe import BLOCK, Luma, NiqeModel, niqe, shipped_niqe_model
from framer_jax.evaluation.perceptual import (
    PerceptualNetwork,
    installed_network,
    is_installed,
    missing_weights,
    perceptual_scores,
    smallest_side,
)
from framer_jax.evaluation.psnr import psnr_rgb, psnr_y
from framer_jax.evaluation.seams import OPTION as TILE_LINES_OPTION
from framer_jax.evaluation.seams import TileLines, seam
from framer_jax.evaluation.similarity import SMALLEST_MULTI_SCALE, WINDOW, ms_ssim_y, ssim_rgb, ssim_y
from framer_jax.evaluation.spectrum import (
    BAND_RADIUS,
    SMALLEST_SIDE,
    error_high,
    error_low,
    psnr_high,
    psnr_low,
    spectrum_distance,
)

Images = jax.Array | npt.NDArray[np.float32]

Network = PerceptualNetwork | LearnedNetwork

NOT_A_NUMBER = "the score is not a number"
"""Why there is no score, where the images themselves have values that are not finite."""


class Options(NamedTuple):
    """Options of metrics.

    Attributes:
      crop_border: the ignored border in pixels.
      niqe_model: the pristine model of `niqe` and `niqe-pyiqa`.
      networks: metric id → its network, for perceptual and learned metrics; other perceptual ones use those of
        installed packages.
      tile_lines: where tiles meet, for `seam`.
    """

    crop_border: int = 0
    niqe_model: NiqeModel | None = None
    networks: Mapping[str, Network] = {}
    tile_lines: TileLines | None = None


class Metric(NamedTuple):
    """One row of `METRICS`.

    Attributes:
      function: (sr [B, H, W, 3], reference of the same shape or None, options) → scores [B], NaN where undefined.
      needs_reference: whether the metric compares with a reference.
      higher_is_better: whether higher scores are better.
      description: the variant in words.
      needs_niqe_model: whether a pristine model must be given.
      fits: (height, width) → whether an image of this size is large enough.
      needs_network: whether it compares features of a trained network.
      smallest: what `fits` demands, in words.
      undefined: why a score may be NaN, in words.
      needs_tile_lines: whether it must be known where tiles meet.
    """

    function: Callable[[Images, Images | None, Options], Images]
    needs_reference: bool
    higher_is_better: bool
    description: str
    needs_niqe_model: bool = False
    fits: Callable[[int, int], bool] = lambda height, width: True
    needs_network: bool = False
    smallest: str = "one pixel"
    undefined: str = NOT_A_NUMBER
    needs_tile_lines: bool = False


def _at_least(side: int) -> Callable[[int, int], bool]:
    return lambda height, width: min(height, width) >= side


def _full_reference(
    function: Callable[..., jax.Array],
    higher_is_better: bool,
    description: str,
    least: int = 1,
    undefined: str = NOT_A_NUMBER,
) -> Metric:
    def compare(sr: Images, reference: Images | None, options: Options) -> Images:
        return function(sr, reference, crop_border=options.crop_border)

    smallest = f"{least}x{least} pixels"
    return Metric(
        compare, True, higher_is_better, description, fits=_at_least(least), smallest=smallest, undefined=undefined
    )


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
        assert isinstance(network, PerceptualNetwork)
        return perceptual_scores(network, jnp.asarray(sr), jnp.asarray(reference), options.crop_border)

    least = smallest_side(name)
    smallest = f"{least}x{least} pixels"
    return Metric(function, True, False, description, fits=_at_least(least), needs_network=True, smallest=smallest)


def _learned(name: str) -> Metric:
    def function(sr: Images, reference: Images | None, options: Options) -> Images:
        network = options.networks[name]
        assert isinstance(network, LearnedNetwork)
        return learned_scores(network, sr, options.crop_border)

    smallest = f"{SMALLEST_LEARNED}x{SMALLEST_LEARNED} pixels"
    return Metric(function, False, True, LEARNED[name].description, fits=_at_least(SMALLEST_LEARNED), smallest=smallest)


def _seam(sr: Images, reference: Images | None, options: Options) -> Images:
    assert options.tile_lines is not None
    return seam(jnp.asarray(sr), options.tile_lines, options.crop_border)


def _fits_blocks(height: int, width: int) -> bool:
    return (height // BLOCK) * (width // BLOCK) >= 2


_TWO_BLOCKS = f"two blocks of {BLOCK}x{BLOCK} pixels"

METRICS: dict[str, Metric] = {
    "psnr-rgb": _full_reference(psnr_rgb, True, "PSNR over RGB, dB"),
    "psnr-y": _full_reference(psnr_y, True, "PSNR on BT.601 studio luma, not rounded, peak 255, dB"),
    "ssim-y": _full_reference(ssim_y, True, "SSIM on BT.601 studio luma rounded to 8 bits, 11x11 window", least=WINDOW),
    "ssim-rgb": _full_reference(
        ssim_rgb,
        True,
        "SSIM per channel of RGB, not rounded, peak 255, mean of the three, 11x11 window (as BasicSR)",
        least=WINDOW,
    ),
    "ms-ssim-y": _full_reference(
        ms_ssim_y,
        True,
        "MS-SSIM (2003) on BT.601 studio luma rounded to 8 bits, five scales (as pytorch_msssim)",
        least=SMALLEST_MULTI_SCALE,
    ),
    "psnr-low": _full_reference(
        psnr_low,
        True,
        f"PSNR of frequencies up to {BAND_RADIUS} Nyquist, BT.601 studio luma, not rounded, peak 255, dB",
        least=SMALLEST_SIDE,
    ),
    "psnr-high": _full_reference(
        psnr_high,
        True,
        f"PSNR of frequencies above {BAND_RADIUS} Nyquist, BT.601 studio luma, not rounded, peak 255, dB",
        least=SMALLEST_SIDE,
    ),
    "error-low": _full_reference(
        error_low,
        False,
        f"LF error: spectral magnitude of the luma's error over that of the reference, up to {BAND_RADIUS} Nyquist",
        least=SMALLEST_SIDE,
        undefined="error-low is undefined: the reference is black",
    ),
    "error-high": _full_reference(
        error_high,
        False,
        f"HF error: spectral magnitude of the luma's error over that of the reference, above {BAND_RADIUS} Nyquist",
        least=SMALLEST_SIDE,
        undefined=f"error-high is undefined: the reference has no frequencies above {BAND_RADIUS} Nyquist",
    ),
    "spectrum-distance": _full_reference(
        spectrum_distance, False, "RMS difference of the luma's radial power spectra, dB", least=SMALLEST_SIDE
    ),
    "checkerboard": _full_reference(
        checkerboard,
        False,
        f"mean absolute error that repeats every {PERIOD} pixels, RGB, levels of 255",
        least=SMALLEST_CHECKERBOARD,
    ),
    "checkerboard-texture": _full_reference(
        checkerboard_texture,
        False,
        f"pattern of {PERIOD} pixels in the strength of texture beyond the reference's, RGB, levels of 255",
        least=SMALLEST_TEXTURE_SIDE,
    ),
    "seam": Metric(
        _seam,
        False,
        False,
        f"roughness across the lines where tiles meet over that elsewhere, RGB; 1 without seams ({TILE_LINES_OPTION})",
        undefined=f"seam is undefined: no line of {TILE_LINES_OPTION} crosses the image",
        needs_tile_lines=True,
    ),
    "niqe": Metric(
        _niqe("studio"),
        False,
        False,
        "NIQE on BT.601 studio luma (as BasicSR), model given by path",
        needs_niqe_model=True,
        fits=_fits_blocks,
        smallest=_TWO_BLOCKS,
    ),
    "niqe-pyiqa": Metric(
        _niqe("full"),
        False,
        False,
        "NIQE on full-range luma (as pyiqa), model given by path",
        needs_niqe_model=True,
        fits=_fits_blocks,
        smallest=_TWO_BLOCKS,
    ),
    "niqe-framer": Metric(
        _niqe_framer,
        False,
        False,
        "NIQE on BT.601 studio luma, framer_jax's own pristine model",
        fits=_fits_blocks,
        smallest=_TWO_BLOCKS,
    ),
    "lpips-alex": _perceptual("lpips-alex", "LPIPS 0.1 on AlexNet (torchvision's), whole images in RGB"),
    "lpips-vgg": _perceptual("lpips-vgg", "LPIPS 0.1 on VGG16 (torchvision's), whole images in RGB"),
    "dists": _perceptual("dists", "DISTS (2020) on VGG16 (torchvision's), whole images in RGB, not resized"),
    **{name: _learned(name) for name in LEARNED},
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
    networks: Mapping[str, Network] | None = None,
    tile_lines: TileLines | None = None,
) -> list[str]:
    """Check ids (`check_metric_ids`) and that the inputs of their metrics are given.

    Raises:
      ValueError: a metric needs a reference, a pristine model, a trained network or lines of tiles that are missing.
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
        if name in LEARNED and name not in (networks or {}):
            raise ValueError(missing(name))
        if METRICS[name].needs_tile_lines and tile_lines is None:
            raise ValueError(
                f"the metric {name} needs to know where tiles meet: give the side of a tile in pixels of the scored "
                f"images and the overlap of tiles, such as {TILE_LINES_OPTION} 512:64"
            )
    return ids


def score(
    sr: Images,
    reference: Images | None,
    ids: Sequence[str],
    niqe_model: NiqeModel | None = None,
    crop_border: int = 0,
    networks: Mapping[str, Network] | None = None,
    tile_lines: TileLines | None = None,
) -> dict[str, npt.NDArray[np.float32]]:
    """Score a batch of images.

    Args:
      sr: [B, H, W, 3] in [0, 1].
      reference: the same shape, or None for metrics that need none.
      ids: keys of `METRICS`.
      niqe_model: pristine model of `niqe` and `niqe-pyiqa`.
      crop_border: pixels ignored on every side.
      networks: networks of perceptual metrics by id, from framer_jax.evaluation.perceptual.load_networks, by default
        those of installed packages; and of learned ones, from framer_jax.evaluation.learned.load_learned.
      tile_lines: where tiles meet, for `seam`.

    Returns:
      id to scores [B] float32 on the host; NaN where a metric is undefined (`Metric.undefined` says why).

    Raises:
      ValueError: unknown ids, different shapes, a missing reference, model or network, images too small for a metric.
    """
    ids = check_metric_inputs(ids, reference is not None, niqe_model, networks, tile_lines)
    if np.ndim(sr) != 4 or np.shape(sr)[-1] != 3:
        raise ValueError(f"images to score must be [B, H, W, 3]; got the shape {np.shape(sr)}")
    if reference is not None and np.shape(sr) != np.shape(reference):
        raise ValueError(f"the images {np.shape(sr)} and their references {np.shape(reference)} differ in shape")
    if crop_border < 0 or 2 * crop_border >= min(np.shape(sr)[1:3]):
        raise ValueError(f"a crop border of {crop_border} does not fit images of {np.shape(sr)[1]}x{np.shape(sr)[2]}")
    options = Options(crop_border, niqe_model, networks or {}, tile_lines)
    # All metrics are dispatched before the first result is waited for.
    results = {name: METRICS[name].function(sr, reference, options) for name in ids}
    return {name: np.asarray(values) for name, values in results.items()}
