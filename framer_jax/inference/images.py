"""Pictures in files: what is read, what is kept, and how it is written back.

What Pillow opens becomes colour in [0, 1], and what the network cannot see (transparency, grey, bit depth, colour
profile) is kept beside it:

| in the file | pixels | written back as |
|---|---|---|
| 1, L | grey in three channels | L |
| LA, or L with a transparent value | grey and alpha | LA |
| RGB, YCbCr JPEG, palette | RGB | RGB |
| RGBA, palette or RGB with transparency | RGB and alpha | RGBA |
| I;16, I, F (16-bit or float grey) | grey | 16-bit grey (PNG, TIFF), 8-bit in other formats |
| CMYK | RGB, through its own profile where it has one | RGB in sRGB |
| 16 bits per channel in colour | RGB at 8 bits: Pillow decodes no more; a note says so | RGB |
| animations, several pages | the first frame; a note says so | one picture |

EXIF orientation is applied to the pixels and no EXIF is written. ICC profiles are written back.
"""

from __future__ import annotations

import io
import os
import struct
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError

from framer_jax.inference.resample import upsample_bicubic
from framer_jax.porting.files import replacing

LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, what Pillow's own grey is made with


class Format(NamedTuple):
    """What a file format can hold, and how Pillow is asked to write it."""

    name: str
    alpha: bool
    deep_grey: bool
    options: dict[str, Any]


FORMATS = {
    ".png": Format("PNG", True, True, {}),
    ".webp": Format("WEBP", True, False, {"quality": 95, "method": 4}),
    ".jpg": Format("JPEG", False, False, {"quality": 95, "subsampling": 0}),
    ".jpeg": Format("JPEG", False, False, {"quality": 95, "subsampling": 0}),
    ".tif": Format("TIFF", True, True, {"compression": "tiff_adobe_deflate"}),
    ".tiff": Format("TIFF", True, True, {"compression": "tiff_adobe_deflate"}),
    ".bmp": Format("BMP", False, False, {}),
}
"""The formats that can be written, by suffix. Only PNG, TIFF and BMP keep every pixel."""


class Picture(NamedTuple):
    """One picture.

    Attributes:
      pixels: [H, W, 3] float32 in [0, 1], not multiplied by alpha; three equal channels for grey.
      alpha: [H, W] float32 in [0, 1], or None.
      mode: what to write: 'L', 'LA', 'RGB' or 'RGBA'.
      icc: the file's colour profile, or None.
      bits: 8 or 16 per channel.
      notes: what was lost in reading, one sentence each.
    """

    pixels: np.ndarray
    alpha: np.ndarray | None = None
    mode: str = "RGB"
    icc: bytes | None = None
    bits: int = 8
    notes: tuple[str, ...] = ()


def read_picture(path: str | os.PathLike[str]) -> Picture:
    """Read any image that Pillow opens, upright (see the table at the head of this file).

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: the file is no image, is damaged or cut short, or holds values outside its range.
    """
    path = Path(path)
    if path.is_dir():
        raise ValueError(f"{path} is a folder, not an image")
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such image")
    try:
        with Image.open(path) as opened:
            notes = []
            if _colour_deeper_than_8_bits(opened):
                notes.append("16-bit colour was read as 8-bit")
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
    grey = image.mode in ("1", "L", "LA", "La", "F") or image.mode.startswith("I")
    mode = ("L" if grey else "RGB") + ("" if alpha is None else "A")
    return Picture(pixels, alpha, mode, icc, bits, tuple(notes))


def write_picture(path: str | os.PathLike[str], picture: Picture, overwrite: bool = False) -> None:
    """Write a picture in the format its name asks for; the file appears whole or not at all.

    Args:
      path: a name with a suffix of `FORMATS`.
      picture: values outside [0, 1] are clipped; see `Picture`.
      overwrite: allow an existing file to be replaced.

    Raises:
      FileExistsError: the file is there and `overwrite` is False.
      OSError: the place cannot be written to (no permission, disk full, a parent that is a file).
      ValueError: unknown suffix, or a format that cannot hold this picture (transparency, size).
    """
    path = Path(path)
    form = output_format(path)
    if path.exists() and not overwrite:
        raise FileExistsError(f"{path} exists: choose another name or allow overwriting")
    alpha = picture.alpha
    if alpha is not None and not form.alpha:
        if alpha.min() < 1:
            raise ValueError(f"{path}: {form.name} cannot hold transparency; write .png, .tiff or .webp instead")
        alpha = None
    image = _encode(picture._replace(alpha=alpha), form)
    options = form.options | ({"icc_profile": picture.icc} if picture.icc and form.name != "BMP" else {})
    try:
        with replacing(path) as temporary:
            image.save(temporary, format=form.name, **options)
    except (ValueError, OSError, struct.error) as error:
        if isinstance(error, OSError) and error.errno is not None:  # the system's; Pillow's encoders give no number
            raise OSError(error.errno, error.strerror, str(path)) from error
        width, height = image.size
        raise ValueError(f"{path}: {form.name} cannot be written at {width}x{height} ({error})") from error


def output_format(path: str | os.PathLike[str]) -> Format:
    """The format that a file name asks for.

    Raises:
      ValueError: a suffix that is not in `FORMATS`.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in FORMATS:
        raise ValueError(f"{path}: cannot write {suffix or 'a name without suffix'!r}; use one of {', '.join(FORMATS)}")
    return FORMATS[suffix]


def premultiplied(picture: Picture) -> np.ndarray:
    """The colours that a network should see: multiplied by alpha, so that hidden colours cannot bleed out.

    Returns:
      [H, W, 3] float32 in [0, 1]; the pixels themselves where nothing is transparent.
    """
    if picture.alpha is None or picture.alpha.min() >= 1:
        return picture.pixels
    return picture.pixels * picture.alpha[:, :, None]


def enlarged(picture: Picture, pixels: np.ndarray, scale: int) -> Picture:
    """Put upscaled premultiplied colours in the place of a picture's own, with its alpha enlarged by bicubic.

    Args:
      picture: the small picture.
      pixels: [sH, sW, 3] float32 in [0, 1], from `premultiplied(picture)`.
      scale: s.

    Returns:
      the large picture; colours are 0 where alpha rounds to 0.
    """
    if picture.alpha is None:
        return picture._replace(pixels=pixels)
    if picture.alpha.min() >= 1:
        return picture._replace(pixels=pixels, alpha=np.ones(pixels.shape[:2], np.float32))
    alpha = np.clip(upsample_bicubic(picture.alpha, scale), 0, 1)
    smallest = 0.5 / (2**picture.bits - 1)
    inverse = np.where(alpha < smallest, 0, 1 / np.maximum(alpha, smallest)).astype(np.float32)
    return picture._replace(pixels=np.clip(pixels * inverse[:, :, None], 0, 1), alpha=alpha)


def _colour_deeper_than_8_bits(opened: Image.Image) -> bool:
    """Whether the decoder will drop the low byte of colour channels (it is told the file's layout as '...;16B')."""
    for tile in getattr(opened, "tile", ()):
        layout = tile[3] if isinstance(tile[3], str) else next((a for a in tile[3] or () if isinstance(a, str)), "")
        if ";16" in layout and not opened.mode.startswith("I"):
            return True
    return False


def _cmyk_to_rgb(image: Image.Image, icc: bytes | None) -> Image.Image:
    """Print colours to sRGB, by the file's own profile where it has a usable one."""
    if icc:
        try:
            profile = ImageCms.ImageCmsProfile(io.BytesIO(icc))
            converted = ImageCms.profileToProfile(image, profile, ImageCms.createProfile("sRGB"), outputMode="RGB")
            if converted is not None:
                return converted
        except (ImageCms.PyCMSError, OSError):
            pass  # an unusable profile is as good as none
    return image.convert("RGB")


def _decode(image: Image.Image) -> tuple[np.ndarray, np.ndarray | None, int]:
    """Pixels [H, W, 3], alpha [H, W] or None, and bits."""
    if image.mode.startswith("I") or image.mode == "F":
        raw = np.asarray(image)
        highest = 1 if image.mode == "F" else 65535
        if not (raw.min() >= 0 and raw.max() <= highest):
            raise ValueError(f"mode {image.mode} values lie outside 0 to {highest}: rescale them first")
        transparent = image.info.get("transparency")
        alpha = None if transparent is None else (raw != transparent).astype(np.float32)
        grey = raw.astype(np.float32) / np.float32(highest)
        # grey with alpha has no 16-bit form in Pillow
        return np.repeat(grey[:, :, None], 3, axis=2), alpha, 16 if alpha is None else 8
    grey_mode = image.mode in ("1", "L", "LA", "La")
    target = ("L" if grey_mode else "RGB") + ("A" if image.has_transparency_data else "")
    values = np.asarray(image.convert(target)).astype(np.float32) / np.float32(255)
    values = values.reshape(*values.shape[:2], -1)  # [H, W, 1 to 4]
    if not image.has_transparency_data:
        return (np.repeat(values, 3, axis=2) if grey_mode else values), None, 8
    colour = np.repeat(values[:, :, :1], 3, axis=2) if grey_mode else np.ascontiguousarray(values[:, :, :3])
    return colour, np.ascontiguousarray(values[:, :, -1]), 8


def _encode(picture: Picture, form: Format) -> Image.Image:
    """The Pillow image that `form` can hold."""
    deep = picture.bits == 16 and picture.mode == "L" and picture.alpha is None and form.deep_grey
    highest, dtype = (65535, np.uint16) if deep else (255, np.uint8)
    grey = picture.mode.startswith("L")
    height, width = picture.pixels.shape[:2]
    channels = (1 if grey else 3) + (picture.alpha is not None)
    values = np.empty((height, width, channels), dtype)
    for top in range(0, height, 256):  # in strips: a large picture is not held in float twice
        rows = slice(top, top + 256)
        colour = picture.pixels[rows]
        parts = [(colour @ np.array(LUMA, np.float32))[:, :, None] if grey else colour]
        if picture.alpha is not None:
            parts.append(picture.alpha[rows, :, None])
        values[rows] = np.rint(np.clip(np.concatenate(parts, axis=2), 0, 1) * np.float32(highest)).astype(dtype)
    image = Image.fromarray(values[:, :, 0] if channels == 1 else values)
    return image.convert("RGBA") if form.name == "WEBP" and image.mode == "LA" else image
