"""Resizing with PyTorch's sampling rules, axis by axis as sums of gathered rows; sizes and modes may be traced.

The rules are those of `torch.nn.functional.interpolate` with align_corners=False and without antialiasing, because the
published degradations were made with it. An output pixel looks at two to a dozen pixels of an axis, so gathering them
is several times faster on a CPU than a product with a matrix of weights.
"""

from __future__ import annotations

import math
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from framer_jax.degradations.blur import Size

MODES = ("area", "bilinear", "bicubic")
"""A mode's number is its place here."""

_CUBIC_A = -0.75  # the constant of PyTorch's (and OpenCV's) cubic convolution


class Taps(NamedTuple):
    """Where the outputs of one axis look: output i is Σ_k weights[i, k] · old[first[i] + k], the edge repeated.

    Attributes:
      first: [N] int32.
      weights: [N, K] float32.
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
    """Two taps around the output's centre; centres above the first pixel's are moved to it."""
    centre = jnp.maximum((outputs.astype(jnp.float32) + 0.5) * step - 0.5, 0.0)
    first = jnp.floor(centre)
    fraction = centre - first
    return Taps(first.astype(jnp.int32), jnp.stack([1.0 - fraction, fraction], axis=1))


def bicubic_taps(outputs: jax.Array, step: jax.Array) -> Taps:
    """Four taps of the cubic convolution with a = -0.75."""
    centre = (outputs.astype(jnp.float32) + 0.5) * step - 0.5
    first = jnp.floor(centre)
    weights = [_cubic(centre - first - k) for k in (-1.0, 0.0, 1.0, 2.0)]
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
    """Resize an image to a size that need not be known when the program is built.

    Args:
      planes: [C, H, W] float32; only its valid part is read.
      mode: int32 scalar, place in `MODES`.
      shape: (height, width) of the new canvas.
      size: valid (height, width) of `planes`.
      new_size: (height, width) of the result, at most `shape`.
      step: old pixels per new pixel, one for both axes or a pair. PyTorch's `scale_factor=s` samples at 1 / s, `size=`
        at the ratio of the sizes (None), and these differ where the floor of H · s cuts something off.
      smallest_scale: static bound of new over old sizes: decides how many pixels the area mode may average.

    Returns:
      [C, *shape] float32, not clipped: bicubic overshoots. What lies outside the new size means nothing.
    """
    area = math.ceil(1.0 / min(smallest_scale, 1.0) - 1e-6) + 1
    counts = {"area": area, "bilinear": 2, "bicubic": 4}
    for axis in range(2):
        ratio = jnp.float32(size[axis]) / jnp.float32(new_size[axis])
        own = ratio if step is None else step[axis] if isinstance(step, tuple) else step
        planes = _along_rows(
            planes, mode, shape[axis], size[axis], new_size[axis], jnp.asarray(own, jnp.float32), counts
        )
        planes = jnp.swapaxes(planes, 1, 2)  # first [C, W, h], then [C, h, w]
    return planes


def _along_rows(
    planes: jax.Array,
    mode: jax.Array,
    length: int,
    size: jax.Array | int,
    new_size: jax.Array | int,
    step: jax.Array,
    counts: dict[str, int],
) -> jax.Array:
    """[C, H, W] → [C, length, W]; `counts` says how many pixels each mode looks at.

    Nothing is fused across the border of a switch. In one piece, XLA:CPU would compute places and weights again for
    every pixel, and the first axis again for every tap of the second.
    """
    outputs = jnp.arange(length, dtype=jnp.int32)
    most = max(counts.values())

    def look(kind: str) -> tuple[jax.Array, jax.Array]:  # places and weights, [length, most]
        if kind == "area":
            taps = area_taps(outputs, jnp.int32(size), jnp.int32(new_size), counts[kind])
        else:
            taps = {"bilinear": bilinear_taps, "bicubic": bicubic_taps}[kind](outputs, step)
        places = taps.first[:, None] + jnp.arange(most, dtype=jnp.int32)[None, :]
        return jnp.clip(places, 0, jnp.int32(size) - 1), jnp.pad(taps.weights, ((0, 0), (0, most - counts[kind])))

    places, weights = jax.lax.switch(mode, [partial(look, kind) for kind in MODES])

    def resample(kind: str, planes: jax.Array) -> jax.Array:
        # 'clip' spares the gather its own check; every place is inside.
        rows = (jnp.take(planes, places[:, k], axis=1, mode="clip") for k in range(counts[kind]))
        return sum(weights[None, :, k, None] * row for k, row in enumerate(rows))  # type: ignore[return-value]

    return jax.lax.switch(mode, [partial(resample, kind) for kind in MODES], planes)
