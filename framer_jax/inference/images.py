"""Writing image files, and what their formats hold of an image.

Reading is in framer_jax.images.decode, with the table of what becomes what; alpha in framer_jax.inference.transparency.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from framer_jax.images.arrays import check_range, check_shape, image_from_array
from framer_jax.images.decode import from_pillow, read_image
from framer_jax.images.frames import Timing
from framer_jax.images.image_data import ImageData
from framer_jax.images.metadata import DIRECTORIES, NONE, XMP_KEYWORD, XMP_TAG, Metadata, exif_for
from framer_jax.images.png import write_deep, write_strips
from framer_jax.images.profiles import SRGB, in_color, is_gray, is_usable, profile_name, srgb_pixels
from framer_jax.images.tiff import add_directories
from framer_jax.inference.formats import (
    FORMATS,
    FileFormat,
    check_quality,
    check_size,
    held_metadata,
    output_format,
)
from framer_jax.inference.result_settings import FileSettings
from framer_jax.porting.files import atomic_write

DEFAULT_FILES = FileSettings()

LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, as in Pillow's conversion to gray


CLEAR = 2
"""The number in a GIF file that says that a frame is removed before the next one is shown."""

LARGE_TIFF = 2**32 - 2**20
"""From this number of bytes on, TIFF files need offsets of 64 bits."""


def write_image(
    path: str | os.PathLike[str],
    image: ImageData,
    overwrite: bool = False,
    quality: int | None = None,
    strip_metadata: bool = False,
) -> None:
    """Write an image in the format of the file name's suffix; the file is written atomically.

    EXIF, XMP, IPTC, resolution, comment and texts are written as far as the format holds them; see `held_metadata`.

    Args:
      path: file name with a suffix of framer_jax.inference.formats.FORMATS.
      image: values outside [0, 1] are clipped.
      overwrite: whether an existing file may be replaced.
      quality: quality of a lossy format, 1 to 100; None for its default.
      strip_metadata: whether to leave out metadata, except for the color profile.

    Raises:
      FileExistsError: the file exists and `overwrite` is False.
      OSError: the file cannot be written (no permission, full disk, a parent that is a file).
      ValueError: the suffix is unknown, or the format cannot hold this image (transparency, size) or has no quality.
    """
    path, settings = Path(path), FileSettings(quality=quality, strip_metadata=strip_metadata)
    output_format(path)
    if path.exists() and not overwrite:
        raise FileExistsError(f"{path} exists: choose another name or allow overwriting")
    check_quality(path, quality)
    check_size(path, *image.pixels.shape[:2])
    check_alpha(path, image)
    try:
        with atomic_write(path) as temporary:
            encode_image(temporary, path, image, settings)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error


class Animation(NamedTuple):
    """Frames that are written as one file.

    Attributes:
      frames: the frames, as `pillow_frame` makes them.
      timing: how they are shown.
      first: the first frame, for what all of them share: metadata and color profile.
    """

    frames: tuple[Image.Image, ...]
    timing: Timing
    first: ImageData


def encode_image(file: Path, path: Path, image: ImageData | Animation, settings: FileSettings = DEFAULT_FILES) -> None:
    """Write an image into `file`, in the format of the file name `path`; errors name `path`.

    Raises:
      OSError: the file cannot be written.
      ValueError: the format cannot hold the image.
    """
    file_format = output_format(path)
    first = image.first if isinstance(image, Animation) else image
    height, width = first.pixels.shape[:2]
    held = _as_held(first, file_format)
    options = _save_options(path, held, settings)
    try:
        if isinstance(image, Animation):
            frame, *others = image.frames
            options |= {"save_all": True, "append_images": others, **_timing(file_format, image)}
        else:
            values = _encode(held, file_format)
            if values.dtype == np.uint16 and file_format.name == "PNG":
                write_deep(file, values, **_png_chunks(held, settings, height, width))
                return
            frame = _pillow_image(values, file_format)
        frame.save(file, format=file_format.name, **options)
        if file_format.name == "TIFF" and not settings.strip_metadata:
            exif = exif_for(first.metadata, height, width)
            add_directories(file, {tag: content for tag in DIRECTORIES if (content := exif.get_ifd(tag))})
    except (ValueError, OSError, struct.error) as error:
        if isinstance(error, OSError) and error.errno is not None:  # from the system; errors of Pillow have no number
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise ValueError(f"{path}: {file_format.name} cannot be written at {width}x{height} ({error})") from error


def encode_strips(
    file: Path,
    path: Path,
    strips: Iterable[np.ndarray],
    size: tuple[int, int],
    lr: ImageData,
    settings: FileSettings = DEFAULT_FILES,
) -> None:
    """Write an opaque image into a PNG `file` strip by strip; errors name `path`.

    Args:
      file: the file.
      path: its final name.
      strips: [rows, W, 3] float32 in [0, 1], from top to bottom.
      size: (H, W).
      lr: the LR image, whose mode, depth, color profile and metadata are kept.
      settings: whether metadata is left out.

    Raises:
      OSError: the file cannot be written.
    """
    png = FORMATS[".png"]
    encoded = (_encode(lr._replace(pixels=strip), png) for strip in strips)
    shape = (*size, 1 if lr.mode.startswith("L") else 3)
    try:
        write_strips(file, encoded, shape, 16 if lr.bits > 8 else 8, **_png_chunks(lr, settings, *size))
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error


def _png_chunks(image: ImageData, settings: FileSettings, height: int, width: int) -> dict[str, Any]:
    """Arguments of `write_strips` for the color profile and the metadata of a result of this size."""
    metadata = NONE if settings.strip_metadata else image.metadata
    exif = exif_for(metadata, height, width).tobytes() if metadata.exif else b""
    return {"icc": image.icc, "exif": exif, "xmp": metadata.xmp, "dpi": metadata.dpi, "texts": metadata.texts}


def pillow_frame(path: str | os.PathLike[str], image: ImageData) -> Image.Image:
    """One frame of an `Animation` in the format of a file name."""
    file_format = output_format(path)
    image = _as_held(image._replace(bits=_bits_of_frames(image, file_format)), file_format)
    return _pillow_image(_encode(image, file_format), file_format)


def _bits_of_frames(image: ImageData, file_format: FileFormat) -> int:
    """Bits per channel of an image that is one of several: Pillow writes frames with 8, and pages of TIFF as images."""
    return image.bits if file_format.name == "TIFF" else 8


def _as_held(image: ImageData, file_format: FileFormat) -> ImageData:
    """The image as a format holds it: without alpha, in color, in sRGB where it holds no such profile."""
    image = image if file_format.alpha else image._replace(alpha=None)
    mode = _written_mode(image, file_format)
    if mode.startswith("L") and mode not in file_format.gray:
        image = in_color(image)
    if file_format.profile or not is_usable(image):
        return image
    return image._replace(pixels=srgb_pixels(image))


def _pillow_image(values: np.ndarray, file_format: FileFormat) -> Image.Image:
    if file_format.name == "GIF" and values.shape[2] == 4:  # a pixel is shown or not
        shown = values[:, :, 3:] >= 128
        values = np.where(shown, values | np.array([0, 0, 0, 255], np.uint8), np.uint8(0))
    return Image.fromarray(values[:, :, 0] if values.shape[2] == 1 else values)


def _timing(file_format: FileFormat, animation: Animation) -> dict[str, Any]:
    """Options of Pillow's `save` for an animation; those of the first frame's default image are never used."""
    durations, plays = animation.timing
    if file_format.name == "TIFF" or not durations:
        return {}
    options: dict[str, Any] = {"duration": [round(duration) for duration in durations]}
    if file_format.name == "GIF":
        if any(frame.mode == "RGBA" for frame in animation.frames):
            options["disposal"] = CLEAR  # or earlier frames would show through
        return options if plays in (None, 1) else options | {"loop": plays and plays - 1}
    return options if file_format.name == "AVIF" or plays is None else options | {"loop": plays}


def _save_options(path: Path, image: ImageData, settings: FileSettings) -> dict[str, Any]:
    """Options of Pillow's `save` for an image, or for all frames of an animation."""
    file_format = output_format(path)
    height, width = image.pixels.shape[:2]
    options = dict(file_format.options)
    if file_format.quality is not None:
        options["quality"] = settings.quality or file_format.quality
    if file_format.name == "TIFF" and height * width * 4 * (1 + image.bits // 16) > LARGE_TIFF:
        options["big_tiff"] = True
    if image.icc and file_format.profile:
        options["icc_profile"] = image.icc
    metadata = NONE if settings.strip_metadata else held_metadata(path, image.metadata)[0]
    if metadata.dpi and file_format.name not in ("WEBP", "AVIF"):  # these have it in EXIF alone
        options["dpi"] = metadata.dpi
    if metadata.comment:
        options["comment"] = metadata.comment
    if metadata.iptc:
        options["extra"] = b"\xff\xed" + struct.pack(">H", len(metadata.iptc) + 2) + metadata.iptc
    return options | _descriptions(file_format, metadata, height, width)


def _descriptions(file_format: FileFormat, metadata: Metadata, height: int, width: int) -> dict[str, Any]:
    """Options of Pillow's `save` for EXIF and XMP."""
    alone = file_format.name in ("WEBP", "AVIF")  # whose resolution has no other place
    needed = "exif" in file_format.metadata and (metadata.exif or (metadata.dpi and alone))
    exif = exif_for(metadata, height, width) if needed else Image.Exif()
    if file_format.name == "TIFF":
        for directory in DIRECTORIES:  # Pillow cannot write them with compression, `add_directories` does
            exif.pop(directory, None)
        if metadata.xmp:
            exif[XMP_TAG] = metadata.xmp
        return {"exif": exif} if exif else {}
    options: dict[str, Any] = {"exif": exif.tobytes()} if exif else {}
    if (metadata.xmp or metadata.texts) and file_format.name == "PNG":
        texts = PngInfo()
        if metadata.xmp:
            texts.add_itxt(XMP_KEYWORD, metadata.xmp.decode("utf-8", "replace"))
        for keyword, text in metadata.texts:
            texts.add_itxt(keyword, text)
        options["pnginfo"] = texts
    elif metadata.xmp:
        options["xmp"] = metadata.xmp
    return options


def loss_note(
    path: str | os.PathLike[str], image: ImageData, settings: FileSettings = DEFAULT_FILES, frames: int = 1
) -> str:
    """What the format of a file name does not hold of an image, or of the first of several frames; '' for nothing.

    That is bit depth, metadata, the color profile and colors.
    """
    colors = output_format(path).colors
    metadata = "" if settings.strip_metadata else held_metadata(path, image.metadata)[1]
    return "; ".join(filter(None, (depth_note(path, image, frames), metadata, _profile_note(path, image), colors)))


def _profile_note(path: str | os.PathLike[str], image: ImageData) -> str:
    """What becomes of a color profile that the format of a file name does not hold; '' for nothing."""
    file_format = output_format(path)
    mode = _written_mode(image, file_format)
    if file_format.profile and mode.startswith("L") and mode not in file_format.gray and is_gray(image.icc):
        if not is_usable(image):
            return f"its gray color profile is unusable and was left out ({file_format.name} holds color)"
        return f"{file_format.name} holds color: converted from {profile_name(image.icc)} to sRGB"
    if file_format.profile or not image.icc:
        return ""
    if not is_usable(image):
        return f"its color profile is unusable and was left out ({file_format.name} holds none)"
    name = profile_name(image.icc)
    return "" if name == SRGB else f"{file_format.name} holds no color profile: converted from {name} to sRGB"


def check_alpha(path: str | os.PathLike[str], image: ImageData) -> None:
    """Raise ValueError if an image is transparent somewhere and the format of a file name is always opaque."""
    file_format = output_format(path)
    if image.alpha is not None and not file_format.alpha and image.alpha.min() < 1:
        raise ValueError(
            f"{path}: {file_format.name} cannot hold transparency: write .png, .tiff or .webp instead, or put the "
            "image on a color (--background white)"
        )


def depth_note(path: str | os.PathLike[str], image: ImageData, frames: int = 1) -> str:
    """What is lost where the format of a file name does not hold the image's bit depth; '' for nothing.

    Args:
      path: the file name.
      image: the image, or one of the frames.
      frames: number of frames that are written.
    """
    file_format = output_format(path)
    mode = _written_mode(image, file_format)
    bits = image.bits if frames == 1 else _bits_of_frames(image, file_format)
    if image.bits <= 8 or (bits > 8 and mode in file_format.deep):
        return ""
    others = "PNG keeps 16" if mode != "L" else "PNG and TIFF keep 16"
    if frames > 1:
        others = "of pages, TIFF keeps 16 if they are gray" if mode == "L" else "one image alone keeps 16 as PNG"
    return f"written with 8 bits per channel, of 16 that were read ({others})"


def as_image_data(image: Any, overshoot: float = 0.0) -> ImageData:
    """Whatever a user may pass as an image, as an `ImageData`.

    Args:
      image: a path, a Pillow image, an `ImageData`, or an array (framer_jax.images.arrays.image_from_array).
      overshoot: how far floats may lie outside [0, 1].

    Raises:
      FileNotFoundError, ValueError, TypeError: it is no image; the message says what to give.
    """
    if isinstance(image, str | os.PathLike):
        return read_image(image)
    if isinstance(image, Image.Image):
        return from_pillow(image)
    if isinstance(image, ImageData):
        check_shape(image.shape)
        check_range(image.pixels, overshoot)
        return image
    return image_from_array(image, overshoot)


def _written_mode(image: ImageData, file_format: FileFormat) -> str:
    """Mode of the file: without alpha if the format has none."""
    return image.mode.removesuffix("A") + ("A" if image.alpha is not None and file_format.alpha else "")


def _encode(image: ImageData, file_format: FileFormat) -> np.ndarray:
    """The values [H, W, C] to write, uint16 where the format keeps 16 bits, else uint8."""
    deep = image.bits > 8 and _written_mode(image, file_format) in file_format.deep
    highest, dtype = (65535, np.uint16) if deep else (255, np.uint8)
    is_gray = image.mode.startswith("L")
    height, width = image.pixels.shape[:2]
    channels = (1 if is_gray else 3) + (image.alpha is not None)
    values = np.empty((height, width, channels), dtype)
    for top in range(0, height, 256):  # in strips, so that a large image is not held as float twice
        rows = slice(top, top + 256)
        color = image.pixels[rows]
        parts = [(color @ np.array(LUMA, np.float32))[:, :, None] if is_gray else color]
        if image.alpha is not None:
            parts.append(image.alpha[rows, :, None])
        values[rows] = np.rint(np.clip(np.concatenate(parts, axis=2), 0, 1) * np.float32(highest)).astype(dtype)
    return values
