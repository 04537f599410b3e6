"""Images as text within a page: encoding, expected size, thumbnails."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

from framer_jax.evaluation.crops import Crop, automatic_crop, default_crop_size
from framer_jax.evaluation.files import image_size
from framer_jax.evaluation.image_sets import ComparedImage, ImageSet
from framer_jax.images.decode import read_rgb

QUALITY = 92
"""Quality of WebP and JPEG images."""

THUMBNAIL = 96
"""Longest side of a thumbnail in pixels."""

BASE64 = 4 / 3
"""Characters per byte of an image within the page."""


class Encoding(NamedTuple):
    """How images are encoded.

    Attributes:
      name: Pillow's name of the format.
      mime: its media type.
      bytes_per_pixel: what a pixel of a photograph takes on average.
      description: for the page, in words.
    """

    name: str
    mime: str
    bytes_per_pixel: float
    description: str


ENCODINGS = {
    "png": Encoding("PNG", "image/png", 1.7, "PNG, lossless, 8 bits per channel"),
    "webp": Encoding("WEBP", "image/webp", 0.35, f"WebP, quality {QUALITY}"),
    "jpeg": Encoding("JPEG", "image/jpeg", 0.4, f"JPEG, quality {QUALITY}, no chroma subsampling"),
}


class EmbeddedImage(NamedTuple):
    """One image of a page.

    Attributes:
      sources: base64 text of the encoded image by each method, then of the reference and the LR image if there are any.
      thumbnail: base64 text of a small WebP image.
      crop: the square in which the methods disagree most.
    """

    sources: tuple[str, ...]
    thumbnail: str
    crop: Crop


def choose_encoding(image_set: ImageSet, budget: float, max_side: int | None = None) -> str:
    """'png' if the page is expected to stay within the budget; 'webp' otherwise.

    Args:
      image_set: the images.
      budget: bytes that the page may have.
      max_side: see `embed_images`.
    """
    return "png" if expected_bytes(image_set, "png", max_side) <= budget else "webp"


def expected_bytes(image_set: ImageSet, encoding: str, max_side: int | None = None) -> float:
    """About how many bytes the images take in the page; those of PNG files are taken from the files.

    Args:
      image_set: the images.
      encoding: key of `ENCODINGS`.
      max_side: see `embed_images`.
    """
    total = 0.0
    for image in image_set.images:
        for path, height, width in _sources(image):
            shrunk = min(1.0, max_side / max(height, width)) if max_side else 1.0
            if encoding == "png" and shrunk == 1 and path.suffix.lower() == ".png":
                total += path.stat().st_size
            else:
                total += ENCODINGS[encoding].bytes_per_pixel * height * width * shrunk**2
    return BASE64 * total


def _sources(image: ComparedImage) -> Iterator[tuple[Path, int, int]]:
    """Each file of an image with its height and width."""
    for path in (*image.files, *([] if image.reference is None else [image.reference])):
        yield path, image.height, image.width
    if image.lr is not None:
        yield image.lr, *image_size(image.lr)


def embed_images(
    image_set: ImageSet,
    encoding: str,
    budget: float,
    max_side: int | None = None,
    advance: Callable[[int], object] = lambda count: None,
) -> list[EmbeddedImage]:
    """Encode all images alike, so that none of the methods is shown with losses that the others do not have.

    The pixels are those that are scored: upright, colors only, rounded to 8 bits.

    Args:
      image_set: the images.
      encoding: key of `ENCODINGS`.
      budget: bytes that the encoded images may take in the page.
      max_side: images with a longer side are reduced to it; None leaves all as they are.
      advance: called with the number of images that are done.

    Raises:
      ValueError: they take more bytes, or an image is damaged.
    """
    embedded = []
    total = 0
    for image in image_set.images:
        pixels = [read_rgb(path)[: image.height, : image.width] for path, _, _ in _sources(image)]
        sources = tuple(_encoded(values, encoding, max_side) for values in pixels)
        shown = pixels[len(image.files)] if image.reference is not None else pixels[0]
        size = default_crop_size(image.height, image.width)
        crop = automatic_crop(pixels[: len(image.files)], size)
        embedded.append(EmbeddedImage(sources, _encoded(shown, "webp", THUMBNAIL, quality=80), crop))
        total += sum(map(len, sources))
        if total > budget:
            raise ValueError(_too_large(image_set, encoding, budget, total * len(image_set.images) / len(embedded)))
        advance(1)
    return embedded


def check_expected(image_set: ImageSet, encoding: str, budget: float, max_side: int | None = None) -> float:
    """The expected bytes of the page, see `expected_bytes`.

    Raises:
      ValueError: they are more than the budget, before any image is read.
    """
    expected = expected_bytes(image_set, encoding, max_side)
    if expected > budget:
        raise ValueError(_too_large(image_set, encoding, budget, expected))
    return expected


def _too_large(image_set: ImageSet, encoding: str, budget: float, expected: float) -> str:
    lossy = "" if encoding == "webp" else "--encoding webp, "
    return (
        f"the page would have about {expected / 1e6:.0f} MB for {len(image_set.images)} images, more than "
        f"--max-megabytes {budget / 1e6:g}: add {lossy}--limit N or --max-side N, or raise --max-megabytes"
    )


def _encoded(pixels: npt.NDArray[np.uint8], encoding: str, max_side: int | None = None, quality: int = QUALITY) -> str:
    """Base64 text of an image [H, W, 3]."""
    image = Image.fromarray(np.ascontiguousarray(pixels))
    if max_side and max(image.size) > max_side:
        factor = max_side / max(image.size)
        width, height = (max(1, round(side * factor)) for side in image.size)
        image = image.resize((width, height), Image.Resampling.LANCZOS)
    options = {"PNG": {}, "WEBP": {"quality": quality}, "JPEG": {"quality": quality, "subsampling": 0}}
    file = io.BytesIO()
    image.save(file, ENCODINGS[encoding].name, **options[ENCODINGS[encoding].name])
    return base64.b64encode(file.getvalue()).decode("ascii")
