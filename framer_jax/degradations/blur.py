"""Blur of one image with one kernel and reflected borders, by the FFT or along one axis after the other."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from scipy.fft import next_fast_len

Size = tuple[jax.Array | int, jax.Array | int]
"""Valid (height, width) of an image in the upper left corner of its canvas; may be traced."""


def valid_pixels(height: int, width: int, size: Size) -> jax.Array:
    """The pixels of a canvas that lie inside the valid size, bool [height, width]."""
    rows, columns = jnp.arange(height, dtype=jnp.int32), jnp.arange(width, dtype=jnp.int32)
    return (rows < size[0])[:, None] & (columns < size[1])[None, :]


def reflect_pad(planes: jax.Array, before: int, shape: tuple[int, int], size: Size | None = None) -> jax.Array:
    """Pad an image by reflection, without repeating the edge.

    Args:
      planes: [C, H, W].
      before: pixels added above and to the left.
      shape: (height, width) of the result, which may be larger than a blur needs.
      size: valid (height, width) of `planes`, each at least 1; small images are reflected repeatedly. Pixels outside
        of it are not read. None for all of `planes`.

    Returns:
      [C, *shape].
    """
    valid = planes.shape[1:] if size is None else size
    rows, columns = (_reflected_indices(length, before, side) for length, side in zip(shape, valid, strict=True))

    def gather(plane: jax.Array) -> jax.Array:
        # All indices are in range; 'clip' avoids the gather's own check.
        return jnp.take(jnp.take(plane, rows, axis=0, mode="clip"), columns, axis=1, mode="clip")

    # A loop over planes, because XLA:CPU does not fuse operations across its boundary: otherwise it would recompute the
    # indices for every pixel, and the whole gather for every tap of a filter (it ignores optimization_barrier).
    return jax.lax.map(gather, planes)


def _reflected_indices(length: int, before: int, size: jax.Array | int) -> jax.Array:
    """Source indices, int32 [length], of an axis of `size` that is padded by `before` pixels at its start."""
    period = jnp.maximum(2 * (jnp.int32(size) - 1), 1)
    index = jnp.mod(jnp.arange(length, dtype=jnp.int32) - before, period)
    return jnp.minimum(index, period - index)


def blur(planes: jax.Array, kernel: jax.Array, size: Size | None = None) -> jax.Array:
    """Filter an image by the FFT (cross-correlation, borders reflected without repeating the edge).

    XLA has no fast depthwise convolution on a CPU (30 times slower), and the cost of the FFT does not grow with the
    kernel.

    Args:
      planes: [C, H, W] float32.
      kernel: [K, K] float32, K odd.
      size: valid (height, width) of the image, if smaller than its canvas; may be traced.

    Returns:
      [C, H, W] float32; values outside the valid size are unspecified.

    Raises:
      ValueError: a kernel that is not square or has an even side.
    """
    _, height, width = planes.shape
    side = kernel.shape[-1]
    if side % 2 == 0 or kernel.shape != (side, side):
        raise ValueError(f"the kernel has shape {kernel.shape}: a blur kernel is square with an odd side")
    # Circular wrap-around stays within the reflected border, so the padded size (rounded up to a fast one) suffices.
    shape = (next_fast_len(height + side - 1, real=True), next_fast_len(width + side - 1, real=True))
    spectrum = jnp.fft.rfft2(reflect_pad(planes, side // 2, shape, size))  # [C, H', W'/2 + 1]
    filtered = jnp.fft.irfft2(spectrum * _response(kernel, shape)[None], s=shape)
    # Output (0, 0) is the sum over padded rows and columns 0 … K - 1, the window of pixel (0, 0).
    return filtered[:, :height, :width]


def _response(kernel: jax.Array, shape: tuple[int, int]) -> jax.Array:
    """Conjugate spectrum (for a correlation) of a small kernel: two thin matrix products instead of a padded FFT."""

    def phases(length: int, frequencies: int) -> np.ndarray:
        cycles = np.outer(np.arange(kernel.shape[0]), np.arange(frequencies)) % length
        return (2.0 * np.pi / length) * cycles

    rows, columns = phases(shape[0], shape[0]), phases(shape[1], shape[1] // 2 + 1)  # [K, H'], [K, W'/2 + 1]

    def product(a: np.ndarray | jax.Array, b: np.ndarray | jax.Array) -> jax.Array:
        return jnp.matmul(jnp.asarray(a, jnp.float32), jnp.asarray(b, jnp.float32), precision="highest")

    real, imaginary = product(kernel, np.cos(columns)), product(kernel, np.sin(columns))  # [K, W'/2 + 1]
    cosine, sine = np.cos(rows).T, np.sin(rows).T  # [H', K]
    return jax.lax.complex(
        product(cosine, real) - product(sine, imaginary), product(cosine, imaginary) + product(sine, real)
    )


def separable_blur(planes: jax.Array, row: jax.Array, column: jax.Array, size: Size | None = None) -> jax.Array:
    """Filter along both axes: `blur` with the outer product of two one-dimensional kernels.

    Args:
      planes: [C, H, W] float32.
      row: weights along a row, [K] float32, K odd.
      column: weights along a column, [K] float32.
      size: valid (height, width), as in `blur`.

    Returns:
      [C, H, W] float32; values outside the valid size are unspecified.
    """
    _, height, width = planes.shape
    reach = row.shape[0] // 2
    padded = reflect_pad(planes, reach, (height + 2 * reach, width + 2 * reach), size)
    rows = column[0] * padded[:, :height]
    for k in range(1, 2 * reach + 1):
        rows += column[k] * padded[:, k : k + height]
    result = row[0] * rows[:, :, :width]
    for k in range(1, 2 * reach + 1):
        result += row[k] * rows[:, :, k : k + width]
    return result


def blur_separably_if_possible(
    planes: jax.Array, kernel: jax.Array, size: Size | None = None, reach: int | None = None
) -> jax.Array:
    """`blur`, but along one axis after the other if the kernel is an outer product, such as an unrotated Gaussian.

    The separable blur is four times faster on a CPU. Under `vmap`, where both branches would be computed, use `blur`.

    Args:
      planes: [C, H, W] float32.
      kernel: [K, K] float32 that sums to 1.
      size: valid (height, width), as in `blur`.
      reach: the kernel is zero at larger distances from its center, which allows a smaller FFT. (The sums of the
        separable blur are not shortened: below some 16 terms XLA:CPU fuses the two passes and recomputes the first for
        each term of the second.)

    Returns:
      see `blur`.
    """
    row, column = kernel.sum(axis=0), kernel.sum(axis=1)
    is_product = jnp.max(jnp.abs(kernel - column[:, None] * row[None, :])) < 1e-8
    return jax.lax.cond(
        is_product,
        lambda planes: separable_blur(planes, row, column, size),
        lambda planes: blur(planes, crop_kernel(kernel, reach), size),
        planes,
    )


def crop_kernel(kernel: jax.Array, reach: int | None) -> jax.Array:
    """The central [2 reach + 1, 2 reach + 1] of a kernel; the whole kernel if `reach` is None."""
    if reach is None:
        return kernel
    center = kernel.shape[0] // 2
    extent = slice(center - reach, center + reach + 1)
    return kernel[extent, extent]
