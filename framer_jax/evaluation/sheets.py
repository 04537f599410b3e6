"""Images side by side on a white sheet with captions, for a person to compare."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

LABEL, GAP = 18, 4
"""Pixels below an image of `comparison_sheet` for its label, and between images."""

PLAIN, BEST = (0, 0, 0), (176, 0, 32)
"""Colors of text, and of the best score."""

Text = tuple[str, tuple[int, int, int]]
"""A piece of a line and its color."""


class Tile(NamedTuple):
    """An image with lines of text below it.

    Attributes:
      pixels: [H, W, 3] uint8.
      lines: each line as pieces of text with their colors.
    """

    pixels: npt.NDArray[np.uint8]
    lines: tuple[tuple[Text, ...], ...] = ()


class SheetStyle(NamedTuple):
    """Sizes in pixels.

    Attributes:
      gap: between images.
      line: height of a line of text.
      font: height of the font.
      cell: least width and height of a place for an image.
    """

    gap: int = GAP
    line: int = LABEL
    font: int = 12
    cell: int = 0


def draw_tiles(rows: Sequence[Sequence[Tile]], style: SheetStyle) -> Image.Image:
    """Draw tiles in rows and columns; a column is as wide as its widest image, and longer lines are cut.

    The font is Pillow's own, which has Latin letters only.

    Args:
      rows: at least one row of at least one tile; all rows have the same number.
      style: sizes.
    """
    widths = [max(style.cell, *(row[column].pixels.shape[1] for row in rows)) for column in range(len(rows[0]))]
    heights = [max(style.cell, *(tile.pixels.shape[0] for tile in row)) for row in rows]
    texts = [style.line * max(len(tile.lines) for tile in row) for row in rows]
    width = sum(widths) + style.gap * (len(widths) - 1)
    sheet = Image.new("RGB", (width, sum(heights) + sum(texts) + style.gap * (len(rows) - 1)), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(style.font)
    top = 0
    for row, height, text in zip(rows, heights, texts, strict=True):
        left = 0
        for tile, column in zip(row, widths, strict=True):
            sheet.paste(Image.fromarray(tile.pixels), (left + (column - tile.pixels.shape[1]) // 2, top))
            for number, line in enumerate(tile.lines):
                _draw_line(draw, font, line, left, top + height + number * style.line, column, style)
            left += column + style.gap
        top += height + text + style.gap
    return sheet


def _draw_line(
    draw: ImageDraw.ImageDraw, font: Any, line: Sequence[Text], left: int, top: int, width: int, style: SheetStyle
) -> None:
    """Draw pieces of text one after another, in the middle of a column."""
    pieces = [(_printable(text), color) for text, color in line]
    total = sum(font.getlength(text) for text, _ in pieces)
    if total > width and len(pieces) == 1:
        text, color = pieces[0]
        while text and font.getlength(text + "...") > width:
            text = text[:-1]
        pieces, total = [(text + "...", color)], font.getlength(text + "...")
    x = left + max(0.0, (width - total) / 2)
    for text, color in pieces:
        draw.text((x, top + style.line / 2), text, fill=color, font=font, anchor="lm")
        x += font.getlength(text)


def _printable(text: str) -> str:
    """A text without what cannot be drawn: line breaks, and bytes of names that are no text."""
    return " ".join(text.splitlines()).encode("utf-8", "replace").decode("utf-8")


def comparison_sheet(rows: Sequence[Mapping[str, np.ndarray]], size: int) -> Image.Image:
    """Center crops of images, a row per photograph and a labelled column per way to upscale.

    Args:
      rows: label → image [H, W, 3] float32 in [0, 1]; all rows have the labels of the first one.
      size: side of the crops in pixels; of a smaller image, all is shown.
    """
    labels = list(rows[0])
    tiles = [[Tile(_center(images[label], size), (((label, PLAIN),),)) for label in labels] for images in rows]
    return draw_tiles(tiles, SheetStyle(cell=size))


def _center(image: np.ndarray, size: int) -> npt.NDArray[np.uint8]:
    """The middle of an image [H, W, 3], as uint8."""
    top, left = (max(0, length - size) // 2 for length in image.shape[:2])
    crop = np.clip(image[top : top + size, left : left + size].astype(np.float32), 0, 1)
    return np.rint(crop * np.float32(255)).astype(np.uint8)
