"""Bicubic resizing as in MATLAB's `imresize`: the downsampling of the classical ×4 benchmarks and of NIQE.

It differs from most libraries in three ways: Keys' kernel with a = -0.5, a kernel widened by 1 / scale if an axis is
downsampled (antialiasing), and symmetric borders, which repeat the edge pixel.
"""

from __future__ import annotations

import math
from functools import lru_cache

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt


def _keys_kernel(x: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Cubic convolution kernel with a = -0.5 (Keys 1981, eq. 15)."""
    x = np.abs(x)
    near = (1.5 * x - 2.5) * x * x + 1.0
    far = ((-0.5 * x + 2.5) * x - 4.0) * x + 2.0
    return np.where(x <= 1.0, near, np.where(x <= 2.0, far, 0.0))


@lru_cache(maxsize=64)
def bicubic_matrix(size: int, new_size: int, scale: float) -> npt.NDArray[np.float32]:
    """Weights [new_size, size] of one axis: `new = matrix @ old`; every row sums to 1.

    Args:
      size: length of the axis.
      new_size: length after resizing.
      scale: output pixels per input pixel; below 1, the kernel is widened by its inverse.
    """
    stretch = min(scale, 1.0)
    support = 4.0 / stretch
    # Pixel centers: output u (from 1) lies at u / scale + (1 - 1 / scale) / 2 in the input's coordinates (from 1).
    center = np.arange(1, new_size + 1) / scale + 0.5 * (1.0 - 1.0 / scale)
    first = np.floor(center - support / 2.0).astype(np.int64)
    position = first[:, None] + np.arange(math.ceil(support) + 2)  # [new_size, taps]
    weight = stretch * _keys_kernel(stretch * (center[:, None] - position))
    weight /= weight.sum(axis=1, keepdims=True)
    source = np.mod(position - 1, 2 * size)
    source = np.where(source < size, source, 2 * size - 1 - source)
    matrix = np.zeros((new_size, size))
    np.add.at(matrix, (np.arange(new_size)[:, None], source), weight)
    return matrix.astype(np.float32)


def _round_half_up(levels: jax.Array) -> jax.Array:
    """Round to 8-bit levels, halves upwards as in MATLAB."""
    return jnp.clip(jnp.floor(levels + 0.5), 0.0, 255.0)


def matlab_bicubic(
    image: jax.Array,
    scale: float | None = None,
    size: tuple[int, int] | None = None,
    eight_bit: bool = False,
) -> jax.Array:
    """Resize images as MATLAB's `imresize(image, scale)` or `imresize(image, size)`, with antialiasing.

    Args:
      image: [B, H, W, C] float32, any range. The result is neither clipped nor rounded unless `eight_bit`.
      scale: output pixels per input pixel on both axes; the new size is the ceiling of the product.
      size: (height, width) of the result; give exactly one of `scale` and `size`.
      eight_bit: treat values in [0, 1] as MATLAB treats uint8 images: clip and round them to 1/255 after each axis. The
        LR images of the classical test sets (Set5, ...) were made this way and are reproduced exactly.

    Returns:
      [B, H', W', C] float32.

    Raises:
      ValueError: not exactly one of `scale` and `size`, a value that is not positive, or an image that is not 4-D.
    """
    if image.ndim != 4:
        raise ValueError(f"matlab_bicubic takes images [B, H, W, C], got shape {image.shape}")
    if (scale is None) == (size is None):
        raise ValueError("matlab_bicubic takes either a scale or a size: give exactly one of them")
    height, width = image.shape[1:3]
    if scale is not None:
        if scale <= 0:
            raise ValueError(f"scale is {scale}: it must be positive")
        new_height, new_width, scales = math.ceil(height * scale), math.ceil(width * scale), (scale, scale)
    else:
        assert size is not None
        if min(size) < 1:
            raise ValueError(f"size is {size}: it must be positive")
        new_height, new_width = size
        scales = (new_height / height, new_width / width)
    rows = jnp.asarray(bicubic_matrix(height, new_height, float(scales[0])))
    columns = jnp.asarray(bicubic_matrix(width, new_width, float(scales[1])))
    # A dense matrix product per axis: cheap to compile, accurate in float32, and fast on accelerators.
    passes = [("nh,bhwc->bnwc", rows), ("mw,bhwc->bhmc", columns)]
    if (
        scales[1] < scales[0]
    ):  # MATLAB starts with the smaller scale, which matters if the intermediate result is rounded
        passes.reverse()
    if eight_bit:
        image = _round_half_up(image * 255.0)
    for axes, matrix in passes:
        image = jnp.einsum(axes, matrix, image, precision=jax.lax.Precision.HIGHEST)
        if eight_bit:  # on integer levels, where halves are exact
            image = _round_half_up(image)
    return image / 255.0 if eight_bit else image


def downsample_eight_bit(
    planes: jax.Array, factor: int, size: tuple[jax.Array | int, jax.Array | int] | None = None
) -> jax.Array:
    """`matlab_bicubic(image, 1 / factor, eight_bit=True)` for one image whose size may be known only at run time.

    Args:
      planes: [C, H, W] float32 in [0, 1].
      factor: input pixels per output pixel.
      size: valid (height, width) of the image, multiples of the factor; None for (H, W).

    Returns:
      [C, H / factor, W / factor] float32, multiples of 1 / 255, bitwise equal to the result of `matlab_bicubic`.
    """
    count = 4 * factor + 1
    # For an integer factor, all outputs have the same offset from their inputs, hence the same weights.
    first, center = math.floor((factor - 1) / 2 - 2 * factor), (factor - 1) / 2
    weights = _keys_kernel((center - first - np.arange(count + 1)) / factor) / factor
    levels = _round_half_up(planes * 255.0)
    for axis in (1, 2):
        length = planes.shape[axis] if size is None else jnp.int32(size[axis - 1])
        starts = jnp.arange(planes.shape[axis] // factor, dtype=jnp.int32) * factor + first
        total = jnp.float32(0)
        for k, weight in enumerate(weights):
            index = jnp.mod(starts + k, 2 * length)
            source = jnp.minimum(index, 2 * length - 1 - index)
            total = total + float(weight) * jnp.take(levels, source, axis=axis, mode="clip")
        levels = _round_half_up(total)
    return levels / 255.0
