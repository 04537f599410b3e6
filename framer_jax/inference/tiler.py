"""Split an image into equal tiles and blend the processed tiles on a canvas in host memory.

A tile goes through the whole pipeline, from LR pixels to SR pixels, so device memory depends on the tile alone. All
tiles of an image have the same size, so one compiled program serves them all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from framer_jax.diffusion.tiles import blend_weights, gaussian_profile, tile_starts

BUCKETS = 4
"""Tile sides are a quarter, a half, three quarters or all of the requested side: few shapes, few compilations."""


class TilePlan(NamedTuple):
    """Positions of the tiles of one image, in LR pixels.

    Attributes:
      image: (H, W) of the image.
      padded: (H, W) after reflection padding at the right and the bottom; the tiles cover it exactly.
      tile: (height, width) of every tile.
      rows: first row of each row of tiles, increasing; `plan_tiles` gives multiples of the recipe's lr_multiple.
      columns: first column of each column of tiles, increasing.
    """

    image: tuple[int, int]
    padded: tuple[int, int]
    tile: tuple[int, int]
    rows: tuple[int, ...]
    columns: tuple[int, ...]

    def origins(self) -> np.ndarray:
        """[N, 2] int32: row and column of the first pixel of each tile, in row-major order."""
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
    return _plan(height, width, lambda length: _plan_axis(length, tile, overlap, multiple))


def _plan_axis(length: int, tile: int, overlap: int, multiple: int) -> _Axis:
    sides = [-(-tile * part // (BUCKETS * multiple)) * multiple for part in range(1, BUCKETS + 1)]
    if length <= tile:
        side = next(side for side in sides if side >= length)
        return _Axis(side, side, (0,))
    padded = -(-length // multiple) * multiple

    def starts_of(side: int) -> tuple[int, ...]:
        stride = (side - overlap) // multiple * multiple
        return tile_starts(padded, side, side - stride)

    fewest = len(starts_of(tile))
    side = next(side for side in sides if side >= overlap + multiple and len(starts_of(side)) == fewest)
    return _Axis(padded, side, starts_of(side))


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

    def plan_axis(length: int) -> _Axis:
        if length <= tile:
            padded = -(-length // multiple) * multiple
            return _Axis(padded, padded, (0,))
        return _Axis(length, tile, tile_starts(length, tile, overlap))

    return _plan(height, width, plan_axis)


def plan_single_tile(height: int, width: int) -> TilePlan:
    """One tile that is the whole image."""
    size = (height, width)
    return TilePlan(size, size, size, (0,), (0,))


class _Axis(NamedTuple):
    """The tiles along one axis, in pixels."""

    padded: int
    side: int
    tile_starts: tuple[int, ...]


def _plan(height: int, width: int, plan_axis: Callable[[int], _Axis]) -> TilePlan:
    if height < 1 or width < 1:
        raise ValueError(f"an image of {height}x{width} pixels has nothing to upscale")
    vertical, horizontal = plan_axis(height), plan_axis(width)
    return TilePlan(
        (height, width),
        (vertical.padded, horizontal.padded),
        (vertical.side, horizontal.side),
        vertical.tile_starts,
        horizontal.tile_starts,
    )


def pad_image(image: np.ndarray, plan: TilePlan) -> np.ndarray:
    """Pad an image [H, W, C] by reflection, at the right and the bottom, to the plan's padded size."""
    (height, width), (padded_height, padded_width) = plan.image, plan.padded
    if (height, width) == (padded_height, padded_width):
        return image
    return np.pad(image, ((0, padded_height - height), (0, padded_width - width), (0, 0)), mode="reflect")


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
    origins = plan.origins()
    height, width = plan.tile
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


class BlendWeights(NamedTuple):
    """Blend weights of all tiles in output pixels, normalized to sum to 1 over the tiles at every pixel.

    Tiles form a grid, and a tile's weights are a product of a row profile and a column profile, so their sum over the
    tiles is such a product too. Two short lists therefore replace a canvas of weights.

    Attributes:
      rows: one profile [scale * tile height] float32 per row of tiles.
      columns: one profile [scale * tile width] float32 per column of tiles.
    """

    rows: tuple[np.ndarray, ...]
    columns: tuple[np.ndarray, ...]


def gaussian_blend_weights(plan: TilePlan, scale: int, reference_midpoint: bool = False) -> BlendWeights:
    """Gaussian blend weights of a plan's tiles; for `reference_midpoint` see `tile_weights`."""
    height, width = (side * scale for side in plan.tile)
    row_profile = gaussian_profile(height, height / 2 if reference_midpoint else None)
    return _normalized_weights(plan, scale, row_profile, gaussian_profile(width))


def uniform_blend_weights(plan: TilePlan, scale: int) -> BlendWeights:
    """Equal blend weights: every pixel is the average of the tiles that cover it."""
    return _normalized_weights(plan, scale, *(np.ones(side * scale) for side in plan.tile))


def _normalized_weights(
    plan: TilePlan, scale: int, row_profile: np.ndarray, column_profile: np.ndarray
) -> BlendWeights:
    """The profiles [scale * tile side], divided by their sum over the tiles."""

    def normalize(tile_starts: tuple[int, ...], padded: int, profile: np.ndarray) -> tuple[np.ndarray, ...]:
        return blend_weights(tuple(start * scale for start in tile_starts), padded * scale, profile)

    return BlendWeights(
        normalize(plan.rows, plan.padded[0], row_profile), normalize(plan.columns, plan.padded[1], column_profile)
    )


def add_tile(canvas: np.ndarray, output: np.ndarray, index: int, plan: TilePlan, weights: BlendWeights) -> None:
    """Add one weighted output tile to the canvas, in place; pixels beyond the image are dropped.

    Args:
      canvas: [sH, sW, C] float32, zeros before the first tile.
      output: processed tile, [s * tile height, s * tile width, C] float32.
      index: index of the tile in the plan's row-major order.
      plan: tile plan of the image.
      weights: blend weights of the plan.
    """
    row, column = divmod(index, len(plan.columns))
    scale = output.shape[0] // plan.tile[0]
    top, left = plan.rows[row] * scale, plan.columns[column] * scale
    window = canvas[top : top + output.shape[0], left : left + output.shape[1]]  # a view
    height, width = window.shape[:2]
    vertical, horizontal = weights.rows[row][:height], weights.columns[column][:width]
    window += output[:height, :width] * (vertical[:, None, None] * horizontal[None, :, None])
