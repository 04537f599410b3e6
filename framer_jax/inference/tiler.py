"""Split an image into equal tiles and blend the processed tiles on a canvas in host memory.

A tile goes through the whole pipeline, from LR pixels to SR pixels, so device memory depends on the tile alone. All
tiles of an image have the same size, so one compiled program serves them all.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, NamedTuple

import numpy as np

from framer_jax.diffusion.tiles import (
    BlendWeights,
    TileGrid,
    gaussian_profile,
    grid_blend_weights,
    tile_grid,
    tile_starts,
)

BUCKETS = 4
"""Tile sides are a quarter, a half, three quarters or all of the requested side: few shapes, few compilations."""

WHOLE = 1 << 20
"""The side of a tile that stands for the whole image, the largest that settings take."""


class TilePlan(NamedTuple):
    """The tiles of one image, in LR pixels.

    Attributes:
      image: (H, W) of the image.
      grid: tiles that exactly cover the image after padding at the right and the bottom to `grid.shape`.
      padding: 'reflect', or 'symmetric' for a reflection that repeats the last row and column.
    """

    image: tuple[int, int]
    grid: TileGrid
    padding: Literal["reflect", "symmetric"] = "reflect"


class ImagePart(NamedTuple):
    """A part of an image that is upscaled as an image of its own, in LR pixels.

    Attributes:
      rows, columns: what is computed.
      kept_rows, kept_columns: what becomes a part of the result.
    """

    rows: slice
    columns: slice
    kept_rows: slice
    kept_columns: slice

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) of what is computed."""
        return self.rows.stop - self.rows.start, self.columns.stop - self.columns.start

    @property
    def origin(self) -> tuple[int, int]:
        """Its first row and column in the image."""
        return self.rows.start, self.columns.start


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
    """Cover an image with tiles that start at multiples of `multiple`.

    Args:
      height: height of the image, LR pixels.
      width: width of the image, LR pixels.
      tile: largest side of a tile; along each axis, the smallest of the `BUCKETS` sides that needs no more tiles than
        the largest one.
      overlap: minimum number of pixels that neighboring tiles share.
      multiple: tile sides and starts are multiples of this.

    Raises:
      ValueError: an empty image, or a tile and overlap that do not fit `multiple`.
    """
    check_tile(tile, overlap, multiple)
    _check_size(height, width)
    padded_height, tile_height, rows = _plan_axis(height, tile, overlap, multiple)
    padded_width, tile_width, columns = _plan_axis(width, tile, overlap, multiple)
    return TilePlan((height, width), TileGrid((padded_height, padded_width), (tile_height, tile_width), rows, columns))


def _plan_axis(length: int, tile: int, overlap: int, multiple: int) -> tuple[int, int, tuple[int, ...]]:
    """(padded length, side of a tile, starts of the tiles) along one axis."""
    sides = [-(-tile * part // (BUCKETS * multiple)) * multiple for part in range(1, BUCKETS + 1)]
    if length <= tile:
        side = next(side for side in sides if side >= length)
        return side, side, (0,)
    padded = _round_up(length, multiple)

    def starts_of(side: int) -> tuple[int, ...]:
        stride = (side - overlap) // multiple * multiple
        return tile_starts(padded, side, side - stride)

    fewest = len(starts_of(tile))
    side = next(side for side in sides if side >= overlap + multiple and len(starts_of(side)) == fewest)
    return padded, side, starts_of(side)


def _check_size(height: int, width: int) -> None:
    if height < 1 or width < 1:
        raise ValueError(f"an image of {height}x{width} pixels has nothing to upscale")


def _round_up(length: int, multiple: int) -> int:
    return -(-length // multiple) * multiple


def check_strided_tiles(tile: int, overlap: int, multiple: int) -> None:
    """Raise ValueError unless tiles of this side suit the recipe; they may start anywhere."""
    check_tile(tile, 0, multiple)
    if not 0 <= overlap < tile:
        raise ValueError(f"overlap {overlap} must lie between 0 and {tile - 1} for tile {tile}")


def plan_strided_tiles(height: int, width: int, tile: int, overlap: int, multiple: int = 1) -> TilePlan:
    """Cover an image with tiles at a fixed stride, as in ResShift's released inference code.

    Along an axis longer than the tile, tiles start at multiples of tile - overlap, and a tile that would extend beyond
    the image is moved back to end with it. Along a shorter axis, one tile holds the image, padded by reflection to a
    multiple of `multiple`. Tiles have the requested side.

    Args, Returns and Raises: as in `plan_tiles`, except that tiles may start anywhere.
    """
    check_strided_tiles(tile, overlap, multiple)
    _check_size(height, width)
    padded_height, padded_width = (
        length if length > tile else _round_up(length, multiple) for length in (height, width)
    )
    return TilePlan((height, width), tile_grid((padded_height, padded_width), tile, overlap))


def plan_single_tile(height: int, width: int) -> TilePlan:
    """One tile that is the whole image."""
    return TilePlan((height, width), tile_grid((height, width), side=0, overlap=0))


def check_window_tiles(tile: int, overlap: int, window: int) -> None:
    """Raise ValueError unless tiles of this side are whole windows, or `WHOLE`, and leave a stride."""
    if window < 2:
        raise ValueError("protocol 'swinir' pads to the windows of a network, and this one has none: choose another")
    if tile != WHOLE and tile % window:
        low = tile // window * window
        raise ValueError(f"tile {tile} is no multiple of the network's window {window}: use {low or window} or another")
    if not 0 <= overlap < tile:
        raise ValueError(f"overlap {overlap} must lie between 0 and {tile - 1} for tile {tile}")


def plan_window_tiles(height: int, width: int, tile: int, overlap: int, window: int) -> TilePlan:
    """Cover an image as SwinIR's released test code does.

    Both sides grow to the next larger multiple of the window, by a whole window where they are multiples already. The
    image continues as its own mirror image, which repeats the edge. Then come tiles at a fixed stride; the side of a
    tile is reduced to the shorter side of the image. (With an overlap of more than such a side, the released code has
    no stride; here it is half the tile.) `WHOLE` stands for one tile.

    Args, Returns and Raises: as in `plan_tiles`, except that the window takes the place of `multiple`.
    """
    check_window_tiles(tile, overlap, window)
    _check_size(height, width)
    # An image of less than half a window does not fill it even with its mirror image; the network pads the rest.
    padded = height + min(window - height % window, height), width + min(window - width % window, width)
    side = 0 if tile == WHOLE else min(tile, *padded)
    overlap = 0 if tile == WHOLE else min(overlap, side // 2) if overlap >= side else overlap
    return TilePlan((height, width), tile_grid(padded, side, overlap), padding="symmetric")


def check_adjacent_tiles(tile: int, context: int, multiple: int) -> None:
    """Any tile and context fit every recipe: what is computed is padded."""


def plan_padded_image(height: int, width: int, multiple: int = 1) -> TilePlan:
    """One tile that is the whole image, padded by reflection to a multiple of `multiple`."""
    _check_size(height, width)
    shape = _round_up(height, multiple), _round_up(width, multiple)
    return TilePlan((height, width), tile_grid(shape, side=0, overlap=0))


def one_part(height: int, width: int, tile: int, overlap: int) -> tuple[ImagePart, ...]:
    """The whole image as its only part."""
    rows, columns = slice(0, height), slice(0, width)
    return (ImagePart(rows, columns, rows, columns),)


def adjacent_parts(height: int, width: int, tile: int, context: int) -> tuple[ImagePart, ...]:
    """Cut an image into tiles side by side, as Real-ESRGAN's released inference code does.

    Each is computed with the pixels around it that the image has. The tiles at the right and at the bottom end with the
    image, so they may be smaller.

    Args:
      height: height of the image, LR pixels.
      width: its width.
      tile: side of a tile; `WHOLE` for the image as it is.
      context: number of pixels that are computed on each side of a tile and then cut off.
    """
    _check_size(height, width)

    def axis(length: int) -> list[tuple[slice, slice]]:
        kept = [slice(start, min(start + tile, length)) for start in range(0, length, tile)]
        return [(slice(max(part.start - context, 0), min(part.stop + context, length)), part) for part in kept]

    return tuple(
        ImagePart(rows, columns, kept_rows, kept_columns)
        for rows, kept_rows in axis(height)
        for columns, kept_columns in axis(width)
    )


def paste_part(canvas: np.ndarray, output: np.ndarray, part: ImagePart, scale: int) -> None:
    """Write what is kept of an upscaled part [s h, s w, C] to the canvas [sH, sW, C], in place."""
    (top, left), (rows, columns) = part.origin, (part.kept_rows, part.kept_columns)
    canvas[rows.start * scale : rows.stop * scale, columns.start * scale : columns.stop * scale] = output[
        (rows.start - top) * scale : (rows.stop - top) * scale,
        (columns.start - left) * scale : (columns.stop - left) * scale,
    ]


def pad_image(image: np.ndarray, plan: TilePlan) -> np.ndarray:
    """Pad an image [H, W, C], at the right and the bottom, to the shape of the plan's grid."""
    (height, width), (padded_height, padded_width) = plan.image, plan.grid.shape
    if (height, width) == (padded_height, padded_width):
        return image
    return np.pad(image, ((0, padded_height - height), (0, padded_width - width), (0, 0)), mode=plan.padding)


def tile_batches(
    padded: np.ndarray, plan: TilePlan, batch_size: int
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Iterate over the tiles of a padded image in batches of one static shape.

    Args:
      padded: padded image from `pad_image`, [H, W, C].
      plan: tile plan of the image.
      batch_size: number of tiles B in a batch; the last batch is filled with copies of its last tile.

    Yields:
      (indices [n] of the tiles that are not copies, n <= B; tiles [B, h, w, C]; origins [B, 2] int32).
    """
    origins = plan.grid.origins()
    height, width = plan.grid.tile
    for first in range(0, len(origins), batch_size):
        indices = np.arange(first, min(first + batch_size, len(origins)))
        filled = np.minimum(np.arange(first, first + batch_size), len(origins) - 1)
        tiles = np.stack([padded[r : r + height, c : c + width] for r, c in origins[filled]])  # [B, h, w, C]
        yield indices, tiles, origins[filled]


def static_batch_size(tiles: int, batch_size: int) -> int:
    """Batch size for an image of few tiles: the next power of two, at most `batch_size` (few compilations)."""
    return min(batch_size, 1 << (tiles - 1).bit_length())


def tile_weights(height: int, width: int, reference_midpoint: bool = False) -> np.ndarray:
    """Gaussian blend weights of one tile, [height, width] float64: the outer product of two profiles.

    Args:
      height: height of the tile.
      width: width of the tile.
      reference_midpoint: whether the midpoint of the rows is height / 2, as in the published samplers.
    """
    return gaussian_profile(height, height / 2 if reference_midpoint else None)[:, None] * gaussian_profile(width)


def gaussian_blend_weights(plan: TilePlan, scale: int, reference_midpoint: bool = False) -> BlendWeights:
    """Gaussian blend weights of a plan's tiles in output pixels; for `reference_midpoint` see `tile_weights`."""
    height, width = (side * scale for side in plan.grid.tile)
    row_profile = gaussian_profile(height, height / 2 if reference_midpoint else None)
    return grid_blend_weights(plan.grid, scale, row_profile, gaussian_profile(width))


def uniform_blend_weights(plan: TilePlan, scale: int) -> BlendWeights:
    """Equal blend weights in output pixels: every pixel is the average of the tiles that cover it."""
    return grid_blend_weights(plan.grid, scale, *(np.ones(side * scale) for side in plan.grid.tile))


def add_tile(
    canvas: np.ndarray, output: np.ndarray, index: int, plan: TilePlan, weights: BlendWeights, first_row: int = 0
) -> None:
    """Add one weighted output tile to the canvas, in place; pixels beyond the image are dropped.

    Args:
      canvas: [sH, sW, C] float32, zeros before the first tile; or some of its rows.
      output: processed tile, [s * tile height, s * tile width, C] float32.
      index: index of the tile in the plan's row-major order.
      plan: tile plan of the image.
      weights: blend weights of the plan.
      first_row: the first row of the canvas, if it is a part of the whole one.
    """
    grid = plan.grid
    row, column = divmod(index, len(grid.columns))
    scale = output.shape[0] // grid.tile[0]
    top, left = grid.rows[row] * scale - first_row, grid.columns[column] * scale
    window = canvas[top : top + output.shape[0], left : left + output.shape[1]]  # a view
    height, width = window.shape[:2]
    vertical, horizontal = weights.rows[row][:height], weights.columns[column][:width]
    window += output[:height, :width] * (vertical[:, None, None] * horizontal[None, :, None])
