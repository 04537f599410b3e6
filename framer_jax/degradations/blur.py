"""Blur of one image by one kernel, borders reflected, by the FFT or along one axis after the other."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from scipy.fft import next_fast_len

Size = tuple[jax.Array | int, jax.Array | int]
"""Valid height and width of an image in the upper left corner of its canvas; may be traced."""


def valid_pixels(height: int, width: int, size: Size) -> jax.Array:
    """[height, width] bool: which pixels of a canvas lie inside the valid size."""
    rows, columns = jnp.arange(height, dtype=jnp.int32), jnp.arange(width, dtype=jnp.int32)
    return (rows < size[0])[:, None] & (columns < size[1])[None, :]


def reflected(planes: jax.Array, before: int, shape: tuple[int, int], size: Size | None = None) -> jax.Array:
    """Continue an image beyond its borders by reflection, without repeating the edge.

    Args:
      planes: [C, H, W].
      before: pixels added above and to the left.
      shape: (height, width) of the result, which may reach beyond what a blur needs.
      size: valid (height, width) of `planes`, any from 1 on; the reflection repeats where they are small. Nothing
        outside of them is read. None: all of it.

    Returns:
      [C, *shape].
    """
    valid = planes.shape[1:] if size is None else size
    rows, columns = (_mirrored(length, before, side) for length, side in zip(shape, valid, strict=True))

    def gather(plane: jax.Array) -> jax.Array:
        # 'clip' spares the gather its own check; every place is inside.
        return jnp.take(jnp.take(plane, rows, axis=0, mode="clip"), columns, axis=1, mode="clip")

    # Plane after plane, because nothing is fused across the border of such a loop: XLA:CPU would otherwise compute the
    # places again for every pixel, and all of it again for every tap of a filter (it ignores optimization_barrier).
    return jax.lax.map(gather, planes)


def _mirrored(length: int, before: int, size: jax.Array | int) -> jax.Array:
    """[length] int32: where place 0 … of an axis continued by `before` looks in an axis of `size`."""
    period = jnp.maximum(2 * (jnp.int32(size) - 1), 1)
    place = jnp.mod(jnp.arange(length, dtype=jnp.int32) - before, period)
    return jnp.minimum(place, period - place)


def blur(planes: jax.Array, kernel: jax.Array, size: Size | None = None) -> jax.Array:
    """Filter an image (cross-correlation, borders reflected without repeating the edge).

    By the FFT: XLA has no fast depthwise convolution on a CPU (30 times slower), and the cost does not grow with the
    kernel.

    Args:
      planes: [C, H, W] float32.
      kernel: [K, K] float32, K odd.
      size: valid (height, width) of the image, if smaller than its canvas; may be traced.

    Returns:
      [C, H, W] float32; what lies outside the valid size means nothing.

    Raises:
      ValueError: a kernel that is not square, or has an even side.
    """
    _, height, width = planes.shape
    side = kernel.shape[-1]
    if side % 2 == 0 or kernel.shape != (side, side):
        raise ValueError(f"blur kernels are square with an odd side; got {kernel.shape}")
    # What wraps around stays inside the reflected border, so the padded size (made FFT-friendly) is enough.
    shape = (next_fast_len(height + side - 1, real=True), next_fast_len(width + side - 1, real=True))
    spectrum = jnp.fft.rfft2(reflected(planes, side // 2, shape, size))  # [C, H', W'/2 + 1]
    filtered = jnp.fft.irfft2(spectrum * _response(kernel, shape)[None], s=shape)
    # Output (0, 0) has looked at padded (0 .. K-1), the window of pixel (0, 0).
    return filtered[:, :height, :width]


def _response(kernel: jax.Array, shape: tuple[int, int]) -> jax.Array:
    """Conjugate spectrum (correlation) of a small kernel: two thin products in place of an FFT of zeros."""

    def waves(length: int, frequencies: int) -> np.ndarray:
        place = np.outer(np.arange(kernel.shape[0]), np.arange(frequencies)) % length
        return (2.0 * np.pi / length) * place

    rows, columns = waves(shape[0], shape[0]), waves(shape[1], shape[1] // 2 + 1)  # [K, H'], [K, W'/2 + 1]

    def product(a: np.ndarray | jax.Array, b: np.ndarray | jax.Array) -> jax.Array:
        return jnp.matmul(jnp.asarray(a, jnp.float32), jnp.asarray(b, jnp.float32), precision="highest")

    real, imaginary = product(kernel, np.cos(columns)), product(kernel, np.sin(columns))  # [K, W'/2 + 1]
    cosine, sine = np.cos(rows).T, np.sin(rows).T  # [H', K]
    return jax.lax.complex(
        product(cosine, real) - product(sine, imaginary), product(cosine, imaginary) + product(sine, real)
    )


def separable_blur(planes: jax.Array, row: jax.Array, column: jax.Array, size: Size | None = None) -> jax.Array:
    """Filter along both axes: `blur` by the outer product of two one-dimensional kernels.

    Args:
      planes: [C, H, W] float32.
      row: [K] float32 weights along a row, K odd.
      column: [K] float32 weights along a column.
      size: valid (height, width), as in `blur`.

    Returns:
      [C, H, W] float32; what lies outside the valid size means nothing.
    """
    _, height, width = planes.shape
    reach = row.shape[0] // 2
    padded = reflected(planes, reach, (height + 2 * reach, width + 2 * reach), size)
    rows = column[0] * padded[:, :height]
    for k in range(1, 2 * reach + 1):
        rows += column[k] * padded[:, k : k + height]
    result = row[0] * rows[:, :, :width]
    for k in range(1, 2 * reach + 1):
        result += row[k] * rows[:, :, k : k + width]
    return result


def blur_either_way(
    planes: jax.Array, kernel: jax.Array, size: Size | None = None, reach: int | None = None
) -> jax.Array:
    """`blur`, along one axis after the other where the kernel is an outer product, as an unrotated Gaussian is.

    That is four times faster on a CPU; under `vmap`, where both ways would be computed, use `blur`.

    Args:
      planes: [C, H, W] float32.
      kernel: [K, K] float32 that sums to 1.
      size: valid (height, width), as in `blur`.
      reach: the kernel is zero further than this from its centre; the FFT is then smaller. (The sums are not made
        shorter: below some 16 terms XLA:CPU fuses the two passes, and computes the first again for each term.)

    Returns:
      as `blur`.
    """
    row, column = kernel.sum(axis=0), kernel.sum(axis=1)
    is_product = jnp.max(jnp.abs(kernel - column[:, None] * row[None, :])) < 1e-8
    return jax.lax.cond(
        is_product,
        lambda planes: separable_blur(planes, row, column, size),
        lambda planes: blur(planes, centre(kernel, reach), size),
        planes,
    )


def centre(kernel: jax.Array, reach: int | None) -> jax.Array:
    """The middle [2 reach + 1, 2 reach + 1] of a kernel; all of it if `reach` is None."""
    if reach is None:
        return kernel
    middle = kernel.shape[0] // 2
    part = slice(middle - reach, middle + reach + 1)
    return kernel[part, part]
