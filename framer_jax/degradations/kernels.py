"""Blur kernels of the Real-ESRGAN degradation, in NumPy, for the data worker.

Source: Wang et al., Real-ESRGAN (2021), section 3.2; generalized and plateau kernels after Liu et al. (2020).
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from scipy.special import j1

CANVAS = 21
"""Side of the kernel canvas; smaller kernels are centered in it."""

Kernel = npt.NDArray[np.float32]


@lru_cache(maxsize=32)
def _grid(size: int) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Centered integer coordinates (x along columns, y along rows), each [size, size]."""
    if size % 2 == 0:
        raise ValueError(f"size is {size}: a blur kernel needs an odd size, so that it has a center")
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


def _normalize(kernel: npt.NDArray[np.float64]) -> Kernel:
    return (kernel / kernel.sum()).astype(np.float32)


def gaussian(size: int, sigma: tuple[float, float], angle: float = 0.0) -> Kernel:
    """Gaussian kernel exp(-q/2), q = gᵀ Σ⁻¹ g.

    Args:
      size: odd side in pixels.
      sigma: standard deviations (x, y) in pixels before rotation; the kernel is isotropic if they are equal.
      angle: rotation in radians.

    Returns:
      [size, size] float32 that sums to 1.

    Raises:
      ValueError: an even size.
    """
    return _normalize(np.exp(-0.5 * _quadratic_form(size, sigma, angle)))


def generalized_gaussian(size: int, sigma: tuple[float, float], angle: float, beta: float) -> Kernel:
    """Generalized Gaussian exp(-q^β / 2), long-tailed for β < 1, flat-topped for β > 1; see `gaussian`."""
    return _normalize(np.exp(-0.5 * _quadratic_form(size, sigma, angle) ** beta))


def plateau(size: int, sigma: tuple[float, float], angle: float, beta: float) -> Kernel:
    """Plateau kernel 1 / (1 + q^β); see `gaussian`."""
    return _normalize(1.0 / (1.0 + _quadratic_form(size, sigma, angle) ** beta))


def circular_low_pass(size: int, cutoff: float) -> Kernel:
    """2-D sinc filter ω J₁(ω r) / (2 π r): an ideal circular low-pass, which causes ringing.

    Args:
      size: odd side in pixels.
      cutoff: ω in radians per pixel, in (0, π].

    Returns:
      [size, size] float32 that sums to 1.
    """
    x, y = _grid(size)
    radius = np.hypot(x, y)
    center = radius == 0.0
    values = cutoff * j1(cutoff * radius) / (2.0 * math.pi * np.where(center, 1.0, radius))
    return _normalize(np.where(center, cutoff * cutoff / (4.0 * math.pi), values))


def delta() -> Kernel:
    """The identity kernel, on the canvas."""
    kernel = np.zeros((CANVAS, CANVAS), np.float32)
    kernel[CANVAS // 2, CANVAS // 2] = 1.0
    return kernel


def on_canvas(kernel: Kernel) -> Kernel:
    """Pad an odd kernel [size, size] with zeros to [21, 21].

    Raises:
      ValueError: the kernel is larger than the canvas.
    """
    size = kernel.shape[0]
    if size > CANVAS:
        raise ValueError(f"a kernel of size {size} does not fit on the canvas of {CANVAS} x {CANVAS}")
    if size == CANVAS:
        return kernel
    canvas = np.zeros((CANVAS, CANVAS), np.float32)
    start = (CANVAS - size) // 2
    canvas[start : start + size, start : start + size] = kernel
    return canvas
