"""JPEG files that lack only their end marker."""

from __future__ import annotations

import io
from typing import NamedTuple

from PIL import Image

END = b"\xff\xd9"

FILLERS = tuple(bytes([first]) + bytes(range(1, 128)) for first in (0x01, 0x2A, 0x55, 0x80, 0xAA, 0xD5, 0xFE))
"""Bytes that are no marker, with various first bits: pixels that are still missing differ with some of them."""


class Scan(NamedTuple):
    """What a scan holds of its components: coefficients `first` to `last`, down to bit `low`."""

    components: tuple[int, ...]
    first: int
    last: int
    low: int


def with_end(data: bytes) -> bytes | None:
    """A JPEG file with its end marker added, or None if more than the marker is missing.

    Bytes after the last pixel are not decoded: whatever is inserted before the end marker, a file that has all its
    pixels gives the same image. Its scans must also hold all coefficients, since a progressive file may be cut between
    two scans.
    """
    data = data.rstrip(b"\xff")  # half an end marker, or padding
    components, scans = _structure(data)
    if not components or not _complete(components, scans):
        return None
    image = _pixels(data + END)
    return data + END if all(_pixels(data + filler + END) == image for filler in FILLERS) else None


def _pixels(data: bytes) -> bytes:
    with Image.open(io.BytesIO(data)) as image:
        return image.tobytes()


def _structure(data: bytes) -> tuple[tuple[int, ...], list[Scan]]:
    """The components of a JPEG file, and its scans."""
    components: tuple[int, ...] = ()
    scans: list[Scan] = []
    position = 2
    while (position := data.find(b"\xff", position)) != -1 and position + 4 <= len(data):
        marker = data[position + 1]
        if marker in (0x00, 0x01, 0xFF) or 0xD0 <= marker <= 0xD8:  # pixels, padding, and markers without content
            position += 1 if marker == 0xFF else 2
            continue
        length = int.from_bytes(data[position + 2 : position + 4])
        content = data[position + 4 : position + 2 + length]
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC) and len(content) >= 6:
            components = tuple(content[6::3][: content[5]])
        if marker == 0xDA and content:
            count = content[0]
            first, last, bits = content[1 + 2 * count : 4 + 2 * count]
            scans.append(Scan(tuple(content[1 : 1 + 2 * count : 2]), first, last, bits & 15))
        position += 2 + length
    return components, scans


def _complete(components: tuple[int, ...], scans: list[Scan]) -> bool:
    """Whether the scans hold all 64 coefficients of every component to the last bit."""
    return all(
        {index for scan in scans if component in scan.components and not scan.low for index in _range(scan)}
        == set(range(64))
        for component in components
    )


def _range(scan: Scan) -> range:
    return range(scan.first, scan.last + 1)
