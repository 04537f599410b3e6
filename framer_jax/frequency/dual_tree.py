"""The dual-tree complex wavelet transform of NHWC maps: six orientations a level, nearly blind to small shifts.

N. Kingsbury, "Complex Wavelets for Shift Invariant Analysis and Filtering of Signals", Applied and Computational
Harmonic Analysis 10(3), 2001; filters: level 1 the (5, 7)-tap near-symmetric ones, further levels the 10-tap quarter-
sample-shift ones (his `near_sym_a` and `qshift_a`). Two trees along each axis are kept as the even and the odd samples
of one map, so level 1, which every tree starts with, is a filter without decimation. The borders are mirrored.
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
"""Low-pass filter of the tree that the odd samples are; the other tree's is its mirror image."""

ANGLES = (15, 45, 75, -75, -45, -15)
"""Orientations of the details in degrees, in the order in which they are given."""


class DualTreeBands(NamedTuple):
    """A decomposition.

    Attributes:
      low: [B, 2 H / 2^L, 2 W / 2^L, C] real, the low band of the coarsest level L: the four trees, two along each axis.
      details: from the coarsest level to the finest, [6, B, H / 2^l, W / 2^l, C] complex, in the order of `ANGLES`.
    """

    low: jax.Array
    details: tuple[jax.Array, ...]


def dual_tree(image: jax.Array, levels: int) -> DualTreeBands:
    """The transform; nearly a tight frame: the squared magnitudes of all bands add up to about the image's.

    Args:
      image: [B, H, W, C] floating point; H and W multiples of 2^levels.
      levels: at least 1.

    Returns:
      float32 and complex64 bands (of a float64 image, float64 and complex128).

    Raises:
      ValueError: the shape or the dtype does not fit.
    """
    check_map(image)
    check_multiple(image.shape, levels)
    low, details = full_precision(jnp.asarray(image)), []
    for level in range(levels):
        analysis = _shifted if level else _first
        rows, columns = (jnp.asarray(analysis(side), low.dtype) for side in low.shape[1:3])
        bands = along_both_axes(rows, columns, low)
        pairs = [_oriented(band) for band in (bands[1, 0], bands[1, 1], bands[0, 1])]  # horizontal, diagonal, vertical
        details.append(jnp.stack([*(pair[0] for pair in pairs), *(pair[1] for pair in reversed(pairs))]))
        low = bands[0, 0]
    return DualTreeBands(low, tuple(reversed(details)))


def _oriented(band: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The four trees of a real band [B, 2h, 2w, C] → the complex bands of an angle and of its mirror image."""
    a, b = band[:, 0::2, 0::2], band[:, 0::2, 1::2]
    c, d = band[:, 1::2, 0::2], band[:, 1::2, 1::2]
    root = np.sqrt(0.5).astype(band.dtype)
    return jax.lax.complex((a - d) * root, (b + c) * root), jax.lax.complex((a + d) * root, (b - c) * root)


def _first(length: int) -> np.ndarray:
    """[2, length, length] low- and high-pass matrices of level 1."""
    places = np.arange(length)
    return np.stack([_matrix(taps, places + len(taps) // 2, 1, length) for taps in (FIRST_LOW, FIRST_HIGH)])


def _shifted(length: int) -> np.ndarray:
    """[2, length / 2, length] matrices of a further level: each tree filtered, decimated by two, then interleaved."""
    high = SHIFT_LOW[::-1] * (-1.0) ** np.arange(len(SHIFT_LOW))
    places = 4 * np.arange(length // 4) + len(SHIFT_LOW)
    matrices = np.zeros((2, length // 2, length))
    for matrix, odd, swapped in zip(matrices, (SHIFT_LOW, high), (0, 1), strict=True):
        # Without the exchange the two high bands would differ by half a period from a Hilbert pair.
        matrix[swapped::2] = _matrix(odd[::-1], places, 2, length)
        matrix[1 - swapped :: 2] = _matrix(odd, places + 1, 2, length)
    return matrices


def _matrix(taps: np.ndarray, places: np.ndarray, stride: int, length: int) -> np.ndarray:
    """[len(places), length]: row k takes taps[i] times sample places[k] - stride i of the mirrored signal."""
    matrix = np.zeros((len(places), length))
    for index, tap in enumerate(taps):
        sample = (places - stride * index) % (2 * length)
        np.add.at(matrix, (np.arange(len(places)), np.minimum(sample, 2 * length - 1 - sample)), tap)
    return matrix
