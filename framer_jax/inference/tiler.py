"""Cut an image into equal tiles, and blend what becomes of them on a canvas in host memory.

The tiles go through the whole pipeline, from low-resolution pixels to super-resolved pixels, so device memory depends
on the tile alone. Every tile of an image has the same size: one compilation, one device program.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from framer_jax.diffusion.tiles import gaussian_profile, shares, starts

BUCKETS = 4
"""Tiles are a quarter, a half, three quarters or the whole of the side asked for: few shapes, few compilations."""


class TilePlan(NamedTuple):
    """Where the tiles of one image lie, in LR pixels.

    Attributes:
      image: (H, W) of the image.
      padded: (H, W) after reflection to the right and below; the tiles cover it exactly.
      tile: (height, width) of every tile.
      rows: first row of each row of tiles, rising; multiples of the recipe's lr_multiple if `plan_tiles` laid them.
      columns: first column of each column of tiles.
    """

    image: tuple[int, int]
    padded: tuple[int, int]
    tile: tuple[int, int]
    rows: tuple[int, ...]
    columns: tuple[int, ...]

    def origins(self) -> np.ndarray:
        """[N, 2] int32: row and column of each tile's first pixel, in reading order."""
        return np.array([(row, column) for row in self.rows for column in self.columns], np.int32)


def check_tile(tile: int, overlap: int, multiple: int) -> None:
    """Raise ValueError unless tiles of this side and overlap can start at multiples of `multiple`."""
    if tile < multiple or tile % multiple:
        nearest = sorted({max(tile // multiple, 1) * multiple, -(-tile // multiple) * multiple})
        raise ValueError(
            f"tile {tile} is no multiple of the recipe's lr_multiple {multiple}: use {' or '.join(map(str, nearest))}"
        )
    if overlap < 0 or overlap > tile - multiple:
        raise ValueError(f"overlap {overlap} must lie between 0 and {tile - multiple} for tile {tile}")


def plan_tiles(height: int, width: int, tile: int, overlap: int, multiple: int = 1) -> TilePlan:
    """Lay tiles over an image.

    Args:
      height: of the image, in LR pixels.
      width: the same.
      tile: largest side of a tile; along each axis the smallest of `BUCKETS` sides that takes no more tiles is used.
      overlap: least number of pixels that neighbours share.
      multiple: tile sides and starts are multiples of this.

    Returns:
      the plan.

    Raises:
      ValueError: an empty image, or a tile and overlap that do not fit `multiple`.
    """
    check_tile(tile, overlap, multiple)
    if height < 1 or width < 1:
        raise ValueError(f"an image of {height}x{width} pixels has nothing to upscale")
    vertical, horizontal = (_plan_axis(length, tile, overlap, multiple) for length in (height, width))
    return TilePlan(
        (height, width),
        (vertical[0], horizontal[0]),
        (vertical[1], horizontal[1]),
        vertical[2],
        horizontal[2],
    )


def _plan_axis(length: int, tile: int, overlap: int, multiple: int) -> tuple[int, int, tuple[int, ...]]:
    """(padded length, tile side, starts) along one axis."""
    sides = [-(-tile * part // (BUCKETS * multiple)) * multiple for part in range(1, BUCKETS + 1)]
    if length <= tile:
        side = next(side for side in sides if side >= length)
        return side, side, (0,)
    padded = -(-length // multiple) * multiple

    def places(side: int) -> tuple[int, ...]:
        stride = (side - overlap) // multiple * multiple
        return starts(padded, side, side - stride)

    fewest = len(places(tile))
    side = next(side for side in sides if side >= overlap + multiple and len(places(side)) == fewest)
    return padded, side, places(side)


def check_chop(tile: int, overlap: int, multiple: int) -> None:
    """Raise ValueError unless tiles of this side suit the recipe; they may start anywhere."""
    check_tile(tile, 0, multiple)
    if not 0 <= overlap < tile:
        raise ValueError(f"overlap {overlap} must lie between 0 and {tile - 1} for tile {tile}")


def plan_chops(height: int, width: int, tile: int, overlap: int, multiple: int = 1) -> TilePlan:
    """Lay tiles over an image as ResShift's released inference code does.

    Along an axis longer than the tile, tiles start at multiples of tile - overlap, and those that would reach beyond
    the image end with it; along any other axis one tile holds the image, reflected to a multiple.

    Args, Returns and Raises: as `plan_tiles`, but sides are those asked for and starts any numbers.
    """
    check_chop(tile, overlap, multiple)
    if height < 1 or width < 1:
        raise ValueError(f"an image of {height}x{width} pixels has nothing to upscale")

    def axis(length: int) -> tuple[int, int, tuple[int, ...]]:
        if length <= tile:
            padded = -(-length // multiple) * multiple
            return padded, padded, (0,)
        return length, tile, starts(length, tile, overlap)

    vertical, horizontal = axis(height), axis(width)
    return TilePlan(
        (height, width),
        (vertical[0], horizontal[0]),
        (vertical[1], horizontal[1]),
        vertical[2],
        horizontal[2],
    )


def plan_whole(height: int, width: int) -> TilePlan:
    """One tile, the image."""
    size = (height, width)
    return TilePlan(size, size, size, (0,), (0,))


def pad_image(image: np.ndarray, plan: TilePlan) -> np.ndarray:
    """Reflect an image [H, W, C] to the right and below to the plan's padded size."""
    (height, width), (padded_height, padded_width) = plan.image, plan.padded
    if (height, width) == (padded_height, padded_width):
        return image
    return np.pad(image, ((0, padded_height - height), (0, padded_width - width), (0, 0)), mode="reflect")


def tile_batches(
    padded: np.ndarray, plan: TilePlan, batch_size: int
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Cut the padded image into batches of one static shape.

    Args:
      padded: [H, W, C] from `pad_image`.
      plan: the plan.
      batch_size: B; the last batch is filled up with copies of its last tile.

    Yields:
      (numbers [n] of the tiles that count, n <= B; tiles [B, h, w, C]; origins [B, 2] int32).
    """
    origins = plan.origins()
    height, width = plan.tile
    for first in range(0, len(origins), batch_size):
        numbers = np.arange(first, min(first + batch_size, len(origins)))
        filled = np.minimum(np.arange(first, first + batch_size), len(origins) - 1)
        tiles = np.stack([padded[r : r + height, c : c + width] for r, c in origins[filled]])  # [B, h, w, C]
        yield numbers, tiles, origins[filled]


def static_batch(tiles: int, batch_size: int) -> int:
    """The batch size for an image of few tiles: the next power of two, at most `batch_size` (few compilations)."""
    return min(batch_size, 1 << (tiles - 1).bit_length())


def tile_weights(height: int, width: int, reference_midpoint: bool = False) -> np.ndarray:
    """The blending weights of a tile, [height, width] float64, as the outer product of two profiles.

    Args:
      height: of the tile.
      width: of the tile.
      reference_midpoint: put the rows' midpoint at height / 2, as the published samplers do.
    """
    return gaussian_profile(height, height / 2 if reference_midpoint else None)[:, None] * gaussian_profile(width)


class Blending(NamedTuple):
    """Weights of every tile in output pixels, already divided by their sum over the tiles.

    The tiles form a grid and the weight is a product of two profiles, so the sum is one too: two short lists replace a
    canvas of weights.

    Attributes:
      rows: one profile [scale * tile height] float32 for each row of tiles.
      columns: one profile [scale * tile width] float32 for each column of tiles.
    """

    rows: tuple[np.ndarray, ...]
    columns: tuple[np.ndarray, ...]


def blending(plan: TilePlan, scale: int, reference_midpoint: bool = False) -> Blending:
    """Gaussian blending for a plan; see `tile_weights` for `reference_midpoint`."""
    height, width = (side * scale for side in plan.tile)
    rows = gaussian_profile(height, height / 2 if reference_midpoint else None)
    return _blending(plan, scale, rows, gaussian_profile(width))


def uniform_blending(plan: TilePlan, scale: int) -> Blending:
    """The plain average of the tiles that cover a pixel."""
    return _blending(plan, scale, *(np.ones(side * scale) for side in plan.tile))


def _blending(plan: TilePlan, scale: int, rows: np.ndarray, columns: np.ndarray) -> Blending:
    """Profiles [scale * tile side] divided by their sum over the tiles."""

    def axis(places: tuple[int, ...], padded: int, profile: np.ndarray) -> tuple[np.ndarray, ...]:
        return shares(tuple(start * scale for start in places), padded * scale, profile)

    return Blending(axis(plan.rows, plan.padded[0], rows), axis(plan.columns, plan.padded[1], columns))


def add_tile(canvas: np.ndarray, output: np.ndarray, number: int, plan: TilePlan, weights: Blending) -> None:
    """Add one weighted output tile to the canvas, in place; what lies beyond the image is dropped.

    Args:
      canvas: [sH, sW, C] float32, zeros before the first tile.
      output: [s * tile height, s * tile width, C] float32.
      number: of the tile, in the plan's order.
      plan: from `plan_tiles`.
      weights: from `blending`.
    """
    row, column = divmod(number, len(plan.columns))
    scale = output.shape[0] // plan.tile[0]
    top, left = plan.rows[row] * scale, plan.columns[column] * scale
    window = canvas[top : top + output.shape[0], left : left + output.shape[1]]  # a view
    height, width = window.shape[:2]
    vertical, horizontal = weights.rows[row][:height], weights.columns[column][:width]
    window += output[:height, :width] * (vertical[:, None, None] * horizontal[None, :, None])
