"""The contact sheet of `framer-jax degrade`: photographs next to LR images that could be made of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from framer_jax.commands.degrade_results import UNUSABLE, Job, read
from framer_jax.data.whole_photos import degrade_photos, photo_generator
from framer_jax.degradations.draw import DegradationParameters, draw
from framer_jax.degradations.presets import DegradationPreset
from framer_jax.porting.files import atomic_write
from framer_jax.training.logging import to_uint8

PREVIEW_SIDE, PREVIEW_PHOTOS = 256, 6
"""Side of the HR center crops in the contact sheet, and the number of photographs in it."""


def write_preview(jobs: Sequence[Job], preset: DegradationPreset, seed: int, count: int, path: Path) -> None:
    """Write a contact sheet: center crops of the first photographs, each with `count` possible LR images.

    A crop is degraded as a separate photograph, so its noise and JPEG blocks differ from those of the whole photograph.
    Damaged photographs are left out; if all are damaged, nothing is written.
    """
    rows: list[tuple[list[np.ndarray], list[str]]] = []
    for job in jobs:
        if len(rows) == PREVIEW_PHOTOS:
            break
        try:
            photo = read(job)
        except UNUSABLE:
            continue
        height, width = (min(side, PREVIEW_SIDE - PREVIEW_SIDE % preset.scale) for side in photo.shape[:2])
        top, left = (photo.shape[0] - height) // 2, (photo.shape[1] - width) // 2
        crop = np.ascontiguousarray(photo[top : top + height, left : left + width])
        generator = photo_generator(seed, job.name)  # its first draw is that of the photograph's result
        images, labels = [crop], [job.name]
        for _ in range(count):
            parameters = draw(generator, preset)
            ((_, lr),) = degrade_photos([crop], [parameters], preset)
            images.append(to_uint8(lr).repeat(preset.scale, axis=0).repeat(preset.scale, axis=1))
            labels.append(summary(parameters, preset))
        rows.append((images, labels))
    if not rows:
        return
    sheet = contact_sheet(rows)
    with atomic_write(path) as temporary:
        sheet.save(temporary, format="PNG")


def summary(parameters: DegradationParameters, preset: DegradationPreset) -> str:
    """A short description of the most important parameters, one line per stage."""
    lines = []
    stages = [("1", preset.first, parameters.first), ("2", preset.second, parameters.second)]
    for number, stage_preset, stage in stages:
        if stage_preset is None or (number == "2" and not parameters.has_second):
            continue
        level = stage.noise_level * 255 if stage.noise_kind == 1 else stage.noise_level
        kind = ("", "gauss", "poisson")[int(stage.noise_kind)]
        gray = " gray" if stage.noise_gray and kind else ""
        lines.append(f"{number}: x {stage.scale:.2f} {kind} {level:.1f}{gray} q{stage.jpeg_quality:.0f}")
    return "\n".join(lines)


def contact_sheet(rows: Sequence[tuple[Sequence[np.ndarray], Sequence[str]]]) -> Image.Image:
    """Rows of images with two lines of text above each."""
    label, gap = 30, 4
    cell = PREVIEW_SIDE + gap
    columns = max(len(images) for images, _ in rows)
    sheet = Image.new("RGB", (columns * cell - gap, len(rows) * (cell + label) - gap), "white")
    text = ImageDraw.Draw(sheet)
    for row, (images, labels) in enumerate(rows):
        for column, (image, caption) in enumerate(zip(images, labels, strict=True)):
            left, top = column * cell, row * (cell + label)
            text.text((left + 2, top + 2), caption, fill="black", spacing=2)
            sheet.paste(Image.fromarray(image), (left, top + label))
    return sheet
