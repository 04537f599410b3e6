"""The figure of a paper that compares methods: a row per image with all of it, then a crop of each method."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from framer_jax.evaluation.comparison import Arm
from framer_jax.evaluation.crops import Crop, automatic_crop, default_crop_size
from framer_jax.evaluation.image_sets import ComparedImage, ImageSet
from framer_jax.evaluation.method_scores import shown_digits
from framer_jax.evaluation.report import MISSING
from framer_jax.evaluation.sheets import BEST, PLAIN, SheetStyle, Text, Tile, draw_tiles
from framer_jax.images.decode import read_rgb
from framer_jax.porting.files import atomic_write

CELL = 384
"""Side in pixels that crops fill at most, enlarged by a whole factor."""

DPI = 300
"""Resolution that the file states."""

LARGEST_ROWS = 24
"""Number of images in a figure."""

STYLE = SheetStyle(gap=8, line=26, font=20)

Pixels = npt.NDArray[np.uint8]

Line = tuple[Text, ...]


class Source(NamedTuple):
    """Where the crops of a column come from.

    Attributes:
      label: name of the column.
      pixels: [H, W, 3], the whole image.
      lines: lines of text below its label.
    """

    label: str
    pixels: Pixels
    lines: Sequence[Line]


CropRequest = Crop | int | None
"""A crop, the side of an automatic one, or None for an automatic one of the default side."""


def parse_crop(text: str) -> CropRequest:
    """Read `auto`, `auto,SIZE` or `X,Y,SIZE`, in pixels of the results.

    Raises:
      ValueError: anything else.
    """
    first, *rest = text.split(",")
    try:
        if first == "auto" and len(rest) <= 1:
            return _positive(rest[0]) if rest else None
        x, y, size = int(first), int(rest[0]), _positive(rest[1])
        if len(rest) == 2 and x >= 0 and y >= 0:
            return Crop(x, y, size)
    except (ValueError, IndexError):
        pass
    raise ValueError(
        f"--crop is {text!r}: write auto, auto,SIZE or X,Y,SIZE in pixels of the results, such as 96,40,64"
    )


def _positive(text: str) -> int:
    if (value := int(text)) < 1:
        raise ValueError
    return value


def figure_images(image_set: ImageSet, names: Sequence[str] = ()) -> list[ComparedImage]:
    """The images of a figure, in the given order; all of them without names.

    Raises:
      ValueError: an unknown name, or more images than a figure has.
    """
    by_name = {image.name: image for image in image_set.images}
    if unknown := [name for name in names if name not in by_name]:
        raise ValueError(
            f"--images: there is no image {unknown[0]!r}; the first ones are {', '.join(list(by_name)[:5])}"
        )
    chosen = [by_name[name] for name in names] or list(image_set.images)
    if len(chosen) > LARGEST_ROWS:
        raise ValueError(
            f"a figure of {len(chosen)} images has too many rows (at most {LARGEST_ROWS}): choose some with --images "
            "A,B,C or --limit N"
        )
    return chosen


def write_grid(
    path: str | Path,
    image_set: ImageSet,
    images: Sequence[ComparedImage],
    arms: Sequence[Arm],
    metrics: Sequence[str],
    request: CropRequest = None,
) -> tuple[int, int]:
    """Write the figure as a PNG file that states 300 dpi; arguments as of `comparison_grid`.

    Returns:
      Its width and height in pixels.
    """
    grid = comparison_grid(image_set, images, arms, metrics, request)
    with atomic_write(path) as temporary:
        grid.save(temporary, "PNG", dpi=(DPI, DPI))
    return grid.size


def comparison_grid(
    image_set: ImageSet,
    images: Sequence[ComparedImage],
    arms: Sequence[Arm],
    metrics: Sequence[str],
    request: CropRequest = None,
) -> Image.Image:
    """Draw a row per image: all of the reference with the crop's outline, then the crop from every source.

    Without a reference, all of the LR image is shown; without that, of the first method's. Crops are those of the LR
    image (its pixels repeated), of every method and of the reference. They are enlarged by the largest whole factor
    with which they stay within 384 pixels, without interpolation. Scores are of the whole image, the best ones in red.

    Args:
      image_set: what `images` belong to.
      images: from `figure_images`.
      arms: scores of the methods; () without metrics.
      metrics: metrics to show.
      request: where the crop is; automatic ones are where the methods disagree most, see
        framer_jax.evaluation.crops.automatic_crop.

    Raises:
      ValueError: the crop does not lie within an image, or an image is damaged.
    """
    rows = [_row(image_set, image, arms, metrics, request) for image in images]
    return draw_tiles(rows, STYLE)


def _row(
    image_set: ImageSet, image: ComparedImage, arms: Sequence[Arm], metrics: Sequence[str], request: CropRequest
) -> list[Tile]:
    results = [read_rgb(file)[: image.height, : image.width] for file in image.files]
    crop = _crop(image, results, request)
    scores = [[line] for line in _score_lines(image.name, arms, metrics)] if metrics else [[] for _ in results]
    sources = [
        Source(method.label, pixels, lines)
        for method, pixels, lines in zip(image_set.methods, results, scores, strict=True)
    ]
    whole = results[0]
    if image.lr is not None:
        whole = np.repeat(np.repeat(read_rgb(image.lr), image.scale, axis=0), image.scale, axis=1)
        sources.insert(0, Source("LR", whole, []))
    if image.reference is not None:
        whole = read_rgb(image.reference)[: image.height, : image.width]
        sources.append(Source("reference", whole, []))
    crops = [Tile(_enlarged(source.pixels, crop), (_line(source.label), *source.lines)) for source in sources]
    heading = (_line(image.name), *([_line(" / ".join(metrics))] if metrics else []))
    return [Tile(_outlined(whole, crop, crops[0].pixels.shape[0]), heading), *crops]


def _line(text: str) -> Line:
    return ((text, PLAIN),)


def _crop(image: ComparedImage, results: Sequence[Pixels], request: CropRequest) -> Crop:
    if isinstance(request, Crop):
        if request.x + request.size > image.width or request.y + request.size > image.height:
            raise ValueError(
                f"--crop {request.x},{request.y},{request.size} does not lie within {image.name}, which is "
                f"{image.width}x{image.height}: choose another one, or auto"
            )
        return request
    size = default_crop_size(image.height, image.width) if request is None else request
    if size > min(image.height, image.width):
        raise ValueError(f"--crop auto,{size} is larger than {image.name}, which is {image.width}x{image.height}")
    return automatic_crop(results, size)


def _score_lines(name: str, arms: Sequence[Arm], metrics: Sequence[str]) -> list[Line]:
    """A line for each method: its scores of an image, the best ones in another color."""
    lines: list[list[Text]] = [[] for _ in arms]
    for metric in metrics:
        by_arm = [arm.scores(metric) for arm in arms]
        scores = [of_arm.get(name) for of_arm in by_arm]
        digits = shown_digits([score for of_arm in by_arm for score in of_arm.values()])
        best = best_score(scores, higher=bool(arms[0].files[0].metadata["metrics"][metric]["higher_is_better"]))
        for line, score in zip(lines, scores, strict=True):
            text = MISSING if score is None else f"{score:.{digits}f}"
            line += [(" / ", PLAIN)] * bool(line) + [(text, BEST if score is not None and score == best else PLAIN)]
    return [tuple(line) for line in lines]


def best_score(scores: Sequence[float | None], higher: bool) -> float | None:
    """The best of the scores; None if fewer than two exist, or all are equal."""
    present = [score for score in scores if score is not None]
    if len(set(present)) < 2:
        return None
    return max(present) if higher else min(present)


def _enlarged(pixels: Pixels, crop: Crop) -> Pixels:
    """A crop with each pixel as a square."""
    part = pixels[crop.y : crop.y + crop.size, crop.x : crop.x + crop.size]
    factor = max(1, CELL // crop.size)
    return np.repeat(np.repeat(part, factor, axis=0), factor, axis=1)


def _outlined(pixels: Pixels, crop: Crop, height: int) -> Pixels:
    """A whole image of the given height with the outline of the crop; at most twice as wide as it is high."""
    factor = min(height / pixels.shape[0], 2 * height / pixels.shape[1])
    size = (max(1, round(pixels.shape[1] * factor)), max(1, round(pixels.shape[0] * factor)))
    image = Image.fromarray(np.ascontiguousarray(pixels)).resize(size, Image.Resampling.LANCZOS)
    left, top, right, bottom = (
        round(edge * factor) for edge in (crop.x, crop.y, crop.x + crop.size - 1, crop.y + crop.size - 1)
    )
    draw = ImageDraw.Draw(image)
    draw.rectangle((left - 2, top - 2, right + 2, bottom + 2), outline="white", width=4)
    draw.rectangle((left - 1, top - 1, right + 1, bottom + 1), outline=BEST, width=2)
    return np.asarray(image)
