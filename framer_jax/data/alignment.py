"""How well LR images lie on their HR images: shifts by phase correlation, which are reported and not corrected.

Phase correlation: Kuglin and Hines, "The phase correlation image alignment method", 1975.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

LARGEST = 256
"""Largest side of the central part of an LR image that is compared, pixels."""

CUTOFF = 0.2
"""Standard deviation of the Gaussian low-pass filter on the correlation, cycles per LR pixel: above it, LR images hold
noise, and their HR images what they have lost."""

LEAST_PEAK = 0.25
"""Least height of the correlation's peak, of at most 1, for an estimate: unrelated photographs stay below 0.15, images
without texture have no peak."""

NOTABLE = 0.5
"""A shift of more than this many LR pixels is counted as misaligned."""


class Shift(NamedTuple):
    """The position of an LR image relative to its HR image.

    Attributes:
      down, right: LR pixels by which its content is displaced.
      peak: height of the correlation's peak, 1 for equal images.
    """

    down: float
    right: float
    peak: float

    @property
    def length(self) -> float:
        """LR pixels."""
        return float(np.hypot(self.down, self.right))


def estimated_shift(hr: npt.NDArray[np.uint8], lr: npt.NDArray[np.uint8]) -> Shift | None:
    """Estimate the shift between an HR image, reduced by area averaging, and its LR image.

    Args:
      hr: [scale * h, scale * w, 3].
      lr: [h, w, 3]; its central part of at most `LARGEST` pixels a side is compared.

    Returns:
      The shift, accurate to about a tenth of a pixel; None if the images do not correlate (`LEAST_PEAK`).
    """
    scale = hr.shape[0] // lr.shape[0]
    sides = [min(side, LARGEST) for side in lr.shape[:2]]
    top, left = ((side - part) // 2 for side, part in zip(lr.shape[:2], sides, strict=True))
    low = lr[top : top + sides[0], left : left + sides[1]].mean(axis=2)
    high = hr[scale * top : scale * (top + sides[0]), scale * left : scale * (left + sides[1])].mean(axis=2)
    high = high.reshape(sides[0], scale, sides[1], scale).mean(axis=(1, 3))
    window = np.outer(np.hanning(sides[0]), np.hanning(sides[1]))
    spectra = [np.fft.fft2((image - image.mean()) * window) for image in (low, high)]
    cross = spectra[0] * spectra[1].conj()
    magnitude = np.abs(cross)
    if not magnitude.max() > 0:
        return None
    frequencies = [np.fft.fftfreq(side) / CUTOFF for side in sides]
    low_pass = np.exp(-0.5 * (frequencies[0][:, None] ** 2 + frequencies[1][None, :] ** 2))
    correlation = np.fft.ifft2(low_pass * cross / np.maximum(magnitude, 1e-9 * magnitude.max())).real
    correlation *= correlation.size / low_pass.sum()
    place = np.unravel_index(np.argmax(correlation), correlation.shape)
    peak = float(correlation[place])
    if peak < LEAST_PEAK:
        return None
    down, right = (_refined(correlation, (int(place[0]), int(place[1])), axis) for axis in (0, 1))
    return Shift(down, right, peak)


def _refined(correlation: npt.NDArray[np.float64], place: tuple[int, int], axis: int) -> float:
    """The signed position of the peak along an axis, by a parabola through the logarithms, exact for a Gaussian."""
    line = np.take(correlation, place[1 - axis], axis=1 - axis)
    side, index = len(line), place[axis]
    before, peak, after = np.log(np.maximum(line[[index - 1, index, (index + 1) % side]], 1e-6))
    curvature = before - 2 * peak + after
    offset = 0.5 * (before - after) / curvature if curvature < 0 else 0.0
    return float((index + side // 2) % side - side // 2 + offset)


def alignment_summary(names: Sequence[str], shifts: Sequence[Shift | None], total: int) -> str:
    """One line on the alignment of pairs.

    Args:
      names: of the pairs that were compared.
      shifts: their shifts, see `estimated_shift`.
      total: number of all pairs.
    """
    known = [(name, shift) for name, shift in zip(names, shifts, strict=True) if shift is not None]
    compared = f"{len(names)} of {total} pairs compared by phase correlation"
    unknown = f"; {len(names) - len(known)} show too little in common for an estimate" * (len(known) < len(names))
    if not known:
        return f"{compared}{unknown}"
    medians = np.median([shift[:2] for _, shift in known], axis=0)
    down, right = (round(float(median), 2) + 0.0 for median in medians)  # no -0.00
    name, largest = max(known, key=lambda item: item[1].length)
    apart = sum(shift.length > NOTABLE for _, shift in known)
    return (
        f"{compared}: the LR images lie {down:+.2f} down and {right:+.2f} right of the HR images in the median, "
        f"{largest.length:.2f} at most ({name}), more than {NOTABLE} in {apart} pairs (in LR pixels; nothing is "
        f"corrected){unknown}"
    )
