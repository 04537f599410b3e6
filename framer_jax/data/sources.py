"""Image files as a Grain random-access source: headers checked first, pixels decoded when asked for, kept if few."""

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
"""Decoded photographs are kept in memory if all of them together take at most this."""

_UNREADABLE = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error, Image.DecompressionBombError)


def to_rgb(image: Image.Image) -> Pixels:
    """Any Pillow image as uint8 [H, W, 3]: gray repeated, palettes expanded, 16 bits scaled to 8, alpha dropped."""
    if image.mode.startswith("I") or image.mode == "F":
        values = np.asarray(image).astype(np.float64)
        # Pillow gives 16-bit files as I;16 or, from some formats, as I; floats are taken as already in 0 … 255.
        values = np.round(values if image.mode == "F" else values / 257.0)
        gray = np.clip(values, 0, 255).astype(np.uint8)
        return np.repeat(gray[:, :, None], 3, axis=2)
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))


def _opened(path: Path) -> Image.Image:
    """Open, decode fully and turn upright; raises one of `_UNREADABLE` for a damaged file."""
    with Image.open(path) as image:
        image.load()
        return ImageOps.exif_transpose(image)


def read_image(path: str | Path) -> Pixels:
    """Read an image file as uint8 [H, W, 3].

    Raises:
      ValueError: the file is damaged or not an image.
    """
    try:
        return to_rgb(_opened(Path(path)))
    except _UNREADABLE as error:
        raise ValueError(f"{path} cannot be read as an image ({error}): repair or remove it") from error


class Header(NamedTuple):
    """What a file says of its image before the pixels are decoded.

    Attributes:
      height, width: upright, in pixels.
      loss: what `read_image` will change or leave out, in a few words; empty for 8-bit RGB.
    """

    height: int
    width: int
    loss: str


def read_header(path: str | Path) -> Header:
    """Size and kind of an image file.

    Raises:
      ValueError: the file is damaged or not an image.
    """
    try:
        with Image.open(path) as image:
            width, height = image.size
            # Asked for EXIF data, Pillow decodes a PNG to its end, where they might stand (they should not).
            early = image.format != "PNG" or "exif" in image.info
            if early and image.getexif().get(ExifTags.Base.Orientation, 1) >= 5:  # lies on its side
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
    """One decoded photograph, either as pixels or, outside the cache, still as Pillow has it.

    Attributes:
      image: uint8 [H, W, 3] or a loaded Pillow image.
      record: its place in the source; differs from the place asked for if that file is damaged.
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
    """Image files by number, as Grain's random-access protocol wants it.

    A damaged file is named once in the log, counted, and replaced by the next readable one, so that the same number
    always gives the same photograph. More damaged files than 1 % of all (at least one is allowed) are an error.

    Attributes:
      paths: the files, in the order of their numbers.
      names: what to call them in logs and tables.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        names: Sequence[str],
        crop: int = 1,
        cache_bytes: int = CACHE_BYTES,
        source: str = "",
    ):
        """Check every header (a small thread pool).

        Args:
          paths: image files, at least one.
          names: one for each path.
          crop: least size of either side in pixels.
          cache_bytes: see `CACHE_BYTES`; 0 keeps nothing.
          source: what to call the collection in errors, such as its folder.

        Raises:
          ValueError: no readable image, too many damaged ones, or an image smaller than the crop.
        """
        self._source = source or "the given files"
        self._lock = threading.Lock()
        self._cache: dict[int, Pixels] = {}
        self._damaged: dict[str, str] = {}
        self._given = len(paths)
        self._allowed = max(1, len(paths) // 100)
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
        self._keep = sum(3 * width * height for _, _, (width, height) in readable) <= cache_bytes

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: SupportsIndex) -> Photo:
        place = int(index)
        if not 0 <= place < len(self.paths):
            raise IndexError(f"{self._source} has {len(self.paths)} images; there is no number {place}")
        for offset in range(len(self.paths)):
            record = (place + offset) % len(self.paths)
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
        """Names of the damaged files met so far in this process."""
        with self._lock:
            return tuple(sorted(self._damaged))

    def damage(self) -> str:
        """'1 of 200 images are damaged and were skipped: a.png', or nothing: what this process has met so far.

        Worker processes and other hosts each meet, log and count their own.
        """
        names = self.damaged
        return f"{len(names)} of {self._given} images are damaged and were skipped: {', '.join(names)}" if names else ""

    def _load(self, record: int) -> Pixels | Image.Image | None:
        """The photograph, or None if it is damaged."""
        if record in self._cache:
            return self._cache[record]
        name = self.names[record]
        if name in self._damaged:
            return None
        try:
            image = _opened(self.paths[record])
            if not self._keep:
                return image
            pixels = to_rgb(image)
        except _UNREADABLE as error:
            with self._lock:
                known = name in self._damaged
                self._damaged[name] = str(error)
            if not known:
                logger.warning("skipping the damaged image %s (%s)", name, error)
            self._check_damaged()
            return None
        pixels.setflags(write=False)
        with self._lock:
            return self._cache.setdefault(record, pixels)

    def _check_damaged(self) -> None:
        if len(self._damaged) > self._allowed:
            names = ", ".join(sorted(self._damaged))
            raise ValueError(f"{self._source}: more than 1 % of the images are damaged, repair or remove them: {names}")


def _header_size(path: Path) -> tuple[int, int] | str:
    """(width, height) from the header alone, or why it cannot be read."""
    try:
        with Image.open(path) as image:
            return image.size
    except _UNREADABLE as error:
        return str(error)


def folder_source(folder: str | Path, crop: int = 1, cache_bytes: int = CACHE_BYTES) -> ImageFiles:
    """All images of a folder and the folders in it (`image_paths`), named by their path within it.

    Raises:
      FileNotFoundError: no such folder.
      ValueError: no image in it, or as `ImageFiles`.
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
