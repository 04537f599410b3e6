"""What a photograph's file says about it besides its pixels: EXIF, XMP, IPTC, resolution, comment and texts."""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Callable
from typing import Any, NamedTuple

from PIL import ExifTags, Image

Base = ExifTags.Base

KEPT_TAGS = (
    *(Base.ImageDescription, Base.Make, Base.Model, Base.Software, Base.DateTime, Base.Artist, Base.HostComputer),
    *(Base.Copyright, Base.Rating, Base.RatingPercent, Base.DateTimeOriginal, Base.TimeZoneOffset),
    *(Base.XPTitle, Base.XPComment, Base.XPAuthor, Base.XPKeywords, Base.XPSubject),
)
"""EXIF tags of the image itself that describe the photograph. Others describe the file: its layout, its thumbnail, and
its orientation, which is applied to the pixels."""

DIRECTORIES = (ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo)
"""Tags of the directories of EXIF data that are kept: exposure, lens and the like, and place."""

X_RESOLUTION, Y_RESOLUTION, RESOLUTION_UNIT = Base.XResolution, Base.YResolution, Base.ResolutionUnit
INCH, CENTIMETER = 2, 3

XMP_TAG, PHOTOSHOP_TAG = 700, 34377
"""Tags of TIFF files."""

IPTC_RESOURCE = 0x0404

XMP_KEYWORD = "XML:com.adobe.xmp"
"""Keyword of the text of a PNG file that is XMP."""

PHOTOSHOP = b"Photoshop 3.0\0"

DAMAGED = "its EXIF data is damaged and was left out"


class Metadata(NamedTuple):
    """Metadata of an upright image.

    Attributes:
      exif: EXIF block, b'Exif' and two zeros and a TIFF file, without orientation, thumbnail and resolution; or b''.
      xmp: XMP packet without orientation, or b''.
      iptc: IPTC data as an image resource of Photoshop, the content of a JPEG file's APP13; or b''.
      dpi: (horizontal, vertical) resolution in pixels an inch, or None.
      comment: comment of a JPEG or GIF file, or b''.
      texts: (keyword, text) of a PNG file, without XMP.
    """

    exif: bytes = b""
    xmp: bytes = b""
    iptc: bytes = b""
    dpi: tuple[float, float] | None = None
    comment: bytes = b""
    texts: tuple[tuple[str, str], ...] = ()


NONE = Metadata()


def metadata_of(image: Image.Image) -> tuple[Metadata, str]:
    """The metadata of a decoded Pillow image, and what of it was lost in one sentence or ''."""
    note = ""
    try:
        exif, resolution = _exif(image.getexif())
    except Exception:  # damaged data raises whatever Pillow stumbles on
        exif, resolution, note = b"", None, DAMAGED
    xmp = image.info.get("xmp") or image.info.get(XMP_KEYWORD) or b""
    dpi = (_resolution(image.info.get("dpi")) if _states_resolution(image) else None) or resolution
    return Metadata(exif, _without_orientation(xmp), _iptc(image), dpi, _comment(image), _texts(image)), note


def orientation_of(read: Callable[[], Image.Exif]) -> int:
    """The orientation, 1 to 8, in the EXIF data that a function reads; 1 if there is none, or it is damaged."""
    try:
        orientation = read().get(Base.Orientation, 1)
    except Exception:  # the image itself may be whole, and `metadata_of` says that its EXIF data is not
        return 1
    return int(orientation) if orientation in range(1, 9) else 1


def of_tiff(tags: Any) -> tuple[Metadata, str]:
    """The metadata in the tags (framer_jax.images.tiff.read_directory) of a TIFF file that Pillow does not open.

    EXIF directories within it are not read, which the note says.
    """
    exif = Image.Exif()
    for tag in KEPT_TAGS:
        if tag in tags:
            exif[tag] = tags[tag]
    lost = any(tag in tags for tag in DIRECTORIES)
    resolution = _in_inches(*(tags.get(tag) for tag in (X_RESOLUTION, Y_RESOLUTION, RESOLUTION_UNIT)))
    xmp = tags.get(XMP_TAG, b"")
    metadata = Metadata(
        _bytes(exif),
        _without_orientation(xmp if isinstance(xmp, bytes | str) else bytes(xmp)),
        _iptc_resource(tags.get(PHOTOSHOP_TAG, b"")),
        resolution,
    )
    return metadata, "of its EXIF data, exposure and place were left out" if lost else ""


def exif_for(metadata: Metadata, height: int, width: int) -> Image.Exif:
    """The EXIF data to write with an image of this size; empty if there is nothing to say."""
    exif = Image.Exif()
    if metadata.exif:
        exif.load(metadata.exif)
        details = exif.get_ifd(ExifTags.IFD.Exif)
        for tag, side in ((Base.ExifImageWidth, width), (Base.ExifImageHeight, height)):
            if tag in details:
                details[tag] = side
    if metadata.dpi is not None:
        exif[X_RESOLUTION], exif[Y_RESOLUTION] = metadata.dpi
        exif[RESOLUTION_UNIT] = INCH
    return exif


def _exif(exif: Image.Exif) -> tuple[bytes, tuple[float, float] | None]:
    """(block to keep, resolution) of EXIF data."""
    kept = Image.Exif()
    kept.endian = exif.endian
    for tag in KEPT_TAGS:
        if tag in exif:
            kept[tag] = exif[tag]
    for directory in DIRECTORIES:
        content = dict(exif.get_ifd(directory))
        content.pop(ExifTags.IFD.Interop, None)  # it names the format of the original file
        if content:
            kept[directory] = content
    return _bytes(kept), _in_inches(*(exif.get(tag) for tag in (X_RESOLUTION, Y_RESOLUTION, RESOLUTION_UNIT)))


def _bytes(exif: Image.Exif) -> bytes:
    return exif.tobytes() if len(exif) else b""


def _states_resolution(image: Image.Image) -> bool:
    """Whether the resolution that Pillow names is the file's: for TIFF and JPEG it fills in 1 or 72 where none is."""
    if image.format == "TIFF":
        return X_RESOLUTION in getattr(image, "tag_v2", {})
    return image.format not in ("JPEG", "MPO") or image.info.get("jfif_unit") in (INCH - 1, CENTIMETER - 1)


def _in_inches(x: Any, y: Any, unit: Any) -> tuple[float, float] | None:
    factor = 2.54 if unit == CENTIMETER else 1.0
    return None if unit not in (INCH, CENTIMETER) else _resolution((x, y), factor)


def _resolution(dpi: Any, factor: float = 1.0) -> tuple[float, float] | None:
    """A resolution in pixels an inch, or None if there is no usable one."""
    try:
        x, y = (float(value) * factor for value in dpi)
    except (TypeError, ValueError, ZeroDivisionError):
        return None
    usable = all(math.isfinite(value) and 1 <= value < 2**16 for value in (x, y))
    return (x, y) if usable else None


def _without_orientation(xmp: bytes | str) -> bytes:
    data = xmp.encode() if isinstance(xmp, str) else bytes(xmp)
    return re.sub(rb'tiff:Orientation\s*=\s*(["\'])\d*\1|<tiff:Orientation>\s*\d*\s*</tiff:Orientation>', b"", data)


def _comment(image: Image.Image) -> bytes:
    """The comment of a JPEG or GIF image."""
    comment = image.info.get("comment") if image.format in ("JPEG", "MPO", "GIF") else None
    return comment.encode() if isinstance(comment, str) else bytes(comment or b"")


def _texts(image: Image.Image) -> tuple[tuple[str, str], ...]:
    """The texts of a decoded PNG image; XMP has a place of its own, and profiles of old programs say nothing new."""
    texts = getattr(image, "text", {}) if image.format == "PNG" else {}
    others = (XMP_KEYWORD, "Raw profile")
    return tuple((str(key), str(text)) for key, text in texts.items() if not key.startswith(others))


def _iptc(image: Image.Image) -> bytes:
    """The IPTC data of a JPEG or TIFF image, see `Metadata`."""
    if image.format in ("JPEG", "MPO"):
        parts = [data for name, data in getattr(image, "applist", ()) if name == "APP13" and data.startswith(PHOTOSHOP)]
        return _iptc_resource(b"".join(part[len(PHOTOSHOP) :] for part in parts))
    return _iptc_resource(getattr(image, "tag_v2", {}).get(PHOTOSHOP_TAG, b""))


def _iptc_resource(resources: Any) -> bytes:
    """The IPTC resource among Photoshop's image resources, which also hold a thumbnail, as content of an APP13."""
    data, position = bytes(resources) if isinstance(resources, bytes | tuple) else b"", 0
    while data[position : position + 4] == b"8BIM" and position + 12 <= len(data):
        start = position + 6 + -(-(1 + data[position + 6]) // 2) * 2  # behind the name, whose length comes first
        if start + 4 > len(data):
            break
        (kind,), (size,) = struct.unpack_from(">H", data, position + 4), struct.unpack_from(">I", data, start)
        end = start + 4 + size
        if kind == IPTC_RESOURCE and end <= len(data):
            return PHOTOSHOP + data[position:end] + b"\0" * (size % 2)
        position = end + size % 2
    return b""
