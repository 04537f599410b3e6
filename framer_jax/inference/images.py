"""Writing image files, and what surrounds the pixels that are super-resolved: alpha, formats, limits.

Reading is in framer_jax.images.decode, with the table of what becomes what.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageColor

from framer_jax.images.arrays import check_range, check_shape, image_from_array
from framer_jax.images.decode import from_pillow, read_image
from framer_jax.images.image_data import ImageData
from framer_jax.images.png import write_deep, write_strips
from framer_jax.inference.resample import upsample_bicubic
from framer_jax.porting.files import atomic_write

LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, as in Pillow's conversion to gray


class FileFormat(NamedTuple):
    """A file format that can be written.

    Attributes:
      name: Pillow's name of the format.
      alpha: whether it stores transparency.
      deep: modes that are stored with 16 bits per channel.
      options: keyword arguments of Pillow's `save`.
      side: largest side in pixels.
      pixels: largest number of pixels.
    """

    name: str
    alpha: bool
    deep: tuple[str, ...]
    options: dict[str, Any]
    side: int = 2**31 - 1
    pixels: int = 2**62


_JPEG = FileFormat("JPEG", False, (), {"quality": 95, "subsampling": 0}, side=65_500)
_TIFF = FileFormat("TIFF", True, ("L",), {"compression": "tiff_adobe_deflate"})

FORMATS = {
    ".png": FileFormat("PNG", True, ("L", "LA", "RGB", "RGBA"), {}),
    ".webp": FileFormat("WEBP", True, (), {"quality": 95, "method": 4}, side=16_383),
    ".jpg": _JPEG,
    ".jpeg": _JPEG,
    ".tif": _TIFF,
    ".tiff": _TIFF,
    ".bmp": FileFormat("BMP", False, (), {}, pixels=(2**32 - 200) // 4),
}
"""The formats that can be written, by suffix. Only PNG, TIFF and BMP are lossless."""

LARGE_TIFF = 2**32 - 2**20
"""From this number of bytes on, TIFF files need offsets of 64 bits."""


def write_image(path: str | os.PathLike[str], image: ImageData, overwrite: bool = False) -> None:
    """Write an image in the format of the file name's suffix; the file is written atomically.

    Args:
      path: file name with a suffix of `FORMATS`.
      image: values outside [0, 1] are clipped.
      overwrite: whether an existing file may be replaced.

    Raises:
      FileExistsError: the file exists and `overwrite` is False.
      OSError: the file cannot be written (no permission, full disk, a parent that is a file).
      ValueError: the suffix is unknown, or the format cannot hold this image (transparency, size).
    """
    path = Path(path)
    output_format(path)
    if path.exists() and not overwrite:
        raise FileExistsError(f"{path} exists: choose another name or allow overwriting")
    check_size(path, *image.pixels.shape[:2])
    check_alpha(path, image)
    try:
        with atomic_write(path) as temporary:
            encode_image(temporary, path, image)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error


def encode_image(file: Path, path: Path, image: ImageData) -> None:
    """Write an image into `file`, in the format of the file name `path`; errors name `path`.

    Raises:
      OSError: the file cannot be written.
      ValueError: the format cannot hold the image.
    """
    file_format = output_format(path)
    image = image if file_format.alpha else image._replace(alpha=None)
    icc = image.icc if file_format.name != "BMP" else None
    values = _encode(image, file_format)
    height, width, channels = values.shape
    try:
        if values.dtype == np.uint16 and file_format.name == "PNG":
            write_deep(file, values, icc)
            return
        encoded = Image.fromarray(values[:, :, 0] if channels == 1 else values)
        if file_format.name == "WEBP" and encoded.mode == "LA":
            encoded = encoded.convert("RGBA")
        large = {"big_tiff": True} if file_format.name == "TIFF" and values.nbytes > LARGE_TIFF else {}
        encoded.save(
            file, format=file_format.name, **file_format.options, **large, **({"icc_profile": icc} if icc else {})
        )
    except (ValueError, OSError, struct.error) as error:
        if isinstance(error, OSError) and error.errno is not None:  # from the system; errors of Pillow have no number
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise ValueError(f"{path}: {file_format.name} cannot be written at {width}x{height} ({error})") from error


def encode_strips(file: Path, path: Path, strips: Iterable[np.ndarray], size: tuple[int, int], lr: ImageData) -> None:
    """Write an opaque image into a PNG `file` strip by strip; errors name `path`.

    Args:
      file: the file.
      path: its final name.
      strips: [rows, W, 3] float32 in [0, 1], from top to bottom.
      size: (H, W).
      lr: the LR image, whose mode, depth and color profile are kept.

    Raises:
      OSError: the file cannot be written.
    """
    png = FORMATS[".png"]
    encoded = (_encode(lr._replace(pixels=strip), png) for strip in strips)
    shape = (*size, 1 if lr.mode == "L" else 3)
    try:
        write_strips(file, encoded, shape, 16 if lr.bits > 8 else 8, lr.icc)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error


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


def check_alpha(path: str | os.PathLike[str], image: ImageData) -> None:
    """Raise ValueError if an image is transparent somewhere and the format of a file name is always opaque."""
    file_format = output_format(path)
    if image.alpha is not None and not file_format.alpha and image.alpha.min() < 1:
        raise ValueError(
            f"{path}: {file_format.name} cannot hold transparency: write .png, .tiff or .webp instead, or flatten the "
            "image onto a color (--flatten white)"
        )


def depth_note(path: str | os.PathLike[str], image: ImageData) -> str:
    """What is lost where the format of a file name does not hold the image's bit depth; '' for nothing."""
    file_format = output_format(path)
    mode = _written_mode(image, file_format)
    if image.bits <= 8 or mode in file_format.deep:
        return ""
    others = "PNG keeps 16" if mode != "L" else "PNG and TIFF keep 16"
    return f"written with 8 bits per channel, of 16 that were read ({others})"


def parse_color(text: str) -> tuple[float, float, float]:
    """A color such as 'white' or '#ffeedd', three values in [0, 1].

    Raises:
      ValueError: it is no color.
    """
    try:
        red, green, blue = ImageColor.getrgb(text)[:3]
    except ValueError as error:
        raise ValueError(f"{text!r} is no color: give a name such as white, or #rrggbb") from error
    return red / 255, green / 255, blue / 255


def flatten(image: ImageData, color: tuple[float, float, float]) -> ImageData:
    """The image on a ground of one color, without alpha."""
    if image.alpha is None:
        return image
    opacity = image.alpha[:, :, None]
    pixels = image.pixels * opacity + np.array(color, np.float32) * (1 - opacity)
    gray = image.mode == "LA" and len(set(color)) == 1
    return image._replace(pixels=pixels, alpha=None, mode="L" if gray else "RGB")


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


def output_format(path: str | os.PathLike[str]) -> FileFormat:
    """The format of a file name's suffix.

    Raises:
      ValueError: a suffix that is not in `FORMATS`.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in FORMATS:
        raise ValueError(f"{path}: cannot write {suffix or 'a name without suffix'!r}; use one of {', '.join(FORMATS)}")
    return FORMATS[suffix]


def premultiply_alpha(image: ImageData) -> np.ndarray:
    """Pixels multiplied by alpha, so that the colors of transparent pixels do not bleed into their neighbors.

    Returns:
      [H, W, 3] float32 in [0, 1]; the pixels themselves if the image is opaque.
    """
    if image.alpha is None or image.alpha.min() >= 1:
        return image.pixels
    return image.pixels * image.alpha[:, :, None]


def replace_pixels(image: ImageData, pixels: np.ndarray, scale: int) -> ImageData:
    """The image with super-resolved pixels; its alpha is upsampled bicubically.

    Args:
      image: LR image.
      pixels: [sH, sW, 3] float32 in [0, 1], super-resolved from `premultiply_alpha(image)`.
      scale: upsampling factor s.

    Returns:
      The SR image; colors are 0 where alpha rounds to 0.
    """
    if image.alpha is None:
        return image._replace(pixels=pixels)
    if image.alpha.min() >= 1:
        return image._replace(pixels=pixels, alpha=np.ones(pixels.shape[:2], np.float32))
    alpha = np.clip(upsample_bicubic(image.alpha, scale), 0, 1)
    smallest = 0.5 / (2**image.bits - 1)
    inverse = np.where(alpha < smallest, 0, 1 / np.maximum(alpha, smallest)).astype(np.float32)
    return image._replace(pixels=np.clip(pixels * inverse[:, :, None], 0, 1), alpha=alpha)


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
