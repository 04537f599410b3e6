"""Folders of images to score: listing, headers, reading."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from framer_jax.data.files import Listing, list_images, summary_of
from framer_jax.images.decode import read_header, read_image


def image_files(folder: str | Path) -> Listing:
    """List the images of a folder recursively, sorted by name, and what is left out (`list_images`).

    Raises:
      FileNotFoundError: no such folder.
      ValueError: the folder holds no image.
    """
    if str(folder) and not Path(folder).is_dir():
        raise FileNotFoundError(f"{folder}: no such folder")
    listing = list_images(folder)
    if not listing.paths:
        more = f"; {summary_of(listing.left_out)}" if listing.left_out else ""
        raise ValueError(f"{folder} holds no images{more}")
    return listing


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
