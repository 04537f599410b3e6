"""Decoded pixels in the depth of their file, and what cannot be read."""

from __future__ import annotations

import os
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from framer_jax.images.metadata import NONE, Metadata


class ImageError(ValueError):
    """An image file that cannot be read.

    Attributes:
      reason: why, without the name of the file.
    """

    def __init__(self, path: str | os.PathLike[str], reason: str):
        super().__init__(f"{os.fspath(path)}: {reason}")
        self.reason = reason

    def __reduce__(self) -> tuple[type, tuple[str, str]]:  # so that it leaves a worker process
        return type(self), (str(self).removesuffix(f": {self.reason}"), self.reason)


class Raster(NamedTuple):
    """An upright decoded image.

    Attributes:
      values: [H, W, C] uint8, uint16 or float32 in [0, 1]; gray, gray and alpha, RGB, or RGB and alpha for C = 1 to 4.
        Colors are not multiplied by alpha.
      icc: ICC color profile of the values, or None.
      notes: what reading the file lost, one sentence each.
      metadata: what the file says about the photograph.
    """

    values: np.ndarray
    icc: bytes | None = None
    notes: tuple[str, ...] = ()
    metadata: Metadata = NONE

    @property
    def mode(self) -> str:
        """'L', 'LA', 'RGB' or 'RGBA'."""
        return ("L", "LA", "RGB", "RGBA")[self.values.shape[2] - 1]

    @property
    def bits(self) -> int:
        """Bits per channel that are worth writing: 8, or 16 for anything finer."""
        return 8 if self.values.dtype == np.uint8 else 16


def to_float(values: np.ndarray) -> npt.NDArray[np.float32]:
    """Values of a `Raster` as float32 in [0, 1]."""
    if values.dtype == np.float32:
        return values
    return values.astype(np.float32) / np.float32(np.iinfo(values.dtype).max)


def to_uint8(values: np.ndarray) -> npt.NDArray[np.uint8]:
    """Values of a `Raster` rounded to 8 bits."""
    if values.dtype == np.uint8:
        return values
    return np.rint(to_float(values) * np.float32(255)).astype(np.uint8)


def colors(values: np.ndarray) -> np.ndarray:
    """The colors [H, W, 3] of values [H, W, C], without alpha; gray is repeated."""
    if values.shape[2] <= 2:
        return np.repeat(values[:, :, :1], 3, axis=2)
    return np.ascontiguousarray(values[:, :, :3])


def alpha(values: np.ndarray) -> np.ndarray | None:
    """The alpha channel [H, W] of values [H, W, C], or None."""
    return np.ascontiguousarray(values[:, :, -1]) if values.shape[2] in (2, 4) else None


def unmultiplied(values: np.ndarray) -> npt.NDArray[np.float32]:
    """Values whose colors are multiplied by alpha, as float32 without; colors are 0 where alpha is."""
    values = to_float(values)
    opacity = values[:, :, -1:]
    plain = np.divide(values[:, :, :-1], opacity, out=np.zeros_like(values[:, :, :-1]), where=opacity > 0)
    return np.concatenate([np.clip(plain, 0, 1), opacity], axis=2)


def upright(values: np.ndarray, orientation: int) -> np.ndarray:
    """Values [H, W, C] turned as their EXIF orientation, 1 to 8, says."""
    if orientation >= 5:
        values = values.transpose(1, 0, 2)
    if orientation in (2, 3, 6, 7):
        values = values[:, ::-1]
    if orientation in (3, 4, 7, 8):
        values = values[::-1]
    return np.ascontiguousarray(values)
