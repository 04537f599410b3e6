"""All frames of an animated image, or all pages of a TIFF file."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import NamedTuple

from PIL import Image

from framer_jax.images import tiff
from framer_jax.images.decode import (
    ANIMATED,
    EIGHT_BITS,
    as_image,
    has_still,
    of_pillow,
    opened,
    read_header,
    read_image,
    read_raster,
)
from framer_jax.images.deep import is_deep
from framer_jax.images.image_data import ImageData

DEFAULT_DURATION = 100.0
"""Milliseconds that a frame is shown if its file does not say."""

WITHOUT_STILL = "the still image that stands for its animation elsewhere was left out"


class Timing(NamedTuple):
    """How an animation is shown.

    Attributes:
      durations: milliseconds of each frame; empty for the pages of a TIFF file.
      plays: how often it is shown, 0 for without end; None if the file does not say.
    """

    durations: tuple[float, ...] = ()
    plays: int | None = None


def read_timing(path: str | os.PathLike[str]) -> Timing:
    """How an animation is shown; errors as of `read_frames`."""
    if _is_tiff(path):
        return Timing()
    with opened(path) as file, Image.open(file) as image:
        if image.format not in ANIMATED:
            return Timing()
        durations = []
        for index in _frame_indices(image):
            image.seek(index)
            image.load()  # WebP and AVIF know it only then
            durations.append(float(image.info.get("duration") or DEFAULT_DURATION))
        return Timing(tuple(durations), _plays(image))


def _plays(image: Image.Image) -> int | None:
    """How often a decoded animation is shown, 0 for without end; None if its format does not say."""
    loop = image.info.get("loop")
    if image.format != "GIF":
        return None if loop is None else int(loop)
    # GIF states how often it is repeated, and one that says nothing is shown once.
    return 1 if loop is None else int(loop) and int(loop) + 1


def frame_sizes(path: str | os.PathLike[str]) -> tuple[tuple[int, int], ...]:
    """(height, width) of each upright frame, which differ between pages of a TIFF file; errors as of `read_frames`."""
    if not _is_tiff(path):
        header = read_header(path)
        return ((header.height, header.width),) * header.frames
    with opened(path) as file:
        return tuple(tiff.upright_sizes(file))


def read_frames(path: str | os.PathLike[str]) -> Iterator[ImageData]:
    """The frames of an image file one after the other, each complete (as it is shown) and upright.

    The still image that an animated PNG file may have for programs that show no animations is no frame. Files of one
    image, and each page of a TIFF file, are read as of `read_image`.

    Raises:
      FileNotFoundError, ImageError, MemoryError: as of framer_jax.images.decode.read_image.
    """
    count = read_header(path).frames
    if count > 1 and _is_tiff(path):
        yield from (as_image(read_raster(path, page)) for page in range(count))
    elif count > 1:
        with opened(path) as file:
            image = Image.open(file)
            for index in _frame_indices(image):
                image.seek(index)
                deep = is_deep(image.mode, getattr(image, "tile", ()))  # loading removes tiles
                notes = ((EIGHT_BITS,) if deep else ()) + ((WITHOUT_STILL,) if has_still(image) else ())
                image.load()
                yield as_image(of_pillow(image, image.info.get("icc_profile") or None, notes))
    else:
        yield read_image(path)


def _frame_indices(image: Image.Image) -> range:
    """Pillow's numbers of the frames."""
    return range(int(has_still(image)), getattr(image, "n_frames", 1))


def _is_tiff(path: str | os.PathLike[str]) -> bool:
    with opened(path) as file:
        return file.read(4) in tiff.SIGNATURES
