"""Image files of every kind that people have, with the colors that every command must see in them."""

import io
import struct
import zlib
from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageCms

from framer_jax.images.png import write_deep
from framer_jax.images.raster import ImageError

HEIGHT, WIDTH = 24, 32

RNG = np.random.default_rng(7)
DEEP = RNG.integers(0, 65536, (HEIGHT, WIDTH, 4), dtype=np.uint16)
RGBA = (DEEP >> 8).astype(np.uint8)
RGB, GRAY, ALPHA = RGBA[:, :, :3], RGBA[:, :, 0], RGBA[:, :, 3]
SMOOTH = np.asarray(Image.fromarray(RGB).resize((8, 6)).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC))


def tiff(
    values: np.ndarray,
    photometric: int,
    *,
    planar: bool = False,
    predictor: int = 1,
    deflate: bool = False,
    order: str = "<",
    extra: tuple[int, ...] = (),
    orientation: int = 1,
    bits: int | None = None,
    rows: int = 10,
    before: bytes = b"",
) -> bytes:
    """A TIFF file in strips, of kinds that Pillow does not write.

    Args:
      values: [H, W, C] uint8, uint16, float16 or float32.
      photometric: 0 white is zero, 1 black is zero, 2 RGB, 8 Lab.
      planar: store each channel by itself.
      predictor: 2 stores differences between neighbors.
      deflate: compress.
      order: '<' or '>'.
      extra: meanings of the additional channels.
      orientation: EXIF orientation.
      bits: bits per sample that are stated, if other than the type's.
      rows: rows in a strip.
      before: a file of the same order of bytes, to which the image is added as its last page.
    """
    height, width, channels = values.shape
    stored = values
    if predictor == 2:
        stored = np.diff(values, axis=1, prepend=np.zeros((height, 1, channels), values.dtype))
    planes = [stored[:, :, [index]] for index in range(channels)] if planar else [stored]
    strips = []
    for plane in planes:
        for top in range(0, height, rows):
            data = plane[top : top + rows].astype(values.dtype.newbyteorder(order)).tobytes()
            strips.append(zlib.compress(data) if deflate else data)
    offsets = np.cumsum([len(before) or 8, *(len(strip) for strip in strips)])
    kind = 3 if values.dtype.kind == "f" else 1
    entries = {
        256: [width],
        257: [height],
        258: [bits or values.dtype.itemsize * 8] * channels,
        259: [8 if deflate else 1],
        262: [photometric],
        273: offsets[:-1].tolist(),
        274: [orientation],
        277: [channels],
        278: [rows],
        279: [len(strip) for strip in strips],
        284: [2 if planar else 1],
        317: [predictor],
        **({338: list(extra)} if extra else {}),
        339: [kind] * channels,
    }
    start = int(offsets[-1]) + int(offsets[-1]) % 2
    head, tail, position = struct.pack(f"{order}H", len(entries)), b"", start + 2 + 12 * len(entries) + 4
    for tag, numbers in sorted(entries.items()):
        packed = struct.pack(f"{order}{len(numbers)}I", *numbers)
        head += struct.pack(f"{order}HHI", tag, 4, len(numbers))
        head += packed if len(numbers) == 1 else struct.pack(f"{order}I", position + len(tail))
        tail += packed if len(numbers) > 1 else b""
    magic = b"II*\0" if order == "<" else b"MM\0*"
    body = b"".join(strips) + b"\0" * (start - int(offsets[-1]))
    link, file = 4, bytearray(before or magic + bytes(4))
    while following := struct.unpack_from(f"{order}I", file, link)[0]:
        link = following + 2 + 12 * struct.unpack_from(f"{order}H", file, following)[0]
    struct.pack_into(f"{order}I", file, link, start)
    return bytes(file) + body + head + bytes(4) + tail


def encoded(image: Image.Image, name: str, **options) -> bytes:
    """A file of Pillow's."""
    buffer = io.BytesIO()
    image.save(buffer, name, **options)
    return buffer.getvalue()


def deep_png(values: np.ndarray, tmp) -> bytes:
    """A 16-bit PNG file."""
    path = tmp / "deep.png"
    write_deep(path, values)
    return path.read_bytes()


class Kind(NamedTuple):
    """A kind of image file.

    Attributes:
      suffix: of its name.
      content: the file, or for a folder to write in, the file.
      colors: what it shows, [H, W, 3] float64 in [0, 1].
      tolerance: largest difference, for formats that lose something.
    """

    suffix: str
    content: bytes | Callable
    colors: np.ndarray
    tolerance: float = 1e-6


def gray(values: np.ndarray) -> np.ndarray:
    return np.repeat(values.reshape(HEIGHT, WIDTH, 1), 3, axis=2)


@cache
def kinds() -> dict[str, Kind]:
    """Name → every kind of image file."""
    eight, deep, deep_gray = RGB / 255, DEEP[:, :, :3] / 65535, gray(DEEP[:, :, 0] / 65535)
    floats = deep.astype(np.float32)
    half = deep.astype(np.float16)
    image, gray_image = Image.fromarray(RGB), Image.fromarray(GRAY)
    palette = Image.fromarray(RGB).quantize(64)
    palette_colors = np.asarray(palette.convert("RGB")) / 255
    rotated = Image.Exif()
    rotated[0x0112] = 6
    lying = image.transpose(Image.Transpose.ROTATE_90)  # upright after EXIF orientation 6
    cmyk, lab = image.convert("CMYK"), image.convert("LAB")
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    premultiplied = np.concatenate([(DEEP[:, :, :3] * (DEEP[:, :, 3:] / 65535)).astype(np.uint16), DEEP[:, :, 3:]], 2)
    smooth = Image.fromarray(SMOOTH)
    transparent_gray = Image.fromarray(DEEP[:, :, 0])
    frames = [image, Image.fromarray(255 - RGB)]
    return {
        "bilevel": Kind(".png", encoded(Image.fromarray(GRAY > 127), "PNG"), gray((GRAY > 127) * 1.0)),
        "gray": Kind(".png", encoded(gray_image, "PNG"), gray(GRAY / 255)),
        "gray_alpha": Kind(".png", encoded(Image.fromarray(np.stack([GRAY, ALPHA], 2)), "PNG"), gray(GRAY / 255)),
        "gray_transparent": Kind(".png", encoded(gray_image, "PNG", transparency=int(GRAY[0, 0])), gray(GRAY / 255)),
        "rgb": Kind(".png", encoded(image, "PNG"), eight),
        "rgb_transparent": Kind(".png", encoded(image, "PNG", transparency=tuple(map(int, RGB[0, 0]))), eight),
        "rgba": Kind(".png", encoded(Image.fromarray(RGBA), "PNG"), eight),
        "palette": Kind(".png", encoded(palette, "PNG"), palette_colors),
        "palette_alpha": Kind(".png", encoded(palette, "PNG", transparency=bytes(range(64))), palette_colors),
        "gif": Kind(".gif", encoded(palette, "GIF"), palette_colors),
        "profile": Kind(".png", encoded(image, "PNG", icc_profile=profile), eight),
        "animated": Kind(".png", encoded(frames[0], "PNG", save_all=True, append_images=frames[1:]), eight),
        "pages": Kind(".tiff", encoded(frames[0], "TIFF", save_all=True, append_images=frames[1:]), eight),
        "orientation_png": Kind(".png", encoded(lying, "PNG", exif=rotated), eight),
        "orientation_jpeg": Kind(
            ".jpg",
            encoded(smooth.transpose(Image.Transpose.ROTATE_90), "JPEG", quality=100, subsampling=0, exif=rotated),
            SMOOTH / 255,
            0.02,
        ),
        "orientation_tiff": Kind(".tif", tiff(np.rot90(RGB), 2, orientation=6), eight),
        "jpeg": Kind(".jpg", encoded(smooth, "JPEG", quality=100, subsampling=0), SMOOTH / 255, 0.02),
        "cut_jpeg": Kind(".jpg", encoded(smooth, "JPEG", quality=100, subsampling=0)[:-2], SMOOTH / 255, 0.02),
        "webp": Kind(".webp", encoded(image, "WEBP", lossless=True), eight),
        "bmp": Kind(".bmp", encoded(image, "BMP"), eight),
        "cmyk_jpeg": Kind(".jpg", encoded(smooth.convert("CMYK"), "JPEG", quality=100), SMOOTH / 255, 0.02),
        "cmyk_tiff": Kind(".tif", encoded(cmyk, "TIFF"), np.asarray(cmyk.convert("RGB")) / 255),
        "lab_tiff": Kind(".tif", encoded(lab, "TIFF"), np.asarray(lab.convert("RGB")) / 255),
        "gray16": Kind(".png", encoded(transparent_gray, "PNG"), deep_gray),
        "gray16_transparent": Kind(
            ".png", encoded(transparent_gray, "PNG", transparency=int(DEEP[0, 0, 0])), deep_gray
        ),
        "gray16_tiff": Kind(".tif", encoded(transparent_gray, "TIFF"), deep_gray),
        "gray16_inverted": Kind(".tif", tiff(65535 - DEEP[:, :, :1], 0), deep_gray),
        "gray16_alpha": Kind(".png", lambda tmp: deep_png(DEEP[:, :, [0, 3]], tmp), deep_gray),
        "gray16_alpha_tiff": Kind(
            ".tif", tiff(DEEP[:, :, [0, 3]], 1, extra=(2,), deflate=True, predictor=2), deep_gray
        ),
        "rgb16": Kind(".png", lambda tmp: deep_png(DEEP[:, :, :3], tmp), deep),
        "rgba16": Kind(".png", lambda tmp: deep_png(DEEP, tmp), deep),
        "rgb16_tiff": Kind(".tif", tiff(DEEP[:, :, :3], 2), deep),
        "rgb16_tiff_big_endian": Kind(".tif", tiff(DEEP[:, :, :3], 2, order=">", deflate=True, predictor=2), deep),
        "rgb16_planar": Kind(".tif", tiff(DEEP[:, :, :3], 2, planar=True), deep),
        "rgb16_planar_deflate": Kind(".tif", tiff(DEEP[:, :, :3], 2, planar=True, deflate=True, predictor=2), deep),
        "rgba16_planar": Kind(".tif", tiff(DEEP, 2, planar=True, order=">", extra=(2,)), deep),
        "rgba16_premultiplied": Kind(".tif", tiff(premultiplied, 2, extra=(1,)), _unmultiplied(premultiplied), 1e-4),
        "rgb16_ppm": Kind(".ppm", b"P6 32 24 65535\n" + DEEP[:, :, :3].astype(">u2").tobytes(), deep),
        "float_gray": Kind(".tif", encoded(Image.fromarray(floats[:, :, 0]), "TIFF"), gray(floats[:, :, 0])),
        "float_rgb": Kind(".tif", tiff(floats, 2), floats),
        "float_planar": Kind(".tif", tiff(floats, 2, planar=True, deflate=True, order=">"), floats),
        "half_rgb": Kind(".tif", tiff(half, 2), half),
    }


def _unmultiplied(values: np.ndarray) -> np.ndarray:
    return np.clip(values[:, :, :3] / np.maximum(values[:, :, 3:], 1), 0, 1)


def write_all(folder) -> dict[str, Kind]:
    """Write a file of every kind; name of the file without its suffix → its kind."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, kind in kinds().items():
        content = kind.content(folder.parent) if callable(kind.content) else kind.content
        (folder / f"{name}{kind.suffix}").write_bytes(content)
    return kinds()


def refusal_of(read: Callable, path) -> ImageError | MemoryError | None:
    """The error with which a file is refused, if it is; any other error is a fault."""
    try:
        read(path)
    except (ImageError, MemoryError) as error:
        return error
    return None


def other_profile():
    """sRGB's profile with its red and green primaries exchanged, and another name."""
    icc = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    icc = icc.replace("sRGB".encode("utf-16-be"), "Test".encode("utf-16-be"))
    return icc.replace(b"rXYZ", b"____").replace(b"gXYZ", b"rXYZ").replace(b"____", b"gXYZ")


def gray_profile(gamma: float) -> bytes:
    """An ICC profile of gray images with a gamma curve."""
    curve = b"curv" + bytes(4) + struct.pack(">IH", 1, round(gamma * 256)) + bytes(2)
    white = b"XYZ " + bytes(4) + struct.pack(">3i", *(round(value * 65536) for value in (0.9642, 1, 0.8249)))
    name = b"Test gray\0"
    description = b"desc" + bytes(4) + struct.pack(">I", len(name)) + name + bytes(78)
    description += bytes(-len(description) % 4)
    contents = {
        b"desc": description,
        b"wtpt": white,
        b"kTRC": curve,
        b"cprt": b"text" + bytes(4) + b"none\0" + bytes(3),
    }
    position, table, body = 128 + 4 + 12 * len(contents), struct.pack(">I", len(contents)), b""
    for name, content in contents.items():
        table += name + struct.pack(">II", position + len(body), len(content))
        body += content
    header = bytearray(128)
    header[8:12], header[12:24], header[36:40] = b"\x02\x10\0\0", b"mntrGRAYXYZ ", b"acsp"
    header[68:80] = white[8:]
    struct.pack_into(">I", header, 0, position + len(body))
    return bytes(header) + table + body
