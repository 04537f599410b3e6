"""Which files of a folder are images: one rule for training, upscaling and scoring."""

from __future__ import annotations

import os
from pathlib import Path

READABLE = (
    *(".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".tif", ".tiff", ".bmp", ".dib", ".gif"),
    *(".ppm", ".pgm", ".pbm", ".pnm", ".tga", ".jp2", ".avif", ".ico"),
)
"""Suffixes that count as images when a folder is searched; a file named explicitly may have any suffix."""


def image_paths(folder: str | os.PathLike[str], recursive: bool = True) -> list[Path]:
    """List the images of a folder, sorted by their path within it; the list is empty if there are none.

    Hidden files and the contents of hidden folders (names that start with '.') are left out.

    Args:
      folder: an existing folder.
      recursive: also search its subfolders.
    """
    root = Path(folder)
    paths = [
        path
        for path in (root.rglob("*") if recursive else root.iterdir())
        if path.suffix.lower() in READABLE
        and not any(part.startswith(".") for part in path.relative_to(root).parts)
        and path.is_file()
    ]
    return sorted(paths, key=lambda path: path.relative_to(root).as_posix())
