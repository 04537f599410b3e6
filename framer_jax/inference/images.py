"""Reading and writing image files.

An image that Pillow can open becomes RGB in [0, 1]. What the network does not see (transparency, grayscale, bit depth,
color profile) is kept and written back:

| in the file | pixels | written back as |
|---|---|---|
| 1, L | gray, repeated over three channels | L |
| LA, or L with a transparent value | gray and alpha | LA |
| RGB, YCbCr JPEG, palette | RGB | RGB |
| RGBA, palette or RGB with transparency | RGB and alpha | RGBA |
| I;16, I, F (16-bit or float gray) | gray | 16-bit gray (PNG, TIFF), 8-bit in other formats |
| CMYK | RGB, converted by the embedded profile if there is one | RGB in sRGB |
| 16-bit color | RGB at 8 bits, because Pillow decodes no more; a note says so | RGB |
| animations, several pages | the first frame; a note says so | one image |

The EXIF orientation is applied to the pixels, and no EXIF data is written. ICC profiles are written back.
"""

from __future__ import annotations

import io
import os
import struct
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageCms, ImageFile, ImageOps, UnidentifiedImageError

from framer_jax.images.arrays import check_range, check_shape, image_from_array
from framer_jax.images.image_data import ImageData
from framer_jax.inference.resample import upsample_bicubic
from framer_jax.porting.files import atomic_write

LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, as in Pillow's conversion to gray


class FileFormat(NamedTuple):
    """A file format that can be written.

    Attributes:
      name: Pillow's name of the format.
      alpha: whether it stores transparency.
      gray16: whether it stores 16-bit gray.
      options: keyword arguments of Pillow's `save`.
    """

    name: str
    alpha: bool
    gray16: bool
    options: dict[str, Any]


FORMATS = {
    ".png": FileFormat("PNG", True, True, {}),
    ".webp": FileFormat("WEBP", True, False, {"quality": 95, "method": 4}),
    ".jpg": FileFormat("JPEG", False, False, {"quality": 95, "subsampling": 0}),
    ".jpeg": FileFormat("JPEG", False, False, {"quality": 95, "subsampling": 0}),
    ".tif": FileFormat("TIFF", True, True, {"compression": "tiff_adobe_deflate"}),
    ".tiff": FileFormat("TIFF", True, True, {"compression": "tiff_adobe_deflate"}),
    ".bmp": FileFormat("BMP", False, False, {}),
}
"""The formats that can be written, by suffix. Only PNG, TIFF and BMP are lossless."""


def read_image(path: str | os.PathLike[str]) -> ImageData:
    """Read an image that Pillow can open, upright (see the table at the top of this module).

    Raises:
      FileNotFoundError: the file does not exist.
      ValueError: the file is not an image, is damaged or truncated, or holds values outside its range.
    """
    path = Path(path)
    if path.is_dir():
        raise ValueError(f"{path} is a folder, not an image")
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such image")
    try:
        with Image.open(path) as opened:
            notes = []
            if _has_16_bit_color(opened):
                notes.append("16-bit color was read as 8-bit")
            if (frames := getattr(opened, "n_frames", 1)) > 1:
                notes.append(f"only the first of {frames} frames was read")
            opened.load()
            icc = opened.info.get("icc_profile") or None
            image = ImageOps.exif_transpose(opened)
            if image.mode == "CMYK":
                image, icc = _cmyk_to_rgb(image, icc), None
            pixels, alpha, bits = _decode(image)
    except UnidentifiedImageError as error:
        raise ValueError(f"{path}: not an image that Pillow can read") from error
    except (OSError, SyntaxError, ValueError, EOFError, struct.error, Image.DecompressionBombError) as error:
        raise ValueError(f"{path}: cannot be read as an image ({error})") from error
    gray = image.mode in ("1", "L", "LA", "La", "F") or image.mode.startswith("I")
    mode = ("L" if gray else "RGB") + ("" if alpha is None else "A")
    return ImageData(pixels, alpha, mode, icc, bits, tuple(notes))


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
    file_format = output_format(path)
    if path.exists() and not overwrite:
        raise FileExistsError(f"{path} exists: choose another name or allow overwriting")
    alpha = image.alpha
    if alpha is not None and not file_format.alpha:
        if alpha.min() < 1:
            raise ValueError(f"{path}: {file_format.name} cannot hold transparency; write .png, .tiff or .webp instead")
        alpha = None
    encoded = _encode(image._replace(alpha=alpha), file_format)
    options = file_format.options | ({"icc_profile": image.icc} if image.icc and file_format.name != "BMP" else {})
    try:
        with atomic_write(path) as temporary:
            encoded.save(temporary, format=file_format.name, **options)
    except (ValueError, OSError, struct.error) as error:
        if isinstance(error, OSError) and error.errno is not None:  # from the system; errors of Pillow have no number
            raise OSError(error.errno, error.strerror, str(path)) from error
        width, height = encoded.size
        raise ValueError(f"{path}: {file_format.name} cannot be written at {width}x{height} ({error})") from error


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


def from_pillow(image: Image.Image) -> ImageData:
    """A Pillow image as its file would be read; the EXIF orientation is applied if it is still as it was opened.

    Raises:
      ValueError: it cannot be decoded, or holds values outside its range.
    """
    try:
        icc = image.info.get("icc_profile") or None
        upright = ImageOps.exif_transpose(image) if isinstance(image, ImageFile.ImageFile) else image
        if upright.mode == "CMYK":
            upright, icc = _cmyk_to_rgb(upright, icc), None
        pixels, alpha, bits = _decode(upright)
    except (OSError, SyntaxError, ValueError, EOFError, struct.error) as error:
        raise ValueError(f"the Pillow image of mode {image.mode} cannot be used ({error})") from error
    gray = upright.mode in ("1", "L", "LA", "La", "F") or upright.mode.startswith("I")
    return ImageData(pixels, alpha, ("L" if gray else "RGB") + ("" if alpha is None else "A"), icc, bits)


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


def _has_16_bit_color(opened: Image.Image) -> bool:
    """Whether the decoder will drop the low byte of color channels (Pillow's raw mode ends in ';16B')."""
    for tile in getattr(opened, "tile", ()):
        raw_mode = tile[3] if isinstance(tile[3], str) else next((a for a in tile[3] or () if isinstance(a, str)), "")
        if ";16" in raw_mode and not opened.mode.startswith("I"):
            return True
    return False


def _cmyk_to_rgb(image: Image.Image, icc: bytes | None) -> Image.Image:
    """CMYK to sRGB, by the embedded profile if it is usable."""
    if icc:
        try:
            profile = ImageCms.ImageCmsProfile(io.BytesIO(icc))
            converted = ImageCms.profileToProfile(image, profile, ImageCms.createProfile("sRGB"), outputMode="RGB")
            if converted is not None:
                return converted
        except (ImageCms.PyCMSError, OSError):
            pass  # an unusable profile is treated as a missing one
    return image.convert("RGB")


def _decode(image: Image.Image) -> tuple[np.ndarray, np.ndarray | None, int]:
    """Pixels [H, W, 3], alpha [H, W] or None, and bits per channel."""
    if image.mode.startswith("I") or image.mode == "F":
        raw = np.asarray(image)
        highest = 1 if image.mode == "F" else 65535
        if not (raw.min() >= 0 and raw.max() <= highest):
            raise ValueError(f"mode {image.mode} values lie outside 0 to {highest}: rescale them first")
        transparent = image.info.get("transparency")
        alpha = None if transparent is None else (raw != transparent).astype(np.float32)
        gray = raw.astype(np.float32) / np.float32(highest)
        # Pillow has no 16-bit mode for gray with alpha.
        return np.repeat(gray[:, :, None], 3, axis=2), alpha, 16 if alpha is None else 8
    is_gray = image.mode in ("1", "L", "LA", "La")
    target = ("L" if is_gray else "RGB") + ("A" if image.has_transparency_data else "")
    values = np.asarray(image.convert(target)).astype(np.float32) / np.float32(255)
    values = values.reshape(*values.shape[:2], -1)  # [H, W, 1 to 4]
    if not image.has_transparency_data:
        return (np.repeat(values, 3, axis=2) if is_gray else values), None, 8
    color = np.repeat(values[:, :, :1], 3, axis=2) if is_gray else np.ascontiguousarray(values[:, :, :3])
    return color, np.ascontiguousarray(values[:, :, -1]), 8


def _encode(image: ImageData, file_format: FileFormat) -> Image.Image:
    """The image as a Pillow image that the format can hold."""
    gray16 = image.bits == 16 and image.mode == "L" and image.alpha is None and file_format.gray16
    highest, dtype = (65535, np.uint16) if gray16 else (255, np.uint8)
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
    encoded = Image.fromarray(values[:, :, 0] if channels == 1 else values)
    return encoded.convert("RGBA") if file_format.name == "WEBP" and encoded.mode == "LA" else encoded
