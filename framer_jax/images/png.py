"""What Pillow does not do with PNG files.

It refuses large texts, decodes the pixels in search of an orientation, and writes no 16-bit color.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import ExifTags, Image

from framer_jax.images.metadata import XMP_KEYWORD

SIGNATURE = b"\x89PNG\r\n\x1a\n"

TEXTS = (b"tEXt", b"zTXt", b"iTXt")

XMP_KEY = XMP_KEYWORD.encode() + b"\0"

LARGEST_TEXT = 2**20
"""From this number of bytes on, Pillow refuses a text."""

STRIP = 64
"""Rows that are compressed at a time."""

LARGEST_PROFILE = 32 * 2**20
"""Bytes of a decompressed color profile that are accepted."""


def chunks(file: BinaryIO) -> Iterator[tuple[bytes, int, int]]:
    """(kind, position of its content, length of its content) of every chunk of a PNG file, in order."""
    position = len(SIGNATURE)
    while True:
        file.seek(position)
        head = file.read(8)
        if len(head) < 8:
            return
        length, kind = struct.unpack(">I4s", head)
        yield kind, position + 8, length
        position += 12 + length
        if kind == b"IEND":
            return


def orientation(file: BinaryIO) -> int | None:
    """The EXIF orientation, 1 to 8, of a PNG file, also if it follows the pixels; None if it has no EXIF data."""
    for kind, position, length in chunks(file):
        if kind == b"eXIf":
            file.seek(position)
            exif = Image.Exif()
            exif.load(b"Exif\0\0" + file.read(length))
            return int(exif.get(ExifTags.Base.Orientation, 1))
    return None


def without_texts(file: BinaryIO) -> tuple[bytes, bytes | None]:
    """A PNG file without its texts and color profile, which Pillow refuses if they are large, and the color profile."""
    kept, icc = [SIGNATURE], None
    for kind, position, length in chunks(file):
        file.seek(position)
        content = file.read(length + 4)  # with the checksum
        if kind == b"iCCP":
            icc = _profile(content[:-4])
        elif kind not in TEXTS or (content.startswith(XMP_KEY) and length < LARGEST_TEXT):
            kept.append(struct.pack(">I", length) + kind + content)
    return b"".join(kept), icc


def _profile(content: bytes) -> bytes | None:
    """The color profile of an iCCP chunk, or None if it is damaged or larger than `LARGEST_PROFILE`."""
    _, _, compressed = content.partition(b"\0")
    inflate = zlib.decompressobj()
    try:
        profile = inflate.decompress(compressed[1:], LARGEST_PROFILE)
    except zlib.error:
        return None
    return profile if inflate.eof else None


def write_deep(
    path: Path,
    values: np.ndarray,
    icc: bytes | None = None,
    exif: bytes = b"",
    xmp: bytes = b"",
    dpi: tuple[float, float] | None = None,
    texts: Sequence[tuple[str, str]] = (),
) -> None:
    """Write a PNG file of 16 bits per channel.

    Args:
      path: the file, which is replaced.
      values: [H, W, C] uint16: gray, gray and alpha, RGB, or RGB and alpha for C = 1 to 4.
      icc: color profile, or None.
      exif: EXIF block, or b''.
      xmp: XMP packet, or b''.
      dpi: (horizontal, vertical) resolution in pixels an inch, or None.
      texts: (keyword, text) of each text.
    """
    strips = (values[top : top + STRIP] for top in range(0, len(values), STRIP))
    write_strips(path, strips, (values.shape[0], values.shape[1], values.shape[2]), 16, icc, exif, xmp, dpi, texts)


def write_strips(
    path: Path,
    strips: Iterable[np.ndarray],
    shape: tuple[int, int, int],
    bits: int,
    icc: bytes | None = None,
    exif: bytes = b"",
    xmp: bytes = b"",
    dpi: tuple[float, float] | None = None,
    texts: Sequence[tuple[str, str]] = (),
) -> None:
    """Write a PNG file strip by strip, so that no more than one strip is in memory.

    Args:
      path: the file, which is replaced.
      strips: [rows, W, C] from top to bottom, uint8 or uint16; together they have H rows.
      shape: (H, W, C), see `write_deep`.
      bits: bits per channel, 8 or 16.
      icc: color profile, or None.
      exif: EXIF block, or b''.
      xmp: XMP packet, or b''.
      dpi: (horizontal, vertical) resolution in pixels an inch, or None.
      texts: (keyword, text) of each text.
    """
    height, width, channels = shape
    kind, size = {1: 0, 2: 4, 3: 2, 4: 6}[channels], width * channels * bits // 8
    deflate = zlib.compressobj(6)
    with open(path, "wb") as file:
        file.write(SIGNATURE)
        _write_chunk(file, b"IHDR", struct.pack(">IIBBBBB", width, height, bits, kind, 0, 0, 0))
        if icc:
            _write_chunk(file, b"iCCP", b"ICC Profile\0\0" + zlib.compress(icc))
        if dpi:
            _write_chunk(file, b"pHYs", struct.pack(">IIB", *(round(value / 0.0254) for value in dpi), 1))
        if xmp:
            _write_chunk(file, b"iTXt", XMP_KEY + b"\0\0\0\0" + xmp)
        for keyword, text in texts:
            _write_chunk(file, b"iTXt", keyword.encode("latin-1", "replace") + b"\0\0\0\0\0" + text.encode())
        if exif:
            _write_chunk(file, b"eXIf", exif.removeprefix(b"Exif\0\0"))
        above = np.zeros((1, size), np.uint8)
        for strip in strips:
            rows = strip.astype(f">u{bits // 8}").reshape(-1, width * channels).view(np.uint8)
            differences = rows - np.concatenate([above, rows[:-1]])  # filter 2: to the row above, modulo 256
            above = rows[-1:]
            filtered = np.concatenate([np.full((len(rows), 1), 2, np.uint8), differences], axis=1)
            if part := deflate.compress(filtered.tobytes()):
                _write_chunk(file, b"IDAT", part)
        _write_chunk(file, b"IDAT", deflate.flush())
        _write_chunk(file, b"IEND", b"")


def _write_chunk(file: BinaryIO, kind: bytes, content: bytes) -> None:
    file.write(struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content)))
