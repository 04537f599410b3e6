"""All frames of an animated image, or all pages of a TIFF file."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import NamedTuple

from PIL import Image

from framer_jax.images.decode import ANIMATED, EIGHT_BITS, as_image, of_pillow, opened, read_header, read_image
from framer_jax.images.deep import is_deep
from framer_jax.images.image_data import ImageData

DEFAULT_DURATION = 100.0
"""Milliseconds that a frame is shown if its file does not say."""


class Timing(NamedTuple):
    """How an animation is shown.

    Attributes:
      durations: milliseconds of each frame; empty for the pages of a TIFF file.
      loop: how often it is repeated, 0 for without end; None if the file does not say.
    """

    durations: tuple[float, ...] = ()
    loop: int | None = None


def read_timing(path: str | os.PathLike[str]) -> Timing:
    """How an animation is shown; errors as of `read_frames`."""
    with opened(path) as file, Image.open(file) as image:
        if image.format not in ANIMATED or image.format == "TIFF":
            return Timing()
        durations = []
        for index in range(getattr(image, "n_frames", 1)):
            image.seek(index)
            image.load()  # WebP and AVIF know it only then
            durations.append(float(image.info.get("duration") or DEFAULT_DURATION))
        loop = image.info.get("loop")
        return Timing(tuple(durations), None if loop is None else int(loop))


def frame_sizes(path: str | os.PathLike[str]) -> tuple[tuple[int, int], ...]:
    """(height, width) of each upright frame, which differ between pages of a TIFF file; errors as of `read_frames`."""
    with opened(path) as file, Image.open(file) as image:
        if image.format != "TIFF":
            header = read_header(path)
            return ((header.height, header.width),) * header.frames
        sizes = []
        for index in range(getattr(image, "n_frames", 1)):
            image.seek(index)
            width, height = image.size  # of the upright page, as Pillow states it for TIFF
            sizes.append((height, width))
        return tuple(sizes)


def read_frames(path: str | os.PathLike[str]) -> Iterator[ImageData]:
    """The frames of an image file one after the other, each complete (as it is shown) and upright.

    16-bit color of a page of several is read as 8-bit. Files of one image are read as of `read_image`.

    Raises:
      FileNotFoundError, ImageError, MemoryError: as of framer_jax.images.decode.read_image.
    """
    with opened(path) as file:
        image = Image.open(file)
        count = getattr(image, "n_frames", 1) if image.format in ANIMATED else 1
        if count > 1:
            for index in range(count):
                image.seek(index)
                notes = (
                    (EIGHT_BITS,) if is_deep(image.mode, getattr(image, "tile", ())) else ()
                )  # loading removes tiles
                image.load()
                yield as_image(of_pillow(image, image.info.get("icc_profile") or None, notes))
            return
    yield read_image(path)
