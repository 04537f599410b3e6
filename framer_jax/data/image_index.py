"""The index of a folder of photographs: sizes and digests of its files, which are thus opened once, not in every run.

It is a hidden file in the folder or, where that cannot be written, in the user's folder for caches. An entry holds as
long as its file has the size in bytes and the time of modification that it had when it was opened.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from framer_jax.compile_cache import cache_base
from framer_jax.data.contents import UNREADABLE, content_digest
from framer_jax.images.decode import read_header
from framer_jax.images.raster import ImageError
from framer_jax.paths import AnyPath, RemoteFile, as_path, read_bytes, remote_files
from framer_jax.porting.files import atomic_write

logger = logging.getLogger(__name__)

INDEX = ".framer_jax_images.json"
"""File name of the index in a folder of photographs."""

VERSION = 1

THREADS = 8


class IndexEntry(NamedTuple):
    """What is known of an image file without opening it.

    Attributes:
      bytes: its size.
      modified: its time of modification, ns; in an object store a number that changes with its version.
      width, height: size of the upright image, pixels.
      digest: see framer_jax.data.contents.
    """

    bytes: int
    modified: int
    width: int
    height: int
    digest: str


def image_size(path: AnyPath) -> tuple[int, int] | str:
    """(width, height) of the upright image from its header, or the reason why it cannot be read."""
    try:
        header = read_header(path)
        return header.width, header.height
    except ImageError as error:
        return error.reason
    except FileNotFoundError:
        return "the file is gone"


def indexed(folder: str | os.PathLike[str], files: Mapping[str, AnyPath]) -> list[IndexEntry | str]:
    """The entry of each image of a folder, or the reason why it cannot be read; only files without an entry are opened.

    Args:
      folder: the folder; new entries are written to its index.
      files: name within the folder → path.
    """
    root = as_path(folder)
    places = _places(root)
    if isinstance(root, Path):
        state_of: Callable[[Any], tuple[int, int]] = _state_of_local
    else:
        state_of = {file.path: _state_of_object(file) for file in remote_files(root).values()}.__getitem__
    known = _read(places)
    with ThreadPoolExecutor(THREADS) as pool:
        entries = list(pool.map(lambda name: _entry(files[name], known.get(name), state_of), files))
    readable = {name: entry for name, entry in zip(files, entries, strict=True) if isinstance(entry, IndexEntry)}
    # A file that could not be read for a moment is opened again in the next run.
    valid = {name: entry for name, entry in readable.items() if entry.digest != UNREADABLE}
    if valid != known:
        _write(places, valid)
    return entries


def _entry(path: AnyPath, known: IndexEntry | None, state_of: Callable[[Any], tuple[int, int]]) -> IndexEntry | str:
    """The known entry of a file if it still holds, otherwise one of the opened file."""
    try:
        state = state_of(path)
    except KeyError:
        return "the file is gone"
    except OSError as error:
        return "the file is gone" if isinstance(error, FileNotFoundError) else str(error.strerror)
    if known is not None and (known.bytes, known.modified) == state:
        return known
    size = image_size(path)
    if isinstance(size, str):
        return size
    return IndexEntry(*state, *size, content_digest(path))


def _state_of_local(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_size, status.st_mtime_ns


def _state_of_object(file: RemoteFile) -> tuple[int, int]:
    return file.bytes, int(hashlib.sha256(file.version.encode()).hexdigest()[:15], 16)


def _places(folder: AnyPath) -> Sequence[AnyPath]:
    """Where the index of a folder may be, the preferred place first."""
    base = cache_base()
    if base is None:
        return (folder / INDEX,)
    name = hashlib.sha256(os.fsencode(folder.absolute() if isinstance(folder, Path) else folder)).hexdigest()[:32]
    return (folder / INDEX, base / "framer_jax" / "images" / f"{name}.json")


def _read(places: Sequence[AnyPath]) -> dict[str, IndexEntry]:
    """The entries of the first index that can be read; a damaged one, or one of another version, has none."""
    for place in places:
        try:
            content = json.loads(read_bytes(place))
            if content["version"] == VERSION:
                return {str(name): _parsed(*values) for name, values in content["images"].items()}
        except (OSError, ValueError, KeyError, TypeError, IndexError, AttributeError):
            continue
    return {}


def _parsed(size: int, modified: int, width: int, height: int, digest: str) -> IndexEntry:
    return IndexEntry(int(size), int(modified), int(width), int(height), str(digest))


def _write(places: Sequence[AnyPath], entries: Mapping[str, IndexEntry]) -> None:
    text = json.dumps({"version": VERSION, "images": entries})  # escapes names that are not UTF-8
    for place in places:
        try:
            with atomic_write(place) as temporary:
                temporary.write_text(text, encoding="utf-8")
        except OSError:
            continue
        logger.info("sizes of %d images are kept in %s", len(entries), place)
        return
    logger.warning("sizes of images cannot be kept in %s: each run opens all of them", " or ".join(map(str, places)))
