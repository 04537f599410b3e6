"""Image files as a Grain random-access source: headers are checked first, pixels decoded on demand and cached."""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, SupportsIndex

import numpy as np
import numpy.typing as npt

from framer_jax.data.contents import file_digests
from framer_jax.data.files import SUFFIXES, list_images, summary_of
from framer_jax.data.image_index import IndexEntry, image_size, indexed
from framer_jax.images.decode import read_rgb
from framer_jax.images.raster import ImageError
from framer_jax.paths import AnyPath, as_path

logger = logging.getLogger(__name__)

Pixels = npt.NDArray[np.uint8]

CACHE_BYTES = 2 * 2**30
"""Decoded photographs are cached in memory if all of them together take at most this many bytes."""

_LISTED = 5
"""Number of small images that a report names."""


class Photo(NamedTuple):
    """One decoded photograph.

    Attributes:
      image: uint8 [H, W, 3].
      record: its number in the source; differs from the requested number if that file is damaged.
    """

    image: Pixels
    record: int

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return self.image.shape[0], self.image.shape[1]

    def crop(self, top: int, left: int, height: int, width: int) -> Pixels:
        """uint8 [height, width, 3], a view."""
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
        paths: Sequence[AnyPath],
        names: Sequence[str],
        crop: int = 1,
        cache_bytes: int = CACHE_BYTES,
        source: str = "",
        small_share: float = 0.0,
        left_out: Mapping[str, str] = MappingProxyType({}),
        index: Sequence[IndexEntry | str] | None = None,
    ):
        """Check every size, in the headers unless it is known.

        Args:
          paths: image files, at least one.
          names: one name for each path.
          crop: smallest allowed side in pixels; smaller images are left out.
          cache_bytes: see `CACHE_BYTES`; 0 disables the cache.
          source: name of the collection in error messages, such as its folder.
          small_share: largest share of the images that are smaller than the crop, unless it is one image; 0: none.
          left_out: further files that cannot be read → why; they count as damaged.
          index: what is known of each file, or why it cannot be read; None: headers are read in a small thread pool.

        Raises:
          ValueError: no readable image, too many damaged images, or too many images smaller than the crop.
        """
        self._source = source or "the given files"
        self._lock = threading.Lock()
        self._cache: dict[int, Pixels] = {}
        self._damaged: dict[str, str] = dict(left_out)
        self._total = len(paths) + len(left_out)
        self._max_damaged = max(1, self._total // 100)
        if index is None:
            with ThreadPoolExecutor(4) as pool:
                sizes = list(pool.map(image_size, paths))
        else:
            sizes = [entry if isinstance(entry, str) else (entry.width, entry.height) for entry in index]
        known = zip(names, index or (None,) * len(names), strict=True)
        digests = {name: entry.digest for name, entry in known if isinstance(entry, IndexEntry)}
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
        readable, self._small = self._large_enough(readable, crop, small_share)
        self.paths = [path for path, _, _ in readable]
        self.names = [name for _, name, _ in readable]
        self._digests = [digests[name] for name in self.names if name in digests]
        self._use_cache = sum(3 * width * height for _, _, (width, height) in readable) <= cache_bytes

    def _large_enough(
        self, readable: list[tuple[AnyPath, str, tuple[int, int]]], crop: int, small_share: float
    ) -> tuple[list[tuple[AnyPath, str, tuple[int, int]]], str]:
        """The images with sides of at least `crop`, and a report on the others; a ValueError if these are too many."""
        small = [(name, size) for _, name, size in readable if min(size) < crop]
        if not small:
            return readable, ""
        count = f"{len(small)} of {len(readable)} images"
        allowed = max(1, int(small_share * len(readable) + 1e-9)) if small_share else 0
        if len(small) > allowed or len(small) == len(readable):
            name, (width, height) = small[0]
            raise ValueError(
                f"{self._source}: {name} is {width} x {height}, smaller than the crop of {crop} ({count} are): use a "
                f"smaller crop, remove them, or leave out a larger share than {small_share:g} (data.small_share)"
            )
        names = ", ".join(name for name, _ in small[:_LISTED]) + (", …" if len(small) > _LISTED else "")
        report = f"{count} are smaller than the crop of {crop} and were left out: {names}"
        logger.warning("%s", report)
        return [image for image in readable if min(image[2]) >= crop], report

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

    def digests(self) -> dict[str, str]:
        """Name of every file → digest of its content (framer_jax.data.contents), from the index if there is one."""
        if len(self._digests) == len(self):
            return dict(zip(self.names, self._digests, strict=True))
        return file_digests(dict(zip(self.names, self.paths, strict=True)))

    def damage(self) -> str:
        """A report such as '1 of 200 images are damaged and were skipped: a.png'; empty if there are none.

        Images that are smaller than the crop are reported too. It covers this process; worker processes and other
        hosts count and log the files that they read.
        """
        names = self.damaged
        damaged = f"{len(names)} of {self._total} images are damaged and were skipped: {', '.join(names)}"
        return "; ".join(part for part in (damaged if names else "", self._small) if part)

    def _load(self, record: int) -> Pixels | None:
        """The photograph, or None if it is damaged."""
        if record in self._cache:
            return self._cache[record]
        name = self.names[record]
        if name in self._damaged:
            return None
        try:
            pixels = read_rgb(self.paths[record])
        except (ImageError, FileNotFoundError) as error:
            reason = error.reason if isinstance(error, ImageError) else "the file is gone"
            with self._lock:
                already_logged = name in self._damaged
                self._damaged[name] = reason
            if not already_logged:
                logger.warning("skipping the damaged image %s (%s)", name, reason)
            self._check_damaged()
            return None
        pixels.setflags(write=False)
        if not self._use_cache:
            return pixels
        with self._lock:
            return self._cache.setdefault(record, pixels)

    def _check_damaged(self) -> None:
        if len(self._damaged) > self._max_damaged:
            names = ", ".join(sorted(self._damaged))
            raise ValueError(
                f"{self._source}: more than 1 % of the images are damaged: repair them under their names; without them "
                f"it is other data, which needs a new --workdir: {names}"
            )


def folder_source(
    folder: str | Path,
    crop: int = 1,
    cache_bytes: int = CACHE_BYTES,
    small_share: float = 0.0,
    keep_index: bool = False,
) -> ImageFiles:
    """All images of a folder and its subfolders (`list_images`), named by their path within the folder.

    Args:
      folder: the folder, on this machine or in an object store.
      crop: see `ImageFiles`.
      cache_bytes: see `CACHE_BYTES`.
      small_share: see `ImageFiles`.
      keep_index: take sizes from the index of the folder (framer_jax.data.image_index), which is made or brought up to
        date; otherwise every file is opened.

    Raises:
      FileNotFoundError: no such folder.
      ValueError: no image in it, a subfolder that cannot be read, or see `ImageFiles`.
    """
    if str(folder) and not (folder := as_path(folder)).is_dir():
        raise FileNotFoundError(f"there is no folder {folder}: give a folder of photographs")
    paths, left_out = list_images(folder)
    folders = tuple(item for item in left_out if item.path.suffix.lower() not in SUFFIXES or item.path.is_dir())
    if folders:  # they may hold any number of photographs
        raise ValueError(f"the folder {folder} cannot be read completely: {summary_of(folders)}")
    if not paths:
        more = f"; {summary_of(left_out)}" if left_out else ""
        raise ValueError(
            f"the folder {folder} holds no image (.png, .jpg, .webp, .tif, …): give a folder of photographs{more}"
        )
    names = [path.relative_to(folder).as_posix() for path in paths]
    reasons = {item.path.relative_to(folder).as_posix(): item.reason for item in left_out}
    index = indexed(folder, dict(zip(names, paths, strict=True))) if keep_index else None
    return ImageFiles(paths, names, crop, cache_bytes, f"the folder {folder}", small_share, reasons, index)
