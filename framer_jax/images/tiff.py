"""TIFF files of several float channels, or of 16-bit channels in planes, which Pillow does not decode or not rightly.

Pillow decodes 16-bit gray. So the samples are given to it as grayscale files of 16-bit words: one file for each channel
where they are stored in planes, else a single one with as many columns for each pixel as it has words.
"""

from __future__ import annotations

import io
import os
import struct
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from PIL import Image
from PIL.TiffImagePlugin import ImageFileDirectory_v2

SIGNATURES = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")

WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC, ORDER_OF_BITS, ORIENTATION = 256, 257, 258, 259, 262, 266, 274
STRIPS, SAMPLES, ROWS_PER_STRIP, STRIP_BYTES, PLANAR, PREDICTOR = 273, 277, 278, 279, 284, 317
TILE_WIDTH, TILE_HEIGHT, TILES, TILE_BYTES, EXTRA, FORMAT, PROFILE = 322, 323, 324, 325, 338, 339, 34675

CLASSIC, LONG = 42, 4
"""The number in the header of files with offsets of 32 bits, and the type of a 32-bit number."""

UNSIGNED, FLOAT = 1, 3
WHITE_IS_ZERO, BLACK_IS_ZERO, RGB = 0, 1, 2
IGNORED, PREMULTIPLIED = 0, 1
"""Meanings of a sample format, of a photometric interpretation, and of an additional channel."""


EMPTY: Mapping[int, tuple[int, ...]] = MappingProxyType({})


class Layout(NamedTuple):
    """The channels of a TIFF file.

    Attributes:
      colors: number of color channels, 1 or 3.
      samples: number of all channels.
      dtype: type of the samples.
      planar: whether each channel is stored by itself.
      alpha: whether the first additional channel is alpha.
      premultiplied: whether colors are multiplied by it.
    """

    colors: int
    samples: int
    dtype: type
    planar: bool
    alpha: bool
    premultiplied: bool


class Channels(NamedTuple):
    """Decoded channels.

    Attributes:
      values: [H, W, C] uint16, float16 or float32, as stored: not upright, and floats of any range.
      premultiplied: whether colors are multiplied by alpha.
      orientation: EXIF orientation, 1 to 8.
      icc: ICC color profile, or None.
      frames: number of images in the file.
    """

    values: np.ndarray
    premultiplied: bool
    orientation: int
    icc: bytes | None
    frames: int


def read_directory(file: BinaryIO) -> ImageFileDirectory_v2:
    """The tags of a TIFF file's first image."""
    return next(_directories(file))


def count_frames(file: BinaryIO) -> int:
    """The number of images in a TIFF file."""
    return sum(1 for _ in _directories(file))


def upright_sizes(file: BinaryIO) -> list[tuple[int, int]]:
    """(height, width) of each image of a TIFF file after its orientation is applied."""
    return [upright_size(tags) for tags in _directories(file)]


def upright_size(tags: ImageFileDirectory_v2) -> tuple[int, int]:
    """(height, width) of an image after its orientation is applied."""
    height, width = tags[HEIGHT], tags[WIDTH]
    return (width, height) if tags.get(ORIENTATION, 1) >= 5 else (height, width)


def from_page(file: BinaryIO, page: int) -> BinaryIO:
    """A copy of a TIFF file in memory that begins with one of its images; `page` counts from 0.

    Pillow reads no image of a file if it does not read the first one.
    """
    file.seek(0)
    data = bytearray(file.read())
    order = "<" if data[:2] == b"II" else ">"
    start, offset = (8, f"{order}Q") if data[2:4] in (b"+\0", b"\0+") else (4, f"{order}I")
    place = start
    for _ in range(page):
        (directory,) = struct.unpack_from(offset, data, place)
        entries = f"{order}Q" if start == 8 else f"{order}H"
        (count,) = struct.unpack_from(entries, data, directory)
        place = directory + struct.calcsize(entries) + count * (20 if start == 8 else 12)
    struct.pack_into(offset, data, start, *struct.unpack_from(offset, data, place))
    return io.BytesIO(data)


def _directories(file: BinaryIO) -> Iterator[ImageFileDirectory_v2]:
    """The tags of each image; one object that changes."""
    file.seek(0)
    directory = ImageFileDirectory_v2(_header(file))
    seen: set[int] = set()
    while directory.next and directory.next not in seen:
        seen.add(directory.next)
        file.seek(directory.next)
        directory.load(file)
        yield directory


def _header(file: BinaryIO) -> bytes:
    header = file.read(8)
    return header + (file.read(8) if header[2:4] in (b"+\0", b"\0+") else b"")


def layout(tags: ImageFileDirectory_v2) -> Layout | None:
    """The channels of a file that this module decodes, or None if Pillow reads the file as well as it can be."""
    samples, formats = tags.get(SAMPLES, 1), set(tags.get(FORMAT, (UNSIGNED,)))
    depth = (set(tags.get(BITS, (1,))), formats)
    dtypes = (({16}, UNSIGNED, np.uint16), ({16}, FLOAT, np.float16), ({32}, FLOAT, np.float32))
    dtype = next((dtype for bits, kind, dtype in dtypes if depth == (bits, {kind})), None)
    colors = {WHITE_IS_ZERO: 1, BLACK_IS_ZERO: 1, RGB: 3}.get(tags.get(PHOTOMETRIC, -1), 0)
    if dtype is None or not colors or samples < colors or (samples == 1 and dtype == np.uint16):
        return None
    planar, extra = tags.get(PLANAR, 1) == 2, tags.get(EXTRA, ())
    if colors == 3 and dtype == np.uint16 and not planar and samples <= 4:
        return None  # `deep_color` takes both bytes of what Pillow decodes
    alpha = samples > colors and (not extra or extra[0] != IGNORED)
    premultiplied = bool(alpha and extra and extra[0] == PREMULTIPLIED)
    return Layout(colors, samples, dtype, planar, alpha, premultiplied)


def read_channels(file: BinaryIO) -> Channels | None:
    """The channels of a TIFF file, or None if Pillow reads the file as well as it can be.

    Raises:
      ValueError: the file needs a predictor of floats.
    """
    tags = read_directory(file)
    kind = layout(tags)
    if kind is None:
        return None
    if tags.get(PREDICTOR, 1) == 3:
        raise ValueError("it is compressed with the predictor of floats: save it without a predictor")
    file.seek(0)
    data = file.read()
    if kind.planar:
        planes = [_plane(data, tags, kind, index) for index in range(kind.colors + kind.alpha)]
        values = np.stack(planes, axis=2)
    else:
        values = _samples(data, tags, kind, kind.samples)[:, :, : kind.colors + kind.alpha]
    if tags[PHOTOMETRIC] == WHITE_IS_ZERO:
        white = 65535 if kind.dtype == np.uint16 else 1
        values = np.concatenate([(white - values[:, :, :1]).astype(values.dtype), values[:, :, 1:]], axis=2)
    return Channels(values, kind.premultiplied, int(tags.get(ORIENTATION, 1)), tags.get(PROFILE), count_frames(file))


def _plane(data: bytes, tags: ImageFileDirectory_v2, kind: Layout, index: int) -> np.ndarray:
    """One channel [H, W] of a file that stores its channels in planes."""
    places: dict[int, tuple[int, ...]] = {}
    for offsets, lengths in ((STRIPS, STRIP_BYTES), (TILES, TILE_BYTES)):
        if offsets in tags:
            count = len(tags[offsets]) // kind.samples
            part = slice(index * count, (index + 1) * count)
            places |= {offsets: tags[offsets][part], lengths: tags[lengths][part]}
    return _samples(data, tags, kind, 1, places)[:, :, 0]


def _samples(
    data: bytes, tags: ImageFileDirectory_v2, kind: Layout, channels: int, places: Mapping[int, tuple[int, ...]] = EMPTY
) -> np.ndarray:
    """Samples [H, W, channels] that are stored together, at the places of some of the tags."""
    height, width, side = tags[HEIGHT], tags[WIDTH], tags.get(TILE_WIDTH, tags[WIDTH])
    words = np.dtype(kind.dtype).itemsize // 2
    values = _decode_words(data, tags, channels * words, places).reshape(height, width, channels, words)
    if words == 2:
        high, low = (0, 1) if tags.prefix == b"MM" else (1, 0)
        values = values[..., high].astype(np.uint32) << 16 | values[..., low]
    else:
        values = values[..., 0]
    if tags.get(PREDICTOR, 1) == 2:  # differences between neighbors, within each tile
        parts = [values[:, start : start + side] for start in range(0, width, side)]
        values = np.concatenate([np.cumsum(part, axis=1, dtype=part.dtype) for part in parts], axis=1)
    return np.ascontiguousarray(values).view(kind.dtype)


def _decode_words(
    data: bytes, tags: ImageFileDirectory_v2, words: int, places: Mapping[int, tuple[int, ...]]
) -> np.ndarray:
    """A file's samples as 16-bit words, `words` for a pixel, [H, W words] uint16: a new directory is appended to it."""
    strips, tiles = (STRIPS, STRIP_BYTES, ROWS_PER_STRIP), (TILES, TILE_BYTES, TILE_WIDTH, TILE_HEIGHT)
    kept = (WIDTH, HEIGHT, COMPRESSION, ORDER_OF_BITS, *strips, *tiles)
    entries = {tag: tags[tag] for tag in kept if tag in tags} | dict(places)
    entries |= {tag: entries[tag] * words for tag in (WIDTH, TILE_WIDTH) if tag in entries}
    entries |= {BITS: 16, FORMAT: UNSIGNED, PHOTOMETRIC: BLACK_IS_ZERO, SAMPLES: 1, PREDICTOR: 1}
    start = len(data) + len(data) % 2
    magic, order = (b"MM\0*", ">") if tags.prefix == b"MM" else (b"II*\0", "<")
    head = magic + struct.pack(f"{order}I", start)
    body = data[8:] + bytes(start - len(data)) + _directory(entries, start, order)
    with Image.open(io.BytesIO(head + body)) as image:
        return np.asarray(image).astype(np.uint16)


def _directory(entries: Mapping[int, int | tuple[int, ...]], start: int, order: str) -> bytes:
    """The bytes of a directory at position `start`, all entries as 32-bit numbers; `order` is struct's."""
    head, tail = [struct.pack(f"{order}H", len(entries))], []
    position = start + 2 + 12 * len(entries) + 4
    for tag, value in sorted(entries.items()):
        numbers = value if isinstance(value, tuple) else (value,)
        packed = struct.pack(f"{order}{len(numbers)}I", *numbers)
        in_place = packed if len(numbers) == 1 else struct.pack(f"{order}I", position)
        head.append(struct.pack(f"{order}HHI", tag, 4, len(numbers)) + in_place)
        if len(numbers) > 1:
            tail.append(packed)
            position += len(packed)
    return b"".join([*head, bytes(4), *tail])


def add_directories(path: str | os.PathLike[str], directories: Mapping[int, Mapping[int, Any]]) -> None:
    """Add directories of EXIF data to a compressed TIFF file, which Pillow cannot write into one.

    They are appended, and so is a copy of the first image's directory that refers to them. Files with offsets of 64
    bits (over 4 GiB) remain as they are.

    Args:
      path: the file.
      directories: tag of the main directory that refers to a directory → its tags and their values.
    """
    with open(path, "r+b") as file:
        header = file.read(8)
        order = ">" if header[:2] == b"MM" else "<"
        magic, start = struct.unpack(f"{order}HI", header[2:])
        if magic != CLASSIC or not directories:
            return
        file.seek(start)
        (count,) = struct.unpack(f"{order}H", file.read(2))
        entries = {}
        for _ in range(count):
            entry = file.read(12)
            entries[struct.unpack(f"{order}H", entry[:2])[0]] = entry
        following = file.read(4)
        for tag, values in directories.items():
            position = _even_end(file)
            directory = ImageFileDirectory_v2(header)
            for name, value in values.items():
                directory[name] = value
            file.write(directory.tobytes(position))
            entries[tag] = struct.pack(f"{order}HHII", tag, LONG, 1, position)
        position = _even_end(file)
        file.write(
            struct.pack(f"{order}H", len(entries)) + b"".join(entries[tag] for tag in sorted(entries)) + following
        )
        file.seek(4)
        file.write(struct.pack(f"{order}I", position))


def _even_end(file: BinaryIO) -> int:
    """The end of a file, where the file then is; a byte is added to an odd one."""
    end = file.seek(0, os.SEEK_END)
    return end + file.write(bytes(end % 2))
