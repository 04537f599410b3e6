"""Which files of a folder are images: one rule for training, upscaling and scoring."""

from __future__ import annotations

import os
from pathlib import Path

READABLE = (
    *(".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".tif", ".tiff", ".bmp", ".dib", ".gif"),
    *(".ppm", ".pgm", ".pbm", ".pnm", ".tga", ".jp2", ".avif", ".ico"),
)
"""Suffixes that count as images when a folder is searched; a file given by name may have any."""


def image_paths(folder: str | os.PathLike[str], recursive: bool = True) -> list[Path]:
    """The images of a folder, sorted by their path within it; empty if there are none.

    Hidden files, and everything below a hidden folder (their names start with '.'), are left out.

    Args:
      folder: an existing one.
      recursive: search the folders in it, too.
    """
    root = Path(folder)
    found = [
        path
        for path in (root.rglob("*") if recursive else root.iterdir())
        if path.suffix.lower() in READABLE
        and not any(part.startswith(".") for part in path.relative_to(root).parts)
        and path.is_file()
    ]
    return sorted(found, key=lambda path: path.relative_to(root).as_posix())
