"""Resizing with PyTorch's sampling rules, as two matrix products, so that sizes and modes may be traced values.

The rules are those of `torch.nn.functional.interpolate` with align_corners=False and without antialiasing, because the
published degradations were made with it. A mode is a number, so one compiled program serves all of them.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

MODES = ("area", "bilinear", "bicubic")
"""A mode's number is its place here."""

_CUBIC_A = -0.75  # the constant of PyTorch's (and OpenCV's) cubic convolution


def _area(outputs: jax.Array, inputs: jax.Array, size: jax.Array, new_size: jax.Array) -> jax.Array:
    """Adaptive average pooling: output i is the mean of inputs floor(i n / m) … ceil((i + 1) n / m) - 1."""
    start = (outputs * size) // new_size
    stop = ((outputs + 1) * size + new_size - 1) // new_size
    inside = (inputs[None, :] >= start[:, None]) & (inputs[None, :] < stop[:, None])
    return inside.astype(jnp.float32) / (stop - start).astype(jnp.float32)[:, None]


def _clamped_taps(first: jax.Array, taps: list[jax.Array], inputs: jax.Array, size: jax.Array) -> jax.Array:
    """Scatter tap weights [M] at inputs first, first + 1, … with the border pixel repeated: [M, N]."""
    weights = jnp.zeros((first.shape[0], inputs.shape[0]), jnp.float32)
    for offset, tap in enumerate(taps):
        place = jnp.clip(first + offset, 0, size - 1)
        weights += jnp.where(inputs[None, :] == place[:, None], tap[:, None], jnp.float32(0))
    return weights


def _cubic(distance: jax.Array) -> jax.Array:
    """Cubic convolution with a = -0.75."""
    x = jnp.abs(distance)
    near = ((_CUBIC_A + 2.0) * x - (_CUBIC_A + 3.0)) * x * x + 1.0
    far = ((_CUBIC_A * x - 5.0 * _CUBIC_A) * x + 8.0 * _CUBIC_A) * x - 4.0 * _CUBIC_A
    return jnp.where(x <= 1.0, near, jnp.where(x < 2.0, far, jnp.float32(0)))


def interpolation_matrix(
    mode: jax.Array | int,
    size: jax.Array | int,
    new_size: jax.Array | int,
    step: jax.Array | float,
    canvas: int,
    new_canvas: int,
) -> jax.Array:
    """Weights [new_canvas, canvas] of one axis: `new = matrix @ old`.

    Sizes may be traced; the canvases are static. Columns from `size` on and rows from `new_size` on are zero, so what
    lies outside the valid region has no influence and stays zero.

    Args:
      mode: place in `MODES`.
      size: valid length of the axis, at most `canvas`.
      new_size: valid length after resizing, at most `new_canvas`.
      step: old pixels per new pixel; `1 / scale` for PyTorch's `scale_factor=scale`, `size / new_size` for `size=`.
        The area mode has no use for it.
      canvas: static length of the axis.
      new_canvas: static length after resizing.
    """
    old, new = jnp.int32(size), jnp.int32(new_size)
    outputs, inputs = jnp.arange(new_canvas, dtype=jnp.int32), jnp.arange(canvas, dtype=jnp.int32)
    centre = (outputs.astype(jnp.float32) + 0.5) * jnp.float32(step) - 0.5
    linear_centre = jnp.maximum(centre, 0.0)
    linear_first = jnp.floor(linear_centre).astype(jnp.int32)
    fraction = linear_centre - linear_first.astype(jnp.float32)
    cubic_first = jnp.floor(centre).astype(jnp.int32)
    cubic_fraction = centre - cubic_first.astype(jnp.float32)
    candidates = jnp.stack(
        [
            _area(outputs, inputs, old, new),
            _clamped_taps(linear_first, [1.0 - fraction, fraction], inputs, old),
            _clamped_taps(cubic_first - 1, [_cubic(cubic_fraction - k) for k in (-1, 0, 1, 2)], inputs, old),
        ]
    )
    matrix = jnp.take(candidates, jnp.int32(mode), axis=0)
    return jnp.where((outputs < new)[:, None] & (inputs < old)[None, :], matrix, jnp.float32(0))


def apply_matrices(images: jax.Array, rows: jax.Array, columns: jax.Array) -> jax.Array:
    """Resize each image with its own weights.

    Args:
      images: [B, H, W, C] float32.
      rows: [B, H', H] weights of the vertical axis.
      columns: [B, W', W] weights of the horizontal axis.

    Returns:
      [B, H', W', C] float32.
    """
    precision = jax.lax.Precision.HIGHEST
    images = jnp.einsum("bnh,bhwc->bnwc", rows, images, precision=precision)
    return jnp.einsum("bmw,bnwc->bnmc", columns, images, precision=precision)


def resize(
    images: jax.Array, modes: jax.Array, size: tuple[int, int] | None = None, scale: float | None = None
) -> jax.Array:
    """Resize a batch, each image in its own mode, to a size known when the program is built.

    Args:
      images: [B, H, W, C] float32.
      modes: [B] int32, places in `MODES`.
      size: (height, width) of the result; sampling follows the ratio of sizes.
      scale: new pixels per old pixel; the size is floor(H · scale) and sampling follows `1 / scale`, which is not the
        ratio of sizes where the floor cuts something off.

    Returns:
      [B, H', W', C] float32, not clipped: bicubic overshoots.

    Raises:
      ValueError: not exactly one of `size` and `scale`, or a size below one pixel.
    """
    height, width = images.shape[1:3]
    if (size is None) == (scale is None):
        raise ValueError("resize takes either a size or a scale")
    if scale is not None:
        new_height, new_width = int(height * scale), int(width * scale)
        steps = (1.0 / scale, 1.0 / scale)
    else:
        assert size is not None
        new_height, new_width = size
        steps = (height / new_height, width / new_width) if min(size) > 0 else (1.0, 1.0)
    if min(new_height, new_width) < 1:
        raise ValueError(f"{height} x {width} pixels cannot be resized to {new_height} x {new_width}")

    def matrices(mode: jax.Array) -> tuple[jax.Array, jax.Array]:
        return (
            interpolation_matrix(mode, height, new_height, steps[0], height, new_height),
            interpolation_matrix(mode, width, new_width, steps[1], width, new_width),
        )

    rows, columns = jax.vmap(matrices)(modes)
    return apply_matrices(images, rows, columns)
