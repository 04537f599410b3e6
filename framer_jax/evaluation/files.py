"""Folders of images to score: listing, headers, reading, and the colors of images that are compared."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from framer_jax.data.files import Listing, list_images, summary_of
from framer_jax.images.decode import read_header, read_image
from framer_jax.images.image_data import ImageData
from framer_jax.images.profiles import SRGB, profile_name, srgb_pixels

Pixels = npt.NDArray[np.float32]


class ComparedPixels(NamedTuple):
    """An image and its reference as they are compared.

    Attributes:
      image: [H, W, 3] float32 in [0, 1].
      reference: the same of the reference.
      notes: what differs between the files, or was changed, a few words each.
    """

    image: Pixels
    reference: Pixels
    notes: tuple[str, ...]


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


def compared_pixels(image: ImageData, reference: ImageData) -> ComparedPixels:
    """The pixels of an image and of its reference in the same color space.

    Values of equal color profiles are compared as they are stored, as every published table does. If the profiles
    differ, both are converted to sRGB, at 8 bits; a missing profile means sRGB.

    Raises:
      ValueError: a profile that cannot be used.
    """
    notes = [f"its reference: {note}" for note in reference.notes]
    if image.bits != reference.bits:
        notes.append(f"{image.bits} bits per channel against {reference.bits} of its reference")
    if image.mode.startswith("L") != reference.mode.startswith("L"):
        notes.append("a gray image against a colored one")
    if reference.alpha is not None:
        notes.append("the transparency of its reference is ignored")
    profiles = [profile_name(each.icc) for each in (image, reference)]
    if image.icc == reference.icc or profiles[0] == profiles[1] == SRGB:
        return ComparedPixels(image.pixels, reference.pixels, tuple(notes))
    notes.append(
        f"its color profile ({profiles[0]}) is not that of its reference ({profiles[1]}): compared in sRGB, at 8 bits"
    )
    return ComparedPixels(srgb_pixels(image), srgb_pixels(reference), tuple(notes))
