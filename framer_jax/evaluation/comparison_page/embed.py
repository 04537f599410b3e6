"""Images as text within a page: encoding, expected size, thumbnails."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Iterator, Sequence
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

SAMPLED = 4
"""Number of images that are encoded to estimate the size of the page."""

BASE64 = 4 / 3
"""Characters per byte of an image within the page."""


class Encoding(NamedTuple):
    """How images are encoded.

    Attributes:
      name: Pillow's name of the format.
      mime: its media type.
      description: for the page, in words.
    """

    name: str
    mime: str
    description: str


ENCODINGS = {
    "png": Encoding("PNG", "image/png", "PNG, lossless, 8 bits per channel"),
    "webp": Encoding("WEBP", "image/webp", f"WebP, quality {QUALITY}"),
    "jpeg": Encoding("JPEG", "image/jpeg", f"JPEG, quality {QUALITY}, no chroma subsampling"),
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
    """About how many bytes the images take in the page.

    Those of PNG files are as large as the files; otherwise, a few images are encoded.

    Args:
      image_set: the images.
      encoding: key of `ENCODINGS`.
      max_side: see `embed_images`.

    Raises:
      ValueError: one of these images is damaged.
    """
    sources = [list(_sources(image)) for image in image_set.images]
    files = [source for of_image in sources for source in of_image]
    reduced = max_side is not None and any(max(height, width) > max_side for _, height, width in files)
    if encoding == "png" and not reduced and all(path.suffix.lower() == ".png" for path, _, _ in files):
        return BASE64 * sum(path.stat().st_size for path, _, _ in files)
    chosen = np.linspace(0, len(sources) - 1, min(SAMPLED, len(sources))).round().astype(int)
    sampled = [source for index in chosen for source in sources[index]]
    taken = sum(len(_encoded(read_rgb(path)[:height, :width], encoding, max_side)) for path, height, width in sampled)
    return taken * _pixels(files, max_side) / _pixels(sampled, max_side)


def _pixels(files: Sequence[tuple[Path, int, int]], max_side: int | None) -> float:
    """Number of pixels in the page."""
    factors = (min(1.0, max_side / max(height, width)) if max_side else 1.0 for _, height, width in files)
    return sum(height * width * factor**2 for (_, height, width), factor in zip(files, factors, strict=True))


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
      ValueError: they are more than the budget.
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
