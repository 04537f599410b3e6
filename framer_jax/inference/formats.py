"""The file formats that results are written in: what each of them holds, and how large an image may be."""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path
from typing import Any, NamedTuple

from PIL import features

from framer_jax.images.metadata import Metadata

ALL_METADATA = ("exif", "xmp", "dpi")

LABELS = {
    "exif": "EXIF",
    "xmp": "XMP",
    "iptc": "IPTC",
    "dpi": "the resolution",
    "comment": "the comment",
    "texts": "the texts",
}

LARGEST_SEGMENT = 65_000
"""Bytes of EXIF, of XMP or of IPTC data that surely fit into a segment of a JPEG file."""


class FileFormat(NamedTuple):
    """A file format that can be written.

    Attributes:
      name: Pillow's name of the format.
      alpha: whether it stores transparency.
      deep: modes that are stored with 16 bits per channel.
      options: keyword arguments of Pillow's `save`.
      side: largest side in pixels.
      pixels: largest number of pixels.
      quality: default quality, 1 to 100; None for lossless formats.
      frames: whether it holds several frames or pages.
      metadata: attributes of framer_jax.images.metadata.Metadata that it holds.
      colors: what a palette loses, or ''.
      profile: whether it holds a color profile; otherwise colors are converted to sRGB.
      gray: modes of gray images that it holds; others are written in color.
    """

    name: str
    alpha: bool
    deep: tuple[str, ...]
    options: dict[str, Any]
    side: int = 2**31 - 1
    pixels: int = 2**62
    quality: int | None = None
    frames: bool = False
    metadata: tuple[str, ...] = ALL_METADATA
    colors: str = ""
    profile: bool = True
    gray: tuple[str, ...] = ("L", "LA")


_JPEG = FileFormat(
    "JPEG", False, (), {"subsampling": 0}, side=65_500, quality=95, metadata=("exif", "xmp", "iptc", "dpi", "comment")
)
_TIFF = FileFormat("TIFF", True, ("L",), {"compression": "tiff_adobe_deflate"}, frames=True)

FORMATS = {
    ".png": FileFormat(
        "PNG", True, ("L", "LA", "RGB", "RGBA"), {}, frames=True, metadata=("exif", "xmp", "dpi", "texts")
    ),
    ".webp": FileFormat("WEBP", True, (), {"method": 4}, side=16_383, quality=95, frames=True, gray=()),
    ".jpg": _JPEG,
    ".jpeg": _JPEG,
    ".tif": _TIFF,
    ".tiff": _TIFF,
    ".avif": FileFormat("AVIF", True, (), {}, side=32_768, pixels=16_384**2, quality=90, frames=True, gray=()),
    ".gif": FileFormat(
        "GIF",
        True,
        (),
        {},
        side=65_535,
        frames=True,
        metadata=("comment",),
        colors="GIF holds 256 colors and no half transparency",
        profile=False,
        gray=("L",),
    ),
    ".bmp": FileFormat("BMP", False, (), {}, pixels=(2**32 - 200) // 4, metadata=("dpi",), profile=False),
}
"""The formats that can be written, by suffix. PNG, TIFF and BMP are lossless. The limits of AVIF are those of common
decoders."""


def output_format(path: str | os.PathLike[str]) -> FileFormat:
    """The format of a file name's suffix.

    Raises:
      ValueError: a suffix that is not in `FORMATS`, or AVIF where Pillow has none.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in FORMATS:
        raise ValueError(f"{path}: cannot write {suffix or 'a name without suffix'!r}; use one of {', '.join(FORMATS)}")
    if suffix == ".avif" and not features.check("avif"):
        raise ValueError(f"{path}: this Pillow cannot write AVIF: pip install 'Pillow>=11.3', or write .webp")
    return FORMATS[suffix]


def check_size(path: str | os.PathLike[str], height: int, width: int) -> None:
    """Raise ValueError if the format of a file name cannot hold an image of this size."""
    file_format = output_format(path)
    if max(height, width) > file_format.side or height * width > file_format.pixels:
        limit = f"{file_format.side:,} pixels a side"
        if max(height, width) <= file_format.side:
            limit = f"{file_format.pixels:,} pixels"
        raise ValueError(
            f"{path}: {file_format.name} holds at most {limit}, and the image is {width}x{height}: write .png or .tiff"
        )


def check_quality(path: str | os.PathLike[str], quality: int | None) -> None:
    """Raise ValueError if a quality is given, and the format of a file name is lossless or has none."""
    if quality is not None and output_format(path).quality is None:
        lossy = ", ".join(suffix for suffix, each in FORMATS.items() if each.quality is not None)
        raise ValueError(f"{path}: {output_format(path).name} has no quality: omit it, or write one of {lossy}")


def check_frames(path: str | os.PathLike[str], frames: int) -> None:
    """Raise ValueError if the format of a file name holds one image, and there are several frames."""
    if frames > 1 and not output_format(path).frames:
        several = ", ".join(suffix for suffix, each in FORMATS.items() if each.frames)
        raise ValueError(f"{path}: {output_format(path).name} holds one of the {frames} frames: write one of {several}")


def check_frame_sizes(path: str | os.PathLike[str], sizes: Collection[tuple[int, int]]) -> None:
    """Raise ValueError if frames differ in their (height, width), and the format of a file name holds animations."""
    if len(set(sizes)) > 1 and output_format(path).name != "TIFF":
        listed = ", ".join(f"{width}x{height}" for height, width in sorted(set(sizes))[:3])
        raise ValueError(
            f"{path}: all frames of {output_format(path).name} have one size, and these pages differ ({listed}): write "
            ".tiff, or give --width and --height"
        )


def held_metadata(path: str | os.PathLike[str], metadata: Metadata) -> tuple[Metadata, str]:
    """The part of the metadata that the format of a file name holds, and a note on the rest or ''."""
    file_format = output_format(path)
    changes: dict[str, Any] = {}
    for name, value in metadata._asdict().items():
        too_long = file_format.name == "JPEG" and isinstance(value, bytes) and len(value) > LARGEST_SEGMENT
        if value and (too_long or name not in file_format.metadata):
            changes[name] = type(metadata)._field_defaults[name]
    if not changes:
        return metadata, ""
    lost = ", ".join(LABELS[name] for name in changes)
    return metadata._replace(**changes), f"{lost} of the original cannot be kept in this {file_format.name} file"
