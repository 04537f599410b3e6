"""Options of `framer-jax upscale` that concern its results: their size, their format, and where they are written."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from framer_jax.inference.formats import FORMATS
from framer_jax.inference.result_settings import ALPHA_METHODS, FileSettings, ResultSettings


def add_output_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    size = parser.add_argument_group("size", "the model's result is reduced with an antialiased filter")
    size.add_argument("--outscale", type=float, metavar="S", help="size relative to the image, such as 2 or 2.5")
    size.add_argument("--width", type=int, metavar="PIXELS", help="width; without --height, the aspect ratio is kept")
    size.add_argument("--height", type=int, metavar="PIXELS", help="height; without --width, the aspect ratio is kept")
    group = parser.add_argument_group("results")
    group.add_argument(
        "--in-place", action="store_true", help="replace each image by its result, in its format; each image once"
    )
    lossy = ", ".join(f"{suffix} {each.quality}" for suffix, each in FORMATS.items() if each.quality is not None)
    group.add_argument("--quality", type=int, metavar="Q", help=f"quality of lossy formats, 1 to 100 ({lossy})")
    group.add_argument(
        "--strip-metadata",
        action="store_true",
        help="leave out date, place, camera and all other EXIF, XMP and IPTC data, and the resolution; the color "
        "profile stays",
    )
    group.add_argument(
        "--frames", action="store_true", help="all frames of animations and all pages of TIFF files, not the first one"
    )
    group.add_argument(
        "--background",
        metavar="COLOR",
        help="put transparent images on this color, such as white or #ffeedd, where the output's format holds no "
        "transparency",
    )
    group.add_argument(
        "--alpha",
        default=ResultSettings.alpha,
        choices=ALPHA_METHODS,
        help="how transparency is upsampled: bicubically, or by the model as if it were a gray image",
    )
    group.add_argument(
        "--strength",
        type=float,
        default=ResultSettings.strength,
        metavar="S",
        help="share of the model, from 0 (bicubic upsampling) to 1 (the model alone, the default)",
    )
    group.add_argument(
        "--wrap", action="store_true", help="the image is a seamless texture, and stays one: its opposite edges meet"
    )
    group.add_argument(
        "--no-record",
        dest="record",
        action="store_false",
        help="no JSON record next to each result, which says how it was made, and by which later runs know that it is "
        "no photograph",
    )
    group.add_argument("--json", action="store_true", help="print the summary as JSON")


def result_settings(arguments: argparse.Namespace) -> ResultSettings:
    """Size, edges and transparency of the results."""
    names = ("outscale", "width", "height", "wrap", "alpha", "strength")
    return ResultSettings(**{name: getattr(arguments, name) for name in names})


def file_settings(arguments: argparse.Namespace) -> FileSettings:
    """Properties of the results' files.

    Raises:
      ValueError: two colors for transparent images, or as of FileSettings.
    """
    if arguments.flatten is not None and arguments.background is not None:
        raise ValueError(
            f"--flatten puts all transparent images on {arguments.flatten}, and --background some of them on "
            f"{arguments.background}: choose one"
        )
    names = ("quality", "background", "strip_metadata", "frames", "in_place", "record")
    return FileSettings(**{name: getattr(arguments, name) for name in names})


def output_of(arguments: argparse.Namespace, scale: int) -> str | Path | None:
    """Where the results are written: as named; else, next to the input, photo_x4.png or photos_x4/; None in place.

    Raises:
      FileNotFoundError: no output, and the input does not exist.
      ValueError: an output, and in place.
    """
    if arguments.in_place:
        if arguments.output is not None:
            raise ValueError(f"--in-place replaces the images: omit the output {arguments.output}")
        return None
    if arguments.output is not None:
        return arguments.output
    source = Path(os.path.abspath(arguments.input))  # '.' and '..' have no name of their own
    if not source.exists():
        raise FileNotFoundError(f"{arguments.input}: no such file or folder")
    exact = arguments.width is not None or arguments.height is not None
    label = "_resized" if exact else f"_x{arguments.outscale or scale:g}"
    if source.is_dir():
        return f"{source}{label}{os.sep}"
    suffix = arguments.extension if arguments.extension.startswith(".") else f".{arguments.extension}"
    return source.with_name(f"{source.stem}{label}{suffix}")
