"""Which files of a folder are images: one rule for training, upscaling and scoring."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from etils import epath

from framer_jax.images import plugins
from framer_jax.paths import AnyPath, as_path, remote_files

READABLE = (
    *(".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".tif", ".tiff", ".bmp", ".dib", ".gif"),
    *(".ppm", ".pgm", ".pbm", ".pnm", ".tga", ".jp2", ".avif", ".ico"),
)
"""Suffixes that count as images when a folder is searched; a file named explicitly may have any suffix."""

UNREADABLE = (
    *(".jxr", ".exr", ".hdr", ".psd", ".psb", ".xcf"),
    *(".dng", ".cr2", ".cr3", ".nef", ".nrw", ".arw", ".raf", ".orf", ".rw2", ".pef", ".srw"),
)
"""Suffixes of photographs in formats that are not read: they are named rather than left out without a word."""

SUFFIXES = tuple(dict.fromkeys((*READABLE, *plugins.SUFFIXES, *UNREADABLE)))

DANGLING = "a link to nothing"

NAMED = 5
"""Number of left-out files that a message names."""


class LeftOut(NamedTuple):
    """A file or folder that may hold images and is not read.

    Attributes:
      path: the file or folder.
      reason: why.
    """

    path: AnyPath
    reason: str

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


class Listing(NamedTuple):
    """The images of a folder.

    Attributes:
      paths: the images, sorted by their path within the folder.
      left_out: what may be an image, or hold images, and cannot be read, sorted in the same way.
    """

    paths: tuple[AnyPath, ...]
    left_out: tuple[LeftOut, ...]


def image_paths(folder: str | os.PathLike[str], recursive: bool = True) -> list[AnyPath]:
    """The images of a folder, without what is left out, see `list_images`; the list is empty if there are none."""
    return list(list_images(folder, recursive).paths)


def list_images(folder: str | os.PathLike[str], recursive: bool = True) -> Listing:
    """List the images of a folder.

    Links to folders are followed, after the folders that are no links, and each folder is read once: loops end, and an
    image has the path that does not lead through a link, if there is one. Hidden files and the contents of hidden
    folders (names that start with '.') are left out without being named.

    Args:
      folder: an existing folder, on this machine or in an object store.
      recursive: also search its subfolders.

    Raises:
      ValueError: the name is empty, or an address that is not read.
      OSError: the folder itself cannot be read.
    """
    if not os.fspath(folder):
        raise ValueError("the name of the folder is empty: name a folder ('.' for the current one)")
    root = as_path(folder)
    if not isinstance(root, Path):
        return _list_store(root, recursive)
    paths: list[AnyPath] = []
    left_out: list[LeftOut] = []
    for entry in _files(root, recursive, left_out):
        path, suffix = Path(entry.path), Path(entry.name).suffix.lower()
        if suffix in SUFFIXES:
            if reason := _unreadable(suffix) or _reason(entry):
                left_out.append(LeftOut(path, reason))
            else:
                paths.append(path)
        elif recursive and entry.is_symlink() and not path.exists():  # perhaps of a folder that is not mounted
            left_out.append(LeftOut(path, DANGLING))
    return Listing(
        tuple(sorted(paths, key=lambda path: path.relative_to(root).as_posix())),
        tuple(sorted(left_out, key=lambda item: item.path.relative_to(root).as_posix())),
    )


def _list_store(root: epath.Path, recursive: bool) -> Listing:
    """The images below a folder of an object store, by the same rules."""
    paths: list[AnyPath] = []
    left_out: list[LeftOut] = []
    for name, file in remote_files(root).items():
        parts = name.split("/")
        if any(part.startswith(".") for part in parts) or (len(parts) > 1 and not recursive):
            continue
        suffix = Path(parts[-1]).suffix.lower()
        if suffix in SUFFIXES:
            if reason := _unreadable(suffix):
                left_out.append(LeftOut(file.path, reason))
            else:
                paths.append(file.path)
    return Listing(tuple(paths), tuple(left_out))


def summary_of(left_out: tuple[LeftOut, ...]) -> str:
    """How many files and folders were left out, and the first of them, in one line; '' for none."""
    if not left_out:
        return ""
    first = "; ".join(map(str, left_out[:NAMED]))
    return f"{len(left_out)} left out: {first}{'; ...' if len(left_out) > NAMED else ''}"


def _unreadable(suffix: str) -> str:
    """Why files of a suffix of `SUFFIXES` are not read here; '' if they are."""
    if suffix in UNREADABLE:
        return f"{suffix} files are not read: convert it to .png"
    return plugins.missing(suffix) if suffix in plugins.SUFFIXES else ""


def _reason(entry: os.DirEntry[str]) -> str:
    """Why an entry with the name of an image is none; '' for a file."""
    try:
        kind = entry.stat().st_mode
    except OSError as error:
        return DANGLING if entry.is_symlink() else f"cannot be read ({error.strerror})"
    return "" if stat.S_ISREG(kind) else "neither a file nor a folder"


def _files(root: Path, recursive: bool, left_out: list[LeftOut]) -> Iterator[os.DirEntry[str]]:
    """The entries below a folder that are no folders; folders that cannot be read are added to `left_out`."""
    folders, links = [os.fspath(root)], list[str]()
    visited: set[tuple[int, int]] = set()
    while folders or links:
        folder = folders.pop() if folders else links.pop(0)
        try:
            status = os.stat(folder)
            if (status.st_dev, status.st_ino) in visited:
                continue
            visited.add((status.st_dev, status.st_ino))
            with os.scandir(folder) as scanned:
                entries = sorted(scanned, key=lambda entry: entry.name)
        except OSError as error:
            if folder == os.fspath(root):
                raise
            left_out.append(LeftOut(Path(folder), f"cannot be opened ({error.strerror})"))
            continue
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if not _is_folder(entry):
                yield entry
            elif recursive:
                (links if entry.is_symlink() else folders).append(entry.path)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether an entry is a folder, or a link to one; a link into a folder without permission counts as a file."""
    try:
        return entry.is_dir()
    except OSError:
        return False
