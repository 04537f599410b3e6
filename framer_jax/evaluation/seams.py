"""Seams between tiles: how much rougher an image is across the lines where its tiles meet than elsewhere."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

from framer_jax.evaluation.psnr import crop

OPTION = "--tile-lines"
"""The option of the command line that says where tiles meet."""

SMALLEST_STRIDE = 8
"""The smallest distance of tiles in pixels: between their lines, there must be an elsewhere to compare with."""

FLOOR = 1e-4
"""Added to both roughnesses, a fortieth of an 8-bit level: a flat image has the ratio 1."""


class TileLines(NamedTuple):
    """Where tiles meet: they start at multiples of `size` - `overlap` along both axes.

    Attributes:
      size: side of a tile in pixels of the scored images, that is, its side in LR pixels times the scale.
      overlap: pixels that neighboring tiles share.
    """

    size: int
    overlap: int = 0

    @property
    def stride(self) -> int:
        """The distance between the starts of neighboring tiles."""
        return self.size - self.overlap


def parse_tile_lines(text: str) -> TileLines:
    """Read 'SIZE' or 'SIZE:OVERLAP', such as '512:64'.

    Raises:
      ValueError: not whole numbers, a negative overlap, or tiles less than `SMALLEST_STRIDE` pixels apart.
    """
    numbers = text.split(":")
    if len(numbers) > 2 or not all(number.strip().isdecimal() for number in numbers):
        raise ValueError(
            f"{OPTION} {text!r}: give the side of a tile in pixels of the scored images and, if tiles overlap, their "
            "overlap, such as 512 or 512:64"
        )
    lines = TileLines(*map(int, numbers))
    if lines.stride < SMALLEST_STRIDE:
        raise ValueError(f"{OPTION} {text}: tiles must start at least {SMALLEST_STRIDE} pixels apart")
    return lines


def line_positions(length: int, lines: TileLines) -> list[int]:
    """Where lines cross an axis: p stands for the line between pixels p - 1 and p.

    Every tile but the first has a line at its start and, where tiles overlap, one at the end of the tile before.

    Args:
      length: number of pixels along the axis.
      lines: the tiles.
    """
    starts = range(lines.stride, length, lines.stride)
    return sorted({line for start in starts for line in (start, start + lines.overlap) if line < length})


def _near_lines(length: int, lines: TileLines, crop_border: int) -> npt.NDArray[np.bool_]:
    """Which second differences cross a line, bool [length - 2 crop_border - 2]: one for each inner pixel of an axis."""
    near = np.zeros(length, np.bool_)
    for line in line_positions(length, lines):
        near[[line - 1, line]] = True
    return near[crop_border + 1 : length - crop_border - 1]


@partial(jax.jit, static_argnames="crop_border")
def _ratio(sr: jax.Array, rows: jax.Array, columns: jax.Array, crop_border: int) -> jax.Array:
    images = crop(sr, crop_border).astype(jnp.float32)
    at, elsewhere = jnp.zeros(images.shape[0]), jnp.zeros(images.shape[0])
    axes = jnp.float32(0.0)
    for axis, near in ((1, rows), (2, columns)):
        moved = jnp.moveaxis(images, axis, 1)  # [B, length, other, 3]
        second = jnp.abs(moved[:, 2:] - 2.0 * moved[:, 1:-1] + moved[:, :-2])
        profile = second.mean(axis=(2, 3))  # [B, length - 2]
        mask = near.astype(jnp.float32)[None]
        count, others = mask.sum(), (1.0 - mask).sum()
        used = ((count > 0) & (others > 0)).astype(jnp.float32)
        at += used * (profile * mask).sum(axis=1) / jnp.maximum(count, 1.0)
        elsewhere += used * (profile * (1.0 - mask)).sum(axis=1) / jnp.maximum(others, 1.0)
        axes += used
    axes_or_one = jnp.maximum(axes, 1.0)
    return jnp.where(axes > 0, (at / axes_or_one + FLOOR) / (elsewhere / axes_or_one + FLOOR), jnp.nan)


def seam(sr: jax.Array, lines: TileLines, crop_border: int = 0) -> jax.Array:
    """Roughness across the lines where tiles meet, relative to the roughness elsewhere; needs no reference.

    The roughness is the mean of |x[i - 1] - 2 x[i] + x[i + 1]| over RGB: a step between pixels p - 1 and p shows in the
    second differences centered at these two, a kink as well, a smooth gradient in none. Rows count along the vertical
    axis, columns along the horizontal one; each axis that has lines weighs the same.

    Args:
      sr: [B, H, W, 3] in [0, 1].
      lines: where tiles meet, in coordinates of the whole image.
      crop_border: pixels ignored on every side; lines stay where they are.

    Returns:
      [B] float32 above 0; 1 without seams, more with them; NaN if no line crosses the image.
    """
    rows, columns = (_near_lines(length, lines, crop_border) for length in sr.shape[1:3])
    return _ratio(sr, rows, columns, crop_border)
