"""Folders of images to score: listing, headers, reading."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from framer_jax.data.files import image_paths
from framer_jax.inference.images import read_image

_ORIENTATION = 0x0112  # EXIF tag; its values 5..8 mean a rotation by 90°


def image_files(folder: str | Path) -> list[Path]:
    """List the images of a folder recursively, sorted by name (`image_paths`).

    Raises:
      FileNotFoundError: no such folder.
      ValueError: the folder holds no image.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder")
    files = image_paths(folder)
    if not files:
        raise ValueError(f"{folder} holds no images")
    return files


def image_size(path: Path) -> tuple[int, int]:
    """(height, width) of the upright image, from its header.

    Raises:
      ValueError: not an image.
    """
    try:
        with Image.open(path) as image:
            width, height = image.size
            rotated = image.getexif().get(_ORIENTATION, 1) in (5, 6, 7, 8)
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path}: cannot be read as an image ({error})") from error
    return (width, height) if rotated else (height, width)


def read_pixels(path: Path) -> npt.NDArray[np.float32]:
    """Read the colors of an image file, [H, W, 3] float32 in [0, 1]; transparency is ignored.

    Raises:
      ValueError: not an image, or damaged.
    """
    return read_image(path).pixels.astype(np.float32, copy=False)
