"""Resizing with PyTorch's sampling rules, axis by axis as sums of gathered rows; sizes and modes may be traced.

The rules are those of `torch.nn.functional.interpolate` with align_corners=False and without antialiasing, because the
published degradations use it. An output pixel depends on two to a dozen pixels of an axis, so gathering them is several
times faster on a CPU than a product with a matrix of weights.
"""

from __future__ import annotations

import math
from functools import partial
from typing import NamedTuple, cast

import jax
import jax.numpy as jnp

from framer_jax.degradations.blur import Size

MODES = ("area", "bilinear", "bicubic")
"""A mode is passed as an index into this tuple."""

_CUBIC_A = -0.75  # the constant of PyTorch's (and OpenCV's) cubic convolution


class Taps(NamedTuple):
    """Filter taps along one axis: output i is Σ_k weights[i, k] · input[first[i] + k], with repeated edges.

    Attributes:
      first: index of the first input pixel of each output, [N] int32.
      weights: weights of its K input pixels, [N, K] float32.
    """

    first: jax.Array
    weights: jax.Array


def area_taps(outputs: jax.Array, size: jax.Array, new_size: jax.Array, count: int) -> Taps:
    """Adaptive average pooling: output i is the mean of inputs floor(i n / m) … ceil((i + 1) n / m) - 1."""
    first = (outputs * size) // new_size
    length = ((outputs + 1) * size + new_size - 1) // new_size - first
    inside = jnp.arange(count, dtype=jnp.int32)[None, :] < length[:, None]
    return Taps(first, inside.astype(jnp.float32) / length.astype(jnp.float32)[:, None])


def bilinear_taps(outputs: jax.Array, step: jax.Array) -> Taps:
    """Two taps around the output's center; centers before that of the first pixel are moved to it."""
    center = jnp.maximum((outputs.astype(jnp.float32) + 0.5) * step - 0.5, 0.0)
    first = jnp.floor(center)
    fraction = center - first
    return Taps(first.astype(jnp.int32), jnp.stack([1.0 - fraction, fraction], axis=1))


def bicubic_taps(outputs: jax.Array, step: jax.Array) -> Taps:
    """Four taps of the cubic convolution with a = -0.75."""
    center = (outputs.astype(jnp.float32) + 0.5) * step - 0.5
    first = jnp.floor(center)
    weights = [_cubic(center - first - k) for k in (-1.0, 0.0, 1.0, 2.0)]
    return Taps(first.astype(jnp.int32) - 1, jnp.stack(weights, axis=1))


def _cubic(distance: jax.Array) -> jax.Array:
    x = jnp.abs(distance)
    near = ((_CUBIC_A + 2.0) * x - (_CUBIC_A + 3.0)) * x * x + 1.0
    far = ((_CUBIC_A * x - 5.0 * _CUBIC_A) * x + 8.0 * _CUBIC_A) * x - 4.0 * _CUBIC_A
    return jnp.where(x <= 1.0, near, jnp.where(x < 2.0, far, jnp.float32(0)))


def resize(
    planes: jax.Array,
    mode: jax.Array,
    shape: tuple[int, int],
    size: Size,
    new_size: Size,
    step: Size | jax.Array | None = None,
    smallest_scale: float = 1.0,
) -> jax.Array:
    """Resize an image to a size that may be known only at run time.

    Args:
      planes: [C, H, W] float32; only the valid part is read.
      mode: index into `MODES`, int32 scalar.
      shape: (height, width) of the output canvas.
      size: valid (height, width) of `planes`.
      new_size: valid (height, width) of the result, at most `shape`.
      step: input pixels per output pixel, one value for both axes or a pair. PyTorch's `scale_factor=s` samples with
        steps of 1 / s, `size=` with the ratio of the sizes (None here); they differ if H · s is not an integer.
      smallest_scale: static lower bound of new over old sizes; decides how many pixels the area mode may average.

    Returns:
      [C, *shape] float32, not clipped (bicubic overshoots); values outside the new size are unspecified.
    """
    area_taps_count = math.ceil(1.0 / min(smallest_scale, 1.0) - 1e-6) + 1
    counts = {"area": area_taps_count, "bilinear": 2, "bicubic": 4}
    for axis in range(2):
        ratio = jnp.float32(size[axis]) / jnp.float32(new_size[axis])
        axis_step = ratio if step is None else step[axis] if isinstance(step, tuple) else step
        planes = _resize_rows(
            planes, mode, shape[axis], size[axis], new_size[axis], jnp.asarray(axis_step, jnp.float32), counts
        )
        planes = jnp.swapaxes(planes, 1, 2)  # first [C, W, h], then [C, h, w]
    return planes


def _resize_rows(
    planes: jax.Array,
    mode: jax.Array,
    length: int,
    size: jax.Array | int,
    new_size: jax.Array | int,
    step: jax.Array,
    counts: dict[str, int],
) -> jax.Array:
    """Resize the rows axis: [C, H, W] → [C, length, W]; `counts` holds the number of taps of each mode.

    The switches also keep XLA:CPU from fusing across their boundaries: otherwise it would recompute indices and weights
    for every pixel, and the first axis for every tap of the second.
    """
    outputs = jnp.arange(length, dtype=jnp.int32)
    most = max(counts.values())

    def taps_of_mode(kind: str) -> tuple[jax.Array, jax.Array]:  # indices and weights, [length, most]
        if kind == "area":
            taps = area_taps(outputs, jnp.int32(size), jnp.int32(new_size), counts[kind])
        else:
            taps = {"bilinear": bilinear_taps, "bicubic": bicubic_taps}[kind](outputs, step)
        indices = taps.first[:, None] + jnp.arange(most, dtype=jnp.int32)[None, :]
        return jnp.clip(indices, 0, jnp.int32(size) - 1), jnp.pad(taps.weights, ((0, 0), (0, most - counts[kind])))

    indices, weights = jax.lax.switch(mode, [partial(taps_of_mode, kind) for kind in MODES])

    def resample(kind: str, planes: jax.Array) -> jax.Array:
        # All indices are in range; 'clip' avoids the gather's own check.
        rows = (jnp.take(planes, indices[:, k], axis=1, mode="clip") for k in range(counts[kind]))
        return cast(jax.Array, sum(weights[None, :, k, None] * row for k, row in enumerate(rows)))

    return jax.lax.switch(mode, [partial(resample, kind) for kind in MODES], planes)
