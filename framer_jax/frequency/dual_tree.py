"""The dual-tree complex wavelet transform of NHWC maps: six orientations per level, nearly shift-invariant.

N. Kingsbury, "Complex Wavelets for Shift Invariant Analysis and Filtering of Signals", Applied and Computational
Harmonic Analysis 10(3), 2001; filters: level 1 the (5, 7)-tap near-symmetric ones, further levels the 10-tap quarter-
sample-shift ones (his `near_sym_a` and `qshift_a`). The two trees along each axis are stored as the even and the odd
samples of one map, so level 1, with which every tree starts, is a filter without decimation. Borders are reflected.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from framer_jax.frequency.bands import full_precision
from framer_jax.frequency.wavelets import along_both_axes, check_map, check_multiple

FIRST_LOW = np.array([-1, 5, 12, 5, -1]) / 20
FIRST_HIGH = np.array([3, -15, -73, 170, -73, -15, 3]) / 280

SHIFT_LOW = np.array(
    [
        *(0.051130405283831656, -0.013975370246888838, -0.10983605166597087, 0.26383956105893763),
        *(0.76662846779303717, 0.56365571012705154, 0.00087362269521709679, -0.10023121950747624),
        *(-0.0016896812725281543, -0.0061818818921164382),
    ]
)
"""Low-pass filter of the tree in the odd samples; that of the other tree is its mirror image."""

ANGLES = (15, 45, 75, -75, -45, -15)
"""Orientations of the details in degrees, in the order of the first axis of `DualTreeBands.details`."""


class DualTreeBands(NamedTuple):
    """A decomposition with L levels.

    Attributes:
      low: the low band of the coarsest level, [B, 2 H / 2^L, 2 W / 2^L, C] real: four trees, two along each axis.
      details: from the coarsest level to the finest, [6, B, H / 2^l, W / 2^l, C] complex, in the order of `ANGLES`.
    """

    low: jax.Array
    details: tuple[jax.Array, ...]


def dual_tree(image: jax.Array, levels: int) -> DualTreeBands:
    """Transform a map; nearly a tight frame: the energy of all bands is about the energy of the image.

    Args:
      image: [B, H, W, C] floating point; H and W multiples of 2^levels.
      levels: number of levels, at least 1.

    Returns:
      float32 and complex64 bands (float64 and complex128 for a float64 image).

    Raises:
      ValueError: an unsupported shape or dtype.
    """
    check_map(image)
    check_multiple(image.shape, levels)
    low, details = full_precision(jnp.asarray(image)), []
    for level in range(levels):
        analysis = _quarter_shift_matrices if level else _first_level_matrices
        rows, columns = (jnp.asarray(analysis(side), low.dtype) for side in low.shape[1:3])
        bands = along_both_axes(rows, columns, low)
        pairs = [_oriented(band) for band in (bands[1, 0], bands[1, 1], bands[0, 1])]  # horizontal, diagonal, vertical
        details.append(jnp.stack([*(pair[0] for pair in pairs), *(pair[1] for pair in reversed(pairs))]))
        low = bands[0, 0]
    return DualTreeBands(low, tuple(reversed(details)))


def _oriented(band: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Combine the four trees of a real band [B, 2h, 2w, C] to the complex bands of an angle and of its mirror image."""
    a, b = band[:, 0::2, 0::2], band[:, 0::2, 1::2]
    c, d = band[:, 1::2, 0::2], band[:, 1::2, 1::2]
    factor = np.sqrt(0.5).astype(band.dtype)
    return jax.lax.complex((a - d) * factor, (b + c) * factor), jax.lax.complex((a + d) * factor, (b - c) * factor)


def _first_level_matrices(length: int) -> np.ndarray:
    """Low- and high-pass matrices of level 1, [2, length, length]."""
    positions = np.arange(length)
    return np.stack([_filter_matrix(taps, positions + len(taps) // 2, 1, length) for taps in (FIRST_LOW, FIRST_HIGH)])


def _quarter_shift_matrices(length: int) -> np.ndarray:
    """Low- and high-pass matrices of a further level, [2, length / 2, length].

    Each tree is filtered and decimated by two; the results are interleaved.
    """
    high = SHIFT_LOW[::-1] * (-1.0) ** np.arange(len(SHIFT_LOW))
    positions = 4 * np.arange(length // 4) + len(SHIFT_LOW)
    matrices = np.zeros((2, length // 2, length))
    for matrix, odd_taps, first_row in zip(matrices, (SHIFT_LOW, high), (0, 1), strict=True):
        # The high-pass rows are swapped: otherwise the two high bands would be half a period from a Hilbert pair.
        matrix[first_row::2] = _filter_matrix(odd_taps[::-1], positions, 2, length)
        matrix[1 - first_row :: 2] = _filter_matrix(odd_taps, positions + 1, 2, length)
    return matrices


def _filter_matrix(taps: np.ndarray, positions: np.ndarray, stride: int, length: int) -> np.ndarray:
    """[len(positions), length]: row k has taps[i] at sample positions[k] - stride i of the reflected signal."""
    matrix = np.zeros((len(positions), length))
    for index, tap in enumerate(taps):
        sample = (positions - stride * index) % (2 * length)
        np.add.at(matrix, (np.arange(len(positions)), np.minimum(sample, 2 * length - 1 - sample)), tap)
    return matrix
