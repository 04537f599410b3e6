"""Images side by side, for a person to compare."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image, ImageDraw

from framer_jax.training.logging import to_uint8

LABEL, GAP = 18, 4
"""Pixels above an image for its label, and between images."""


def comparison_sheet(rows: Sequence[Mapping[str, np.ndarray]], size: int) -> Image.Image:
    """Center crops of images, a row per photograph and a labelled column per way to upscale.

    Args:
      rows: label → image [H, W, 3] float32 in [0, 1]; all rows have the labels of the first one.
      size: side of the crops in pixels; of a smaller image, all is shown.
    """
    labels = list(rows[0])
    sheet = Image.new("RGB", (len(labels) * (size + GAP) - GAP, len(rows) * (size + LABEL + GAP) - GAP), "white")
    draw = ImageDraw.Draw(sheet)
    for row, images in enumerate(rows):
        for column, label in enumerate(labels):
            top, left = (max(0, length - size) // 2 for length in images[label].shape[:2])
            crop = to_uint8(images[label][top : top + size, left : left + size])
            x, y = column * (size + GAP), row * (size + LABEL + GAP)
            draw.text((x + 2, y + 3), label, fill="black")
            sheet.paste(Image.fromarray(crop), (x, y + LABEL))
    return sheet
