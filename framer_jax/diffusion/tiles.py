"""Tiles of one size over a map: where they start, how they are blended, and a function applied to them.

Memory follows the size of a tile and not that of the map: one program processes the tiles in groups, one after another.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

PROFILE_VARIANCE = 0.01
"""Variance of the Gaussian blend weight, in units of the tile's side squared."""

Starts = tuple[int, ...]
"""First row (or column) of each tile along an axis, ascending."""


class TileGrid(NamedTuple):
    """Tiles of one size over a map.

    Attributes:
      shape: rows and columns of the map.
      tile: rows and columns of every tile.
      rows: first row of each row of tiles, ascending.
      columns: first column of each column of tiles, ascending.
    """

    shape: tuple[int, int]
    tile: tuple[int, int]
    rows: Starts
    columns: Starts

    @property
    def num_tiles(self) -> int:
        """The number of tiles."""
        return len(self.rows) * len(self.columns)

    def origins(self) -> np.ndarray:
        """Row and column of each tile's first pixel, [N, 2] int32, in row-major order."""
        return np.array([(row, column) for row in self.rows for column in self.columns], np.int32)


class BlendWeights(NamedTuple):
    """Blend weights of every tile of a grid, already divided by their sum over the tiles.

    The weight of a pixel is a product of a row and a column profile, and so is the sum over the grid: two short lists
    replace a map of weights.

    Attributes:
      rows: one profile [tile height] float32 for each row of tiles.
      columns: one profile [tile width] float32 for each column of tiles.
    """

    rows: tuple[np.ndarray, ...]
    columns: tuple[np.ndarray, ...]


def tile_starts(length: int, side: int, overlap: int) -> Starts:
    """Starts of the tiles along an axis: multiples of side - overlap; the last tile is moved back to end with the axis.

    Args:
      length: length of the axis, at least `side`.
      side: side of a tile.
      overlap: overlap of neighboring tiles, less than `side`; that of the last two may be larger.
    """
    return (*range(0, length - side, side - overlap), length - side)


def tile_grid(shape: tuple[int, int], side: int, overlap: int) -> TileGrid:
    """Square tiles over a map; an axis that is no longer than `side` has one tile of its length.

    Args:
      shape: rows and columns of the map.
      side: side of a tile; 0 for one tile that covers the map.
      overlap: overlap of neighboring tiles.

    Raises:
      ValueError: an overlap that is negative or not less than the side.
    """
    side = side or max(shape)
    if not 0 <= overlap < side:
        raise ValueError(f"overlap is {overlap}: it must be from 0 to {side - 1} for tiles of {side}")
    tile = (min(side, shape[0]), min(side, shape[1]))
    rows, columns = (
        tile_starts(length, part, overlap) if length > part else (0,) for length, part in zip(shape, tile, strict=True)
    )
    return TileGrid(shape, tile, rows, columns)


def gaussian_profile(size: int, midpoint: float | None = None) -> np.ndarray:
    """The blend weight along one side of a tile, 1 at the midpoint.

    Args:
      size: side n of the tile in pixels.
      midpoint: in pixels; (n - 1) / 2 if None. The tiled VAE code that published samplers share uses n / 2 for rows
        and (n - 1) / 2 for columns; pass n / 2 to reproduce that.

    Returns:
      [n] float64: exp(-((i - midpoint) / n)² / (2 · PROFILE_VARIANCE)).
    """
    middle = (size - 1) / 2 if midpoint is None else midpoint
    return np.exp(-(((np.arange(size) - middle) / size) ** 2) / (2 * PROFILE_VARIANCE))


def blend_weights(starts: Starts, length: int, profile: np.ndarray) -> tuple[np.ndarray, ...]:
    """The profile of each tile along an axis, divided by the sum of all tiles' profiles there: [n] float32 each."""
    total = np.zeros(length)
    extents = [slice(start, start + len(profile)) for start in starts]
    for extent in extents:
        total[extent] += profile
    return tuple((profile / total[extent]).astype(np.float32) for extent in extents)


def grid_blend_weights(grid: TileGrid, scale: int, row_profile: np.ndarray, column_profile: np.ndarray) -> BlendWeights:
    """Blend weights for the output of a grid of tiles.

    Args:
      grid: the tiles.
      scale: pixels of the output for each row and column of the grid.
      row_profile: [scale * tile height], the weight along the rows before normalization.
      column_profile: [scale * tile width], the same along the columns.
    """

    def axis(starts: Starts, length: int, profile: np.ndarray) -> tuple[np.ndarray, ...]:
        return blend_weights(tuple(start * scale for start in starts), length * scale, profile)

    return BlendWeights(axis(grid.rows, grid.shape[0], row_profile), axis(grid.columns, grid.shape[1], column_profile))


def map_tiles(function: Callable[..., jax.Array], grid: TileGrid, *maps: jax.Array, batch: int = 1) -> jax.Array:
    """Apply a function to tiles of maps, and blend its outputs with Gaussian weights.

    The midpoint of the row weights is half the tile's height, as in the published samplers (see `gaussian_profile`).

    Args:
      function: tiles [B', h u, w u, C] of each map, B' a multiple of B → [B', h v, w v, C'] float32. The tiles of one
        group follow each other along the first axis. If one tile covers the map, the function is applied to the maps
        themselves.
      grid: tiles, in a unit that all maps and the result share; a map may have several rows and columns for each of
        the grid's (u), and so may the result (v).
      maps: [B, H u, W u, C] each.
      batch: largest number of tiles in a group.

    Returns:
      [B, H v, W v, C'] float32.
    """
    if grid.num_tiles == 1:
        return function(*maps)
    images = maps[0].shape[0]
    groups = -(-grid.num_tiles // batch)
    batch = -(-grid.num_tiles // groups)  # groups of nearly equal size: as few padding tiles as possible

    def apply_at(origins: jax.Array) -> jax.Array:
        return function(*(_cut_tiles(image, origins, grid) for image in maps))

    output = jax.eval_shape(apply_at, jax.ShapeDtypeStruct((1, 2), jnp.int32))
    unit, channels = output.shape[1] // grid.tile[0], output.shape[3]

    def add_group(canvas: jax.Array, group: tuple[jax.Array, ...]) -> tuple[jax.Array, None]:
        origins, rows, columns = group  # [batch, 2], [batch, h v], [batch, w v]
        tiles = apply_at(origins).astype(jnp.float32).reshape(batch, images, *output.shape[1:])
        weighted = tiles * rows[:, None, :, None, None] * columns[:, None, None, :, None]
        for tile, origin in zip(weighted, origins, strict=True):
            start = (0, origin[0] * unit, origin[1] * unit, 0)
            before = jax.lax.dynamic_slice(canvas, start, tile.shape)
            canvas = jax.lax.dynamic_update_slice(canvas, before + tile, start)
        return canvas, None

    canvas = jnp.zeros((images, grid.shape[0] * unit, grid.shape[1] * unit, channels), jnp.float32)
    padded = _padded_tiles(grid, unit, groups * batch)
    grouped = tuple(jnp.asarray(part).reshape(groups, batch, -1) for part in padded)
    return jax.lax.scan(add_group, canvas, grouped)[0]


def _padded_tiles(grid: TileGrid, unit: int, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Origins [count, 2] and weights of rows and columns [count, side] of all tiles; padding tiles have weight 0."""
    height, width = (side * unit for side in grid.tile)
    weights = grid_blend_weights(grid, unit, gaussian_profile(height, height / 2), gaussian_profile(width))
    rows, columns = zip(*((row, column) for row in weights.rows for column in weights.columns), strict=True)
    padding = ((0, count - grid.num_tiles), (0, 0))
    return np.pad(grid.origins(), padding), np.pad(rows, padding), np.pad(columns, padding)


def _cut_tiles(image: jax.Array, origins: jax.Array, grid: TileGrid) -> jax.Array:
    """The tiles [N B, h u, w u, C] of a map [B, H u, W u, C] at origins [N, 2]."""
    unit = image.shape[1] // grid.shape[0]
    size = (image.shape[0], grid.tile[0] * unit, grid.tile[1] * unit, image.shape[3])
    tiles = jax.vmap(lambda origin: jax.lax.dynamic_slice(image, (0, origin[0] * unit, origin[1] * unit, 0), size))(
        origins
    )
    return tiles.reshape(-1, *size[1:])
