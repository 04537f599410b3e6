"""An image in memory: pixels, and what the network does not see."""

from __future__ import annotations

import io
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.lib.mixins import NDArrayOperatorsMixin
from PIL import Image

from framer_jax.images.metadata import NONE, Metadata, exif_for

MODES = ("L", "LA", "RGB", "RGBA")

SHOWN_SIDE = 2048
"""Notebooks show an image reduced so that no side is longer than this."""


@dataclass(frozen=True, eq=False, repr=False)
class ImageData(NDArrayOperatorsMixin):
    """An image and the properties of its file that are written back.

    NumPy takes it as the array of its pixels: `np.asarray(image)`, `image[:64, :64]`, `image - other` and `image.shape`
    are those of `image.pixels`, and matplotlib's `imshow` shows them. `to_pillow` gives a Pillow image; notebooks show
    it.

    Attributes:
      pixels: [H, W, 3] float32 in [0, 1], not multiplied by alpha; three equal channels for gray.
      alpha: [H, W] float32 in [0, 1], or None for an image without transparency.
      mode: Pillow mode to write: 'L', 'LA', 'RGB' or 'RGBA'.
      icc: ICC color profile, or None.
      bits: bits per channel, 8 or 16.
      notes: what reading the file lost, one sentence each.
      metadata: what the file says about the photograph: EXIF, XMP, IPTC and resolution.

    Raises:
      ValueError: arrays of another shape or dtype, or a mode or depth that is none.
    """

    pixels: np.ndarray
    alpha: np.ndarray | None = None
    mode: str = "RGB"
    icc: bytes | None = None
    bits: int = 8
    notes: tuple[str, ...] = ()
    metadata: Metadata = NONE

    def __post_init__(self) -> None:
        for name, array, rank in (("pixels", self.pixels, 3), ("alpha", self.alpha, 2)):
            if array is None and name == "alpha":
                continue
            if not isinstance(array, np.ndarray) or array.dtype != np.float32 or array.ndim != rank:
                kind = f"{array.dtype}{list(array.shape)}" if isinstance(array, np.ndarray) else type(array).__name__
                needed = "[height, width, 3]" if rank == 3 else "[height, width]"
                raise ValueError(f"{name} of an image must be a NumPy array float32 {needed}, not {kind}")
        if self.pixels.shape[2] != 3 or (self.alpha is not None and self.alpha.shape != self.pixels.shape[:2]):
            shapes = f"pixels {self.pixels.shape}" + ("" if self.alpha is None else f" and alpha {self.alpha.shape}")
            raise ValueError(
                f"an image needs pixels [height, width, 3], and alpha [height, width] or None, not {shapes}"
            )
        if self.mode not in MODES:
            raise ValueError(f"mode of an image is {self.mode!r}: it must be one of {', '.join(MODES)}")
        if self.bits not in (8, 16):
            raise ValueError(f"bits of an image are {self.bits!r}: they must be 8 or 16")

    def _replace(self, **changes: Any) -> ImageData:
        """The image with other attributes."""
        return replace(self, **changes)

    @property
    def shape(self) -> tuple[int, ...]:
        """(H, W, 3)."""
        return self.pixels.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """float32."""
        return self.pixels.dtype

    @property
    def ndim(self) -> int:
        """3."""
        return self.pixels.ndim

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, index: Any) -> Any:
        return self.pixels[index]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.array(self.pixels, dtype) if copy else np.asarray(self.pixels, dtype)

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **keywords: Any) -> Any:
        arrays = (value.pixels if isinstance(value, ImageData) else value for value in inputs)
        return getattr(ufunc, method)(*arrays, **keywords)

    def __repr__(self) -> str:
        height, width = self.pixels.shape[:2]
        notes = f", {'; '.join(self.notes)}" if self.notes else ""
        return f"<ImageData {width}x{height}, {self.mode}, {self.bits} bits{notes}>"

    def to_pillow(self) -> Image.Image:
        """The image as a Pillow image with 8 bits per channel, with its alpha, color profile and metadata.

        Pillow's `save` writes the profile by itself, and what else is in `info` if it is asked to (`exif=`, `xmp=`).
        """
        values = np.clip(self.pixels, 0, 1)
        if self.mode.startswith("L"):
            values = values @ np.array((0.299, 0.587, 0.114), np.float32)  # as Pillow converts to gray
        if self.alpha is not None:
            values = np.dstack([values, self.alpha])
        image = Image.fromarray(np.rint(np.clip(values, 0, 1) * np.float32(255)).astype(np.uint8))
        if self.icc:
            image.info["icc_profile"] = self.icc
        if exif := exif_for(self.metadata, *self.pixels.shape[:2]):
            image.info["exif"] = exif.tobytes()
        if self.metadata.xmp:
            image.info["xmp"] = self.metadata.xmp
        if self.metadata.dpi:
            image.info["dpi"] = self.metadata.dpi
        return image

    def _repr_png_(self) -> bytes:
        image = self.to_pillow()
        factor = -(-max(image.size) // SHOWN_SIDE)
        if factor > 1:
            image = image.reduce(factor)
        file = io.BytesIO()
        image.save(file, "PNG", **({"icc_profile": self.icc} if self.icc else {}))
        return file.getvalue()
