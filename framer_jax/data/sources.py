"""Image files as a Grain random-access source: headers are checked first, pixels decoded on demand and cached."""

from __future__ import annotations

import logging
import struct
import threading
import zlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, SupportsIndex

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image, ImageOps

from framer_jax.data.files import image_paths

logger = logging.getLogger(__name__)

Pixels = npt.NDArray[np.uint8]

CACHE_BYTES = 2 * 2**30
"""Decoded photographs are cached in memory if all of them together take at most this many bytes."""

_UNREADABLE = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error, Image.DecompressionBombError)


def to_rgb(image: Image.Image) -> Pixels:
    """Convert any Pillow image to uint8 [H, W, 3].

    Gray is repeated in three channels, palettes are expanded, 16 bits are scaled to 8, and alpha is dropped.
    """
    if image.mode.startswith("I") or image.mode == "F":
        values = np.asarray(image).astype(np.float64)
        # Pillow reads 16-bit files as I;16 or, from some formats, as I; floats are assumed to lie in 0 … 255.
        values = np.round(values if image.mode == "F" else values / 257.0)
        gray = np.clip(values, 0, 255).astype(np.uint8)
        return np.repeat(gray[:, :, None], 3, axis=2)
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))


def _decode(path: Path) -> Image.Image:
    """Open, decode completely and rotate upright; a damaged file raises one of `_UNREADABLE`."""
    with Image.open(path) as image:
        image.load()
        return ImageOps.exif_transpose(image)


def read_image(path: str | Path) -> Pixels:
    """Read an image file as uint8 [H, W, 3].

    Raises:
      ValueError: the file is damaged or not an image.
    """
    try:
        return to_rgb(_decode(Path(path)))
    except _UNREADABLE as error:
        raise ValueError(f"{path} cannot be read as an image ({error}): repair or remove it") from error


class Header(NamedTuple):
    """Properties of an image file that are known before its pixels are decoded.

    Attributes:
      height, width: size of the upright image in pixels.
      loss: what `read_image` changes or drops, in a few words; empty for 8-bit RGB.
    """

    height: int
    width: int
    loss: str


def read_header(path: str | Path) -> Header:
    """Read the size of an image file and what its conversion to RGB loses.

    Raises:
      ValueError: the file is damaged or not an image.
    """
    try:
        with Image.open(path) as image:
            width, height = image.size
            # Pillow decodes a PNG completely to search it for EXIF data, which normally precede the pixels.
            has_early_exif = image.format != "PNG" or "exif" in image.info
            if has_early_exif and image.getexif().get(ExifTags.Base.Orientation, 1) >= 5:  # rotated by 90°
                width, height = height, width
            return Header(height, width, _loss(image))
    except _UNREADABLE as error:
        raise ValueError(f"{path} cannot be read as an image ({error}): repair or remove it") from error


def _loss(image: Image.Image) -> str:
    if image.mode.startswith("I") or image.mode == "F":
        return "16-bit gray read as 8-bit, in three equal channels"
    if image.has_transparency_data:
        return "transparency dropped"
    kinds = {"RGB": "", "YCbCr": "", "P": "palette expanded", "CMYK": "CMYK converted", "LAB": "LAB converted"}
    return kinds.get(image.mode, "gray in three equal channels")


class Photo(NamedTuple):
    """One decoded photograph, as an array or, if it is not cached, as a Pillow image.

    Attributes:
      image: uint8 [H, W, 3] or a loaded Pillow image.
      record: its number in the source; differs from the requested number if that file is damaged.
    """

    image: Pixels | Image.Image
    record: int

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        if isinstance(self.image, Image.Image):
            return self.image.height, self.image.width
        return self.image.shape[0], self.image.shape[1]

    def crop(self, top: int, left: int, height: int, width: int) -> Pixels:
        """uint8 [height, width, 3]; only the crop is converted."""
        if isinstance(self.image, Image.Image):
            return to_rgb(self.image.crop((left, top, left + width, top + height)))
        return self.image[top : top + height, left : left + width]


class ImageFiles:
    """Image files by number, with Grain's random-access protocol.

    A damaged file is logged once, counted, and replaced by the next readable one, so that the same number always gives
    the same photograph. It is an error if more than 1 % of all files (and more than one file) are damaged.

    Attributes:
      paths: the files, in the order of their numbers.
      names: their names in logs and tables.
      kind: the kind of training data.
      batch_entries: the entries of prepared batches.
    """

    kind = "photos"
    batch_entries = ("hr", "lr")

    def __init__(
        self,
        paths: Sequence[Path],
        names: Sequence[str],
        crop: int = 1,
        cache_bytes: int = CACHE_BYTES,
        source: str = "",
    ):
        """Check every header in a small thread pool.

        Args:
          paths: image files, at least one.
          names: one name for each path.
          crop: smallest allowed side in pixels.
          cache_bytes: see `CACHE_BYTES`; 0 disables the cache.
          source: name of the collection in error messages, such as its folder.

        Raises:
          ValueError: no readable image, too many damaged images, or an image smaller than the crop.
        """
        self._source = source or "the given files"
        self._lock = threading.Lock()
        self._cache: dict[int, Pixels] = {}
        self._damaged: dict[str, str] = {}
        self._total = len(paths)
        self._max_damaged = max(1, len(paths) // 100)
        with ThreadPoolExecutor(4) as pool:
            sizes = list(pool.map(_header_size, paths))
        readable = []
        for path, name, size in zip(paths, names, sizes, strict=True):
            if isinstance(size, str):
                self._damaged[name] = size
            else:
                readable.append((path, name, size))
        if not readable:
            raise ValueError(f"{self._source} holds no readable image: give photographs (.png, .jpg, .webp, .tif, …)")
        for name, reason in self._damaged.items():
            logger.warning("skipping the damaged image %s (%s)", name, reason)
        self._check_damaged()
        small = [(name, size) for _, name, size in readable if min(size) < crop]
        if small:
            name, (width, height) = small[0]
            raise ValueError(
                f"{self._source}: {name} is {width} x {height}, smaller than the crop of {crop} "
                f"({len(small)} of {len(readable)} images are): use a smaller crop or remove them"
            )
        self.paths = [path for path, _, _ in readable]
        self.names = [name for _, name, _ in readable]
        self._use_cache = sum(3 * width * height for _, _, (width, height) in readable) <= cache_bytes

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: SupportsIndex) -> Photo:
        number = int(index)
        if not 0 <= number < len(self.paths):
            raise IndexError(f"{self._source} has {len(self.paths)} images; there is no number {number}")
        for offset in range(len(self.paths)):
            record = (number + offset) % len(self.paths)
            image = self._load(record)
            if image is not None:
                return Photo(image, record)
        raise ValueError(f"{self._source}: every image is damaged")

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_lock": None, "_cache": {}}  # a worker process fills its own cache

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _lock=threading.Lock())

    def __repr__(self) -> str:
        return f"ImageFiles({self._source}, {len(self.paths)} images)"

    @property
    def damaged(self) -> tuple[str, ...]:
        """Names of the damaged files that this process has met so far."""
        with self._lock:
            return tuple(sorted(self._damaged))

    def files(self) -> dict[str, Path]:
        """Name → path of every file."""
        return dict(zip(self.names, self.paths, strict=True))

    def damage(self) -> str:
        """A report such as '1 of 200 images are damaged and were skipped: a.png'; empty if there are none.

        It covers this process; worker processes and other hosts count and log the files that they read.
        """
        names = self.damaged
        return f"{len(names)} of {self._total} images are damaged and were skipped: {', '.join(names)}" if names else ""

    def _load(self, record: int) -> Pixels | Image.Image | None:
        """The photograph, or None if it is damaged."""
        if record in self._cache:
            return self._cache[record]
        name = self.names[record]
        if name in self._damaged:
            return None
        try:
            image = _decode(self.paths[record])
            if not self._use_cache:
                return image
            pixels = to_rgb(image)
        except _UNREADABLE as error:
            with self._lock:
                already_logged = name in self._damaged
                self._damaged[name] = str(error)
            if not already_logged:
                logger.warning("skipping the damaged image %s (%s)", name, error)
            self._check_damaged()
            return None
        pixels.setflags(write=False)
        with self._lock:
            return self._cache.setdefault(record, pixels)

    def _check_damaged(self) -> None:
        if len(self._damaged) > self._max_damaged:
            names = ", ".join(sorted(self._damaged))
            raise ValueError(f"{self._source}: more than 1 % of the images are damaged, repair or remove them: {names}")


def _header_size(path: Path) -> tuple[int, int] | str:
    """(width, height) from the header, or the reason why it cannot be read."""
    try:
        with Image.open(path) as image:
            return image.size
    except _UNREADABLE as error:
        return str(error)


def folder_source(folder: str | Path, crop: int = 1, cache_bytes: int = CACHE_BYTES) -> ImageFiles:
    """All images of a folder and its subfolders (`image_paths`), named by their path within the folder.

    Raises:
      FileNotFoundError: no such folder.
      ValueError: no image in it, or see `ImageFiles`.
    """
    if not Path(folder).is_dir():
        raise FileNotFoundError(f"there is no folder {folder}: give a folder of photographs")
    paths = image_paths(folder)
    if not paths:
        raise ValueError(
            f"the folder {folder} holds no image (.png, .jpg, .webp, .tif, …): give a folder of photographs"
        )
    names = [path.relative_to(folder).as_posix() for path in paths]
    return ImageFiles(paths, names, crop, cache_bytes, source=f"the folder {folder}")
