"""Blur kernels of the Real-ESRGAN degradation, in NumPy: drawn beside the crop, from the record's own generator.

Source: Wang et al., Real-ESRGAN (2021), section 3.2; generalised and plateau kernels after Liu et al. (2020).
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from scipy.special import j1

CANVAS = 21
"""Side of the kernel canvas; smaller kernels are centred in it."""

Kernel = npt.NDArray[np.float32]


@lru_cache(maxsize=32)
def _grid(size: int) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Centred integer coordinates (x along columns, y along rows), each [size, size]."""
    if size % 2 == 0:
        raise ValueError(f"a blur kernel has an odd size, so that it has a centre; got {size}")
    axis = np.arange(size, dtype=np.float64) - size // 2
    x, y = np.meshgrid(axis, axis)
    return x, y


def _quadratic_form(size: int, sigma: tuple[float, float], angle: float) -> npt.NDArray[np.float64]:
    """gᵀ Σ⁻¹ g at each grid point, Σ = R diag(σₓ², σᵧ²) Rᵀ with R the rotation by `angle`."""
    x, y = _grid(size)
    cosine, sine = math.cos(angle), math.sin(angle)
    along = (cosine * x + sine * y) / sigma[0]
    across = (cosine * y - sine * x) / sigma[1]
    return along * along + across * across


def _normalised(kernel: npt.NDArray[np.float64]) -> Kernel:
    return (kernel / kernel.sum()).astype(np.float32)


def gaussian(size: int, sigma: tuple[float, float], angle: float = 0.0) -> Kernel:
    """Gaussian exp(-q/2), q = gᵀ Σ⁻¹ g.

    Args:
      size: odd side in pixels.
      sigma: standard deviations (x, y) in pixels before rotation; isotropic if equal.
      angle: rotation in radians.

    Returns:
      [size, size] float32 that sums to 1.

    Raises:
      ValueError: an even size.
    """
    return _normalised(np.exp(-0.5 * _quadratic_form(size, sigma, angle)))


def generalized_gaussian(size: int, sigma: tuple[float, float], angle: float, beta: float) -> Kernel:
    """Generalised Gaussian exp(-q^β / 2): β < 1 has long tails, β > 1 a flat top. Arguments as `gaussian`."""
    return _normalised(np.exp(-0.5 * _quadratic_form(size, sigma, angle) ** beta))


def plateau(size: int, sigma: tuple[float, float], angle: float, beta: float) -> Kernel:
    """Plateau 1 / (1 + q^β). Arguments as `gaussian`."""
    return _normalised(1.0 / (1.0 + _quadratic_form(size, sigma, angle) ** beta))


def circular_low_pass(size: int, cutoff: float) -> Kernel:
    """2-D sinc filter ω J₁(ω r) / (2 π r): an ideal circular low-pass that rings.

    Args:
      size: odd side in pixels.
      cutoff: ω in radians per pixel, (0, π].

    Returns:
      [size, size] float32 that sums to 1.
    """
    x, y = _grid(size)
    radius = np.hypot(x, y)
    centre = radius == 0.0
    values = cutoff * j1(cutoff * radius) / (2.0 * math.pi * np.where(centre, 1.0, radius))
    return _normalised(np.where(centre, cutoff * cutoff / (4.0 * math.pi), values))


def delta() -> Kernel:
    """The kernel that changes nothing, on the canvas."""
    kernel = np.zeros((CANVAS, CANVAS), np.float32)
    kernel[CANVAS // 2, CANVAS // 2] = 1.0
    return kernel


def on_canvas(kernel: Kernel) -> Kernel:
    """Centre an odd [size, size] kernel in zeros, [21, 21].

    Raises:
      ValueError: the kernel is larger than the canvas.
    """
    size = kernel.shape[0]
    if size > CANVAS:
        raise ValueError(f"the blur canvas is {CANVAS} x {CANVAS}; a kernel of size {size} does not fit")
    if size == CANVAS:
        return kernel
    canvas = np.zeros((CANVAS, CANVAS), np.float32)
    start = (CANVAS - size) // 2
    canvas[start : start + size, start : start + size] = kernel
    return canvas
