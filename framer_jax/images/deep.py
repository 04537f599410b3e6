"""Pixels of more than 8 bits a channel, which Pillow decodes for gray only."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any, BinaryIO

import numpy as np
from PIL import Image

from framer_jax.images import tiff
from framer_jax.images.raster import unmultiplied, upright

Tile = Any
"""How Pillow decodes a part of an image: (decoder, extents, offset, arguments)."""

OTHER_ORDER = {"B": "L", "L": "B", "N": "B" if sys.byteorder == "little" else "L"}
"""Byte order of 16-bit samples in Pillow's raw modes → the other one: read so, the low byte is taken for the high."""

HIGHEST = 65535


def is_deep(mode: str, tiles: Sequence[Tile]) -> bool:
    """Whether Pillow drops the low bytes of color channels that it decodes so."""
    color = not (mode.startswith("I") or mode == "F")
    return color and any(";16" in raw_mode(tile) or _maximum(tile) > 255 for tile in tiles)


def of_channels(channels: tiff.Channels) -> np.ndarray:
    """Values of a `Raster` from the channels of a TIFF file; ValueError if floats lie outside [0, 1]."""
    values = channels.values
    if values.dtype != np.uint16:
        values = _checked(values.astype(np.float32), "float", 1)
    return upright(unmultiplied(values) if channels.premultiplied else values, channels.orientation)


def deep_gray(image: Image.Image) -> np.ndarray:
    """Values of a `Raster` from an image of Pillow's modes I, I;16 and F; ValueError if they lie out of range."""
    tags = getattr(image, "tag_v2", {})
    raw = np.asarray(image)[:, :, None]
    if image.mode == "F":
        values = _checked(raw.astype(np.float32), "float", 1)
        return 1 - values if tags.get(tiff.PHOTOMETRIC) == tiff.WHITE_IS_ZERO else values
    bits = max(tags.get(tiff.BITS, (16,)))
    highest = 2**bits - 1 if bits < 16 else HIGHEST
    values = _checked(raw, image.mode, highest)
    if tags.get(tiff.PHOTOMETRIC) == tiff.WHITE_IS_ZERO:
        values = highest - values.astype(np.int64)
    values = values.astype(np.uint16) if highest == HIGHEST else np.rint(values * (HIGHEST / highest)).astype(np.uint16)
    transparent = image.info.get("transparency")
    return values if transparent is None else _with_alpha(values, raw != transparent)


def deep_color(stream: BinaryIO, image: Image.Image, tiles: Sequence[Tile]) -> np.ndarray | None:
    """Values of a `Raster`, uint16, of an image whose low bytes Pillow has dropped.

    Pillow takes the high byte of each sample. The image is decoded once more as if its bytes were in the other order,
    which gives the low bytes. Orientation is as in `image`.

    Args:
      stream: what the image was read from.
      image: the decoded image.
      tiles: its tiles before it was decoded.

    Returns:
      the values, or None if the image has 8 bits or cannot be decoded so.
    """
    if not is_deep(image.mode, tiles):
        return None
    arrangements, decoders = {raw_mode(tile) for tile in tiles}, {tile[0] for tile in tiles}
    if decoders == {"ppm"}:
        return _ppm(stream, image, tiles[0])
    arrangement = arrangements.pop()
    if arrangements or not decoders <= {"zip", "raw", "libtiff"} or arrangement.split(";")[0] not in CHANNELS:
        return None
    if arrangement.startswith("LA"):  # as many bytes as 8-bit RGBA: high and low byte of gray, then of alpha
        pairs = _decoded(stream, "RGBA").astype(np.uint16)
        return pairs[:, :, ::2] << 8 | pairs[:, :, 1::2]
    base, order = arrangement[:-1].replace("RGBa", "RGBA"), arrangement[-1]
    high, low = (_decoded(stream, base + other) for other in (order, OTHER_ORDER[order]))
    values = high.astype(np.uint16) << 8 | low
    if arrangement.startswith("RGBa"):
        return unmultiplied(values)
    transparent = image.info.get("transparency")
    return (
        values if transparent is None else _with_alpha(values, (values != np.array(transparent)).any(2, keepdims=True))
    )


CHANNELS = ("RGB", "RGBA", "RGBa", "RGBX", "LA")
"""The raw modes whose samples can be decoded twice."""


def _decoded(stream: BinaryIO, arrangement: str) -> np.ndarray:
    """The image in a stream, decoded as if its samples were arranged so."""
    stream.seek(0)
    image = Image.open(stream)
    tiles = []
    for tile in image.tile:  # type: ignore[attr-defined]
        arguments = (arrangement, *tile[3][1:]) if isinstance(tile[3], tuple) else arrangement
        tiles.append(type(tile)(*tile[:3], arguments))
    image.tile = tiles  # type: ignore[attr-defined]
    return np.asarray(image)


def _ppm(stream: BinaryIO, image: Image.Image, tile: Tile) -> np.ndarray:
    """The values of a binary PPM file, whose samples are big-endian."""
    stream.seek(tile[2])
    samples = np.frombuffer(stream.read(image.width * image.height * 6), ">u2").reshape(image.height, image.width, 3)
    return np.rint(np.minimum(samples, _maximum(tile)) * (HIGHEST / _maximum(tile))).astype(np.uint16)


def raw_mode(tile: Tile) -> str:
    """Pillow's name of the samples' arrangement, such as 'RGB;16B'."""
    arguments = tile[3] if isinstance(tile[3], tuple) else (tile[3],)
    return next((part for part in arguments if isinstance(part, str)), "")


def _maximum(tile: Tile) -> int:
    """The largest value that a PPM file states; 255 for other formats."""
    return int(tile[3][1]) if tile[0] in ("ppm", "ppm_plain") and isinstance(tile[3], tuple) else 255


def _checked(values: np.ndarray, kind: str, highest: int) -> np.ndarray:
    if not np.isfinite(values).all():
        raise ValueError(f"{kind} values are NaN or infinite: replace them first")
    if not (values.min() >= 0 and values.max() <= highest):
        raise ValueError(f"{kind} values lie outside 0 to {highest}: rescale them first")
    return values


def _with_alpha(values: np.ndarray, opaque: np.ndarray) -> np.ndarray:
    return np.concatenate([values, np.where(opaque, HIGHEST, 0).astype(np.uint16)], axis=2)
