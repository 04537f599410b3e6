"""Structural similarity: SSIM of luma and of RGB, and multi-scale SSIM of luma.

Sources: Wang, Bovik, Sheikh, Simoncelli, "Image quality assessment: from error visibility to structural similarity",
IEEE TIP 2004; Wang, Simoncelli, Bovik, "Multi-scale structural similarity for image quality assessment", Asilomar 2003.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from framer_jax.evaluation.psnr import crop, luma_studio

WINDOW = 11
"""Side of the Gaussian window of SSIM in pixels."""

SCALE_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
"""Exponents of the scales of MS-SSIM from fine to coarse (Wang et al. 2003, Section 3.2)."""

SMALLEST_MULTI_SCALE = (WINDOW - 1) * 2 ** (len(SCALE_WEIGHTS) - 1) + 1
"""The smallest side of an image for MS-SSIM, 161: the window fits into the coarsest scale."""


def _similarity_maps(first: jax.Array, second: jax.Array, peak: float) -> tuple[jax.Array, jax.Array]:
    """The luminance and the contrast-structure term of SSIM, whose product is eq. 13 of 2004: each [B, H - 10, W - 10].

    Args and Raises: as of `structural_similarity`.
    """
    height, width = first.shape[1:]
    if min(height, width) < WINDOW:
        raise ValueError(f"SSIM needs images of at least {WINDOW}x{WINDOW} pixels; got {height}x{width}")
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
    structure = (2.0 * covariance + large) / (variances + large)
    luminance = (2.0 * mean_first * mean_second + small) / (mean_first**2 + mean_second**2 + small)
    return luminance, structure


def structural_similarity(
    first: jax.Array, second: jax.Array, peak: float = 255.0, clip_structure: bool = True
) -> jax.Array:
    """SSIM of single-channel images (Wang, Bovik, Sheikh, Simoncelli 2004, eq. 13).

    Gaussian window 11x11 with standard deviation 1.5, without padding; K1 = 0.01, K2 = 0.03.

    Args:
      first: [B, H, W] float32 in [0, peak].
      second: the same shape.
      peak: the largest value.
      clip_structure: replace negative values of the contrast-structure term by 0, as pyiqa does.

    Returns:
      [B] float32; 1 for equal images.

    Raises:
      ValueError: images smaller than the window.
    """
    luminance, structure = _similarity_maps(first, second, peak)
    if clip_structure:
        structure = jnp.maximum(structure, 0.0)
    return (luminance * structure).mean(axis=(1, 2))


def _luma_levels(images: jax.Array, crop_border: int) -> jax.Array:
    return jnp.round(luma_studio(crop(images, crop_border)))


@partial(jax.jit, static_argnames="crop_border")
def ssim_y(sr: jax.Array, reference: jax.Array, crop_border: int = 0) -> jax.Array:
    """SSIM of BT.601 studio luma rounded to integers, as in published tables; negative structure is clipped.

    Args:
      sr: [B, H, W, 3] in [0, 1].
      reference: the same shape.
      crop_border: pixels ignored on every side.

    Returns:
      [B] float32 in [0, 1]; 1 for equal images.

    Raises:
      ValueError: images smaller than 11x11.
    """
    return structural_similarity(_luma_levels(sr, crop_border), _luma_levels(reference, crop_border))


@partial(jax.jit, static_argnames="crop_border")
def ssim_rgb(sr: jax.Array, reference: jax.Array, crop_border: int = 0) -> jax.Array:
    """SSIM of each channel of RGB with peak 255, and the mean of the three: `calculate_ssim` of BasicSR.

    Values are not rounded (those of 8-bit files are integers anyway), and negative structure is not clipped.

    Arguments as for `ssim_y`.

    Returns:
      [B] float32 in [-1, 1]; 1 for equal images.

    Raises:
      ValueError: images smaller than 11x11.
    """

    def channels(images: jax.Array) -> jax.Array:
        cropped = 255.0 * crop(images, crop_border).astype(jnp.float32)
        return jnp.moveaxis(cropped, -1, 1).reshape(-1, *cropped.shape[1:3])  # [B 3, H, W]

    values = structural_similarity(channels(sr), channels(reference), clip_structure=False)
    return values.reshape(-1, 3).mean(axis=1)


@partial(jax.jit, static_argnames="crop_border")
def ms_ssim_y(sr: jax.Array, reference: jax.Array, crop_border: int = 0) -> jax.Array:
    """Multi-scale SSIM (Wang, Simoncelli, Bovik 2003, eq. 7) of BT.601 studio luma rounded to integers.

    Five scales with the published weights: the means over the image of the contrast-structure term, at the coarsest
    scale those of SSIM, are raised to them and multiplied. As pytorch_msssim's `ms_ssim`: a negative mean counts as 0,
    and an odd side is extended by zeros at both ends before it is halved. (pyiqa's `ms_ssim` rounds luma again at every
    scale.)

    Arguments as for `ssim_y`.

    Returns:
      [B] float32 in [0, 1]; 1 for equal images.

    Raises:
      ValueError: images smaller than 161x161, whose coarsest scale is smaller than the window.
    """
    first, second = _luma_levels(sr, crop_border), _luma_levels(reference, crop_border)
    return multi_scale_similarity(first, second)


def multi_scale_similarity(first: jax.Array, second: jax.Array, peak: float = 255.0) -> jax.Array:
    """MS-SSIM [B] of single-channel images [B, H, W] in [0, peak], as `ms_ssim_y` describes it."""
    least, (height, width) = SMALLEST_MULTI_SCALE, first.shape[1:]
    if min(height, width) < least:
        raise ValueError(f"MS-SSIM needs images of at least {least}x{least} pixels; got {height}x{width}")
    value = jnp.ones(first.shape[0], jnp.float32)
    for weight in SCALE_WEIGHTS[:-1]:
        _, structure = _similarity_maps(first, second, peak)
        value = value * jnp.maximum(structure.mean(axis=(1, 2)), 0.0) ** weight
        first, second = _half_size(first), _half_size(second)
    similarity = structural_similarity(first, second, peak, clip_structure=False)
    return value * jnp.maximum(similarity, 0.0) ** SCALE_WEIGHTS[-1]


def _half_size(planes: jax.Array) -> jax.Array:
    """Means of 2x2 pixels, [B, H, W] to [B, ceil(H / 2), ceil(W / 2)].

    An odd side is extended by a zero at either end, of which the last one is left over (avg_pool2d with padding 1).
    """
    padded = jnp.pad(planes, ((0, 0), *((side % 2, side % 2) for side in planes.shape[1:])))
    height, width = (side // 2 for side in padded.shape[1:])
    return padded[:, : 2 * height, : 2 * width].reshape(-1, height, 2, width, 2).mean(axis=(2, 4))
