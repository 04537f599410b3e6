"""Reading an image file: the one decoder of every command, of training and of the Python API.

An image that Pillow can open becomes upright RGB. What a network does not see (transparency, grayscale, bit depth,
color profile) is kept for writing:

| in the file | pixels | mode and bits of an `ImageData` |
|---|---|---|
| 1, L | gray, repeated over three channels | L |
| LA, or L with a transparent value | gray and alpha | LA |
| RGB, YCbCr JPEG, palette | RGB | RGB |
| RGBA, palette or RGB with transparency | RGB and alpha | RGBA |
| 16-bit gray, with or without alpha | gray | L or LA, 16 bits |
| 16-bit color (PNG, TIFF, PPM), with or without alpha | RGB | RGB or RGBA, 16 bits |
| float gray (TIFF, PFM) or color (TIFF) in [0, 1] | gray or RGB | as 16 bits; other ranges are refused |
| CMYK, Lab | RGB in sRGB, CMYK by the embedded profile if there is one; a note says so | RGB |
| deeper color of other formats | RGB at 8 bits, because Pillow decodes no more; a note says so | RGB |
| animations, several pages | the first frame; a note says so (all: framer_jax.images.frames) | one image |
| HEIC, JPEG XL | as the plug-in of Pillow decodes it, if there is one (framer_jax.images.plugins) | likewise |

The orientation is applied to the pixels, once. ICC profiles are kept, except those of CMYK and Lab, and so are EXIF,
XMP, IPTC, resolution, comments and texts (framer_jax.images.metadata).
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageCms, UnidentifiedImageError
from PIL.ImageFile import ImageFile

from framer_jax.images import jpeg, metadata, plugins, png, tiff
from framer_jax.images.deep import Tile, deep_color, deep_gray, is_deep, of_channels, raw_mode
from framer_jax.images.image_data import ImageData
from framer_jax.images.raster import ImageError, Raster, alpha, colors, to_float, to_uint8, upright
from framer_jax.paths import as_path, is_remote, read_bytes

EIGHT_BITS = "16-bit color was read as 8-bit"

SRGB_GAMMA = 1 / 2.2
"""The gamma that PNG files of sRGB colors state."""

CONVERTED = {"CMYK": "CMYK", "LAB": "Lab"}
"""Pillow's modes of the color spaces that are converted to sRGB, and their names."""

TO_SRGB = "was converted to sRGB"
"""The end of the note on it."""


class Header(NamedTuple):
    """Properties of an image file that are known before its pixels are decoded.

    Attributes:
      height, width: size of the upright image in pixels.
      loss: what reading it as 8-bit RGB changes or drops, in a few words; empty for 8-bit RGB.
      transparent: whether it has alpha or transparent colors.
      frames: number of frames of an animation, or of pages.
      further: number of other images in the file, which are not read: second views, gain maps, depth maps, and the
        still image of an animation.
    """

    height: int
    width: int
    loss: str
    transparent: bool = False
    frames: int = 1
    further: int = 0


def read_image(path: str | os.PathLike[str]) -> ImageData:
    """Read an image file, upright (see the table at the top of this module).

    Raises:
      FileNotFoundError: the file does not exist.
      ImageError: the file is not an image, is damaged or truncated, or holds values outside its range.
      MemoryError: it does not fit into memory.
    """
    return as_image(read_raster(path))


def from_pillow(image: Image.Image) -> ImageData:
    """A Pillow image as its file would be read; the EXIF orientation is applied if it is still as it was opened.

    Raises:
      ValueError: it cannot be decoded, or holds values outside its range.
    """
    deep = is_deep(image.mode, getattr(image, "tile", ()))
    notes = (EIGHT_BITS,) if deep else ()
    try:
        image.load()
        return as_image(of_pillow(image, image.info.get("icc_profile") or None, notes, isinstance(image, ImageFile)))
    except Exception as error:  # decoders raise whatever their authors liked
        raise ValueError(f"the Pillow image of mode {image.mode} cannot be used ({error})") from error


def as_image(raster: Raster) -> ImageData:
    """A decoded image as float32."""
    values = to_float(raster.values)
    return ImageData(colors(values), alpha(values), raster.mode, raster.icc, raster.bits, raster.notes, raster.metadata)


def of_pillow(image: Image.Image, icc: bytes | None, notes: tuple[str, ...], turns: bool = True) -> Raster:
    """A decoded Pillow image; `turns`: whether its EXIF orientation is still to be applied."""
    facts, lost = metadata.metadata_of(image)
    notes, orientation = tuple(filter(None, (*notes, lost))), _orientation(image) if turns else 1
    if image.mode.startswith("I") or image.mode == "F":
        return Raster(upright(deep_gray(image), orientation), icc, notes, facts)
    if image.mode in CONVERTED:
        notes = (*notes, f"{CONVERTED[image.mode]} {TO_SRGB}")
        image, icc = _to_srgb(image, icc), None
    return Raster(upright(_values(image), orientation), icc, notes, facts)


def read_rgb(path: str | os.PathLike[str]) -> npt.NDArray[np.uint8]:
    """The colors of an image file rounded to 8 bits, [H, W, 3]; errors as of `read_image`."""
    return colors(to_uint8(read_raster(path).values))


def read_raster(path: str | os.PathLike[str], page: int | None = None) -> Raster:
    """The pixels of an image file in its own depth; errors as of `read_image`.

    Args:
      path: the file.
      page: number of one of the pages of a TIFF file, from 0; None for the only or the first image of any file, with a
        note if there are more.
    """
    with opened(path) as file:
        stream = tiff.from_page(file, page) if page else file
        if stream.read(4) in tiff.SIGNATURES and (channels := tiff.read_channels(stream)) is not None:
            facts, lost = metadata.of_tiff(tiff.read_directory(stream))
            notes = tuple(filter(None, [_frames(channels.frames) if page is None else "", lost]))
            return Raster(of_channels(channels), channels.icc, notes, facts)
        loaded = _load(stream, page is None)
        image, notes, icc = loaded.image, loaded.notes, loaded.icc
        if (values := deep_color(loaded.stream, image, loaded.tiles)) is not None:
            facts, lost = metadata.metadata_of(image)
            return Raster(upright(values, _orientation(image)), icc, tuple(filter(None, (*notes, lost))), facts)
        if is_deep(image.mode, loaded.tiles):
            notes = (*notes, EIGHT_BITS)
        return of_pillow(image, icc, notes)


def read_header(path: str | os.PathLike[str]) -> Header:
    """Read the size of an image file and what its conversion to 8-bit RGB loses; errors as of `read_image`."""
    with opened(path) as file:
        if file.read(4) in tiff.SIGNATURES and (kind := tiff.layout(tags := tiff.read_directory(file))) is not None:
            height, width = tiff.upright_size(tags)
            loss = _join(_deep_loss(kind.colors == 1), "transparency dropped" * kind.alpha)
            return Header(height, width, loss, kind.alpha, tiff.count_frames(file))
        image, _ = _open(file)
        width, height = image.size
        if _header_orientation(image, file) >= 5:
            width, height = height, width
        images, still = _count(image, file), int(has_still(image))
        frames, further = (images - still, still) if image.format in ANIMATED else (1, images - 1)
        return Header(height, width, _join(_loss(image), _frames(images)), image.has_transparency_data, frames, further)


ANIMATED = ("GIF", "PNG", "WEBP", "AVIF", "TIFF")
"""Pillow's names of the formats whose images are frames or pages; those of others are layers, sizes or depth maps."""


def has_still(image: Image.Image) -> bool:
    """Whether the first image of an animated PNG file is none of its frames, but shown where animations are not."""
    return bool(getattr(image, "default_image", False)) and getattr(image, "n_frames", 1) > 1


@contextmanager
def opened(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """The opened file; whatever a decoder raises becomes an `ImageError` that names it."""
    if not os.fspath(path):
        raise ValueError("the name of the image is empty: name a file")
    if is_remote(path):
        path = as_path(path)
        content: BinaryIO | None = io.BytesIO(read_bytes(path))  # an error here is no damage
    else:
        path, content = Path(path), None
        if path.is_dir():
            raise ImageError(path, "a folder, not an image")
        if not path.exists():
            raise FileNotFoundError(f"{path}: no such image")
    try:
        with content or open(path, "rb") as file:
            yield file
    except UnidentifiedImageError as error:
        empty = not is_remote(path) and os.path.getsize(path) == 0
        raise ImageError(path, "the file is empty" if empty else "not an image that Pillow can read") from error
    except Image.DecompressionBombError as error:
        limit = int(2 * (Image.MAX_IMAGE_PIXELS or 0))
        raise ImageError(
            path,
            f"has more than {limit:,} pixels: cut it into parts, or raise the limit with --max-pixels (in Python, half "
            "of it is PIL.Image.MAX_IMAGE_PIXELS)",
        ) from error
    except plugins.PlugInError as error:
        raise ImageError(path, str(error)) from error
    except MemoryError as error:
        raise MemoryError(f"{path}: there is not enough memory to decode it") from error
    except Exception as error:  # decoders raise whatever their authors liked, such as RuntimeError (AVIF)
        text = (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
        raise ImageError(path, f"cannot be read as an image ({' '.join(text.split())}): repair or remove it") from error


def _open(file: BinaryIO) -> tuple[Image.Image, bytes | None]:
    """Open with Pillow, past texts and profiles of a PNG file that it finds too large; with their color profile."""
    try:
        image = _identified(file)
    except ValueError as error:
        if isinstance(error, UnicodeError) or not _is_png(file):
            raise
        data, icc = png.without_texts(file)
        return Image.open(io.BytesIO(data)), icc
    return image, image.info.get("icc_profile") or None


def _identified(file: BinaryIO) -> Image.Image:
    """Open with Pillow or, if it does not know the file, with a plug-in of it."""
    try:
        return Image.open(file)
    except UnidentifiedImageError:
        file.seek(0)
        plug_in = plugins.plug_in_of(file.read(12))
        if plug_in is None:
            raise
    plugins.register(plug_in)
    file.seek(0)
    return Image.open(file)


class Loaded(NamedTuple):
    """An image that Pillow has decoded, as stored in its file.

    Attributes:
      image: the image.
      stream: what it was read from, the file or a repaired copy.
      tiles: Pillow's descriptions of how its parts were decoded, which loading removes.
      notes: what reading it lost.
      icc: its color profile, or None.
    """

    image: Image.Image
    stream: BinaryIO
    tiles: tuple[Tile, ...]
    notes: tuple[str, ...]
    icc: bytes | None


def _load(file: BinaryIO, counts: bool) -> Loaded:
    """Decode a file with Pillow, past what Pillow refuses although all pixels are there.

    Args:
      file: the file.
      counts: whether a note says that there are more images.
    """
    image, icc = _open(file)
    notes = tuple(filter(None, [_frames(_count(image, file))])) if counts else ()
    tiles, stream = tuple(getattr(image, "tile", ())), file
    try:
        image.load()
    except ValueError:
        if not _is_png(file):
            raise
        data, icc = png.without_texts(file)  # a large text follows the pixels
        image = Image.open(stream := io.BytesIO(data))
        image.load()
    except OSError:
        file.seek(0)
        if image.format not in ("JPEG", "MPO") or (ended := jpeg.with_end(file.read())) is None:
            raise
        image = Image.open(stream := io.BytesIO(ended))
        image.load()
        notes = (*notes, "its end marker is missing; all its pixels are there")
    icc = icc or image.info.get("icc_profile") or None
    if icc is None and (lost := _gamma_note(image)):
        notes = (*notes, lost)
    return Loaded(image, stream, tiles, notes, icc)


def _is_png(file: BinaryIO) -> bool:
    file.seek(0)
    return file.read(len(png.SIGNATURE)) == png.SIGNATURE


def _gamma_note(image: Image.Image) -> str:
    """What is lost where a PNG file states another gamma than sRGB's, and no profile; '' for nothing."""
    gamma = image.info.get("gamma") if image.format == "PNG" and "srgb" not in image.info else None
    if gamma is None or abs(gamma - SRGB_GAMMA) < 0.01:
        return ""
    return f"its gamma of {gamma:g} (gAMA) was left out: programs that obey it show the result differently"


def _count(image: Image.Image, file: BinaryIO) -> int:
    """The number of images in a file; Pillow does not count those of a TIFF file past one that it does not read."""
    return tiff.count_frames(file) if image.format == "TIFF" else getattr(image, "n_frames", 1)


def _frames(count: int) -> str:
    return f"only the first of {count} frames was read" if count > 1 else ""


def _orientation(image: Image.Image) -> int:
    """The orientation that is still to be applied to a decoded image, 1 to 8.

    Pillow has applied that of TIFF files, its plug-ins those of HEIC and of JPEG XL (where EXIF only repeats it),
    except in a JPEG file within JPEG XL.
    """
    if image.format == "JXL" and not getattr(image, "jpeg", False):
        return 1
    return metadata.orientation_of(image.getexif)


def _header_orientation(image: Image.Image, file: BinaryIO) -> int:
    """The EXIF orientation that is still to be applied to the size of an image that is not decoded."""
    if image.format == "TIFF":  # Pillow states the size of the upright image
        return 1
    if image.format != "PNG":
        return _orientation(image)
    if "exif" not in image.info:  # Pillow would decode all of the file to search it
        # An unbuffered file, or else each chunk's neighbors would be read, too; one of a store is in memory.
        with open(file.name, "rb", buffering=0) if hasattr(file, "name") else nullcontext(file) as unbuffered:
            unbuffered.seek(0)
            if (late := png.orientation(unbuffered)) is not None:
                return late
    return metadata.orientation_of(lambda: Image.Image.getexif(image))


def _join(*parts: str) -> str:
    return ", ".join(part for part in parts if part)


def _deep_loss(gray: bool) -> str:
    return "16-bit gray read as 8-bit, in three equal channels" if gray else "16-bit color read as 8-bit"


def _loss(image: Image.Image) -> str:
    kinds = {"P": "palette expanded", "PA": "palette expanded"}
    kinds |= {mode: f"{name} converted" for mode, name in CONVERTED.items()}
    kinds |= dict.fromkeys(("RGB", "YCbCr", "RGBA", "RGBa", "RGBX"), "")
    if image.mode.startswith("I") or image.mode == "F":
        kind = _deep_loss(gray=True)
    elif is_deep(image.mode, getattr(image, "tile", ())):
        kind = _deep_loss(gray=raw_mode(image.tile[0]).startswith("LA"))  # type: ignore[attr-defined]
    else:
        kind = kinds.get(image.mode, "gray in three equal channels")
    transparency = "transparency dropped" if image.has_transparency_data else ""
    return _join(kind, transparency)


def _to_srgb(image: Image.Image, icc: bytes | None) -> Image.Image:
    """CMYK or Lab to sRGB, CMYK by the embedded profile if it is usable."""
    if icc and image.mode == "CMYK":
        try:
            profile = ImageCms.ImageCmsProfile(io.BytesIO(icc))
            converted = ImageCms.profileToProfile(image, profile, ImageCms.createProfile("sRGB"), outputMode="RGB")
            if converted is not None:
                return converted
        except (ImageCms.PyCMSError, OSError):
            pass  # an unusable profile is treated as a missing one
    return image.convert("RGB")


def _values(image: Image.Image) -> npt.NDArray[np.uint8]:
    """Values [H, W, C] of an 8-bit image, see `Raster`."""
    gray = image.mode in ("1", "L", "LA", "La")
    target = ("L" if gray else "RGB") + ("A" if image.has_transparency_data else "")
    values = np.asarray(image if image.mode == target else image.convert(target))
    return values.reshape(*values.shape[:2], -1)
