"""Folders of images to score: listing, headers, reading."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from framer_jax.data.files import image_paths
from framer_jax.images.decode import read_header, read_image


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
    header = read_header(path)
    return header.height, header.width


def read_pixels(path: Path) -> npt.NDArray[np.float32]:
    """Read the colors of an image file, [H, W, 3] float32 in [0, 1]; transparency is ignored.

    Raises:
      ValueError: not an image, or damaged.
    """
    return read_image(path).pixels.astype(np.float32, copy=False)
