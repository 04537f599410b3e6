"""A function of maps, tile by tile, with tiles that overlap and are blended; and how tiles lie along an axis.

Memory follows the tile and not the map: tiles are taken one group after another in one program.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

VARIANCE = 0.01
"""Of the gaussian blending weight, in units of the tile's side squared."""

Starts = tuple[int, ...]


class Grid(NamedTuple):
    """Tiles of one size over a map.

    Attributes:
      shape: rows and columns of the map.
      tile: rows and columns of every tile.
      rows: first row of each row of tiles, rising.
      columns: first column of each column of tiles.
    """

    shape: tuple[int, int]
    tile: tuple[int, int]
    rows: Starts
    columns: Starts

    @property
    def tiles(self) -> int:
        """Their number."""
        return len(self.rows) * len(self.columns)


def starts(length: int, side: int, overlap: int) -> Starts:
    """Where tiles start along an axis: at multiples of side - overlap; those that would reach beyond end with it.

    Args:
      length: of the axis, at least `side`.
      side: of a tile.
      overlap: of neighbours, below `side`; the last two may share more.
    """
    return (*range(0, length - side, side - overlap), length - side)


def lay(shape: tuple[int, int], side: int, overlap: int) -> Grid:
    """Tiles over a map; along an axis that is no longer than `side`, one tile. With a side of 0, one tile is all.

    Raises:
      ValueError: an overlap that leaves no stride.
    """
    side = side or max(shape)
    if not 0 <= overlap < side:
        raise ValueError(f"overlap {overlap} must lie between 0 and {side - 1} for tiles of {side}")
    tile = (min(side, shape[0]), min(side, shape[1]))
    rows, columns = (
        starts(length, part, overlap) if length > part else (0,) for length, part in zip(shape, tile, strict=True)
    )
    return Grid(shape, tile, rows, columns)


def gaussian_profile(size: int, midpoint: float | None = None) -> np.ndarray:
    """The blending weight along one side of a tile, 1 at the midpoint.

    Args:
      size: n pixels.
      midpoint: in pixels; (n - 1) / 2 if None. The tiled VAE code that published samplers share uses n / 2 for rows
        and (n - 1) / 2 for columns; pass n / 2 to repeat that.

    Returns:
      [n] float64: exp(-((i - midpoint) / n)² / (2 · VARIANCE)).
    """
    middle = (size - 1) / 2 if midpoint is None else midpoint
    return np.exp(-(((np.arange(size) - middle) / size) ** 2) / (2 * VARIANCE))


def shares(places: Starts, length: int, profile: np.ndarray) -> tuple[np.ndarray, ...]:
    """The profile of each tile along an axis, divided by the sum of all tiles' there: [n] float32 each."""
    total = np.zeros(length)
    parts = [slice(start, start + len(profile)) for start in places]
    for part in parts:
        total[part] += profile
    return tuple((profile / total[part]).astype(np.float32) for part in parts)


def over_tiles(function: Callable[..., jax.Array], grid: Grid, *maps: jax.Array, batch: int = 1) -> jax.Array:
    """Apply a function to tiles of maps, and blend what it gives with gaussian weights.

    The rows' midpoint is half the tile's height, as in the published samplers (see `gaussian_profile`).

    Args:
      function: tiles [B', h u, w u, C] of each map, B' a multiple of B → [B', h v, w v, C'] float32. The tiles of one
        group follow each other along the first axis. One tile of the whole map is the map itself.
      grid: tiles, in a unit that all maps and the result share; a map may have several rows and columns for each of
        the grid's, and so may the result.
      maps: [B, H u, W u, C] each.
      batch: tiles of a group.

    Returns:
      [B, H v, W v, C'] float32.
    """
    if grid.tiles == 1:
        return function(*maps)
    images = maps[0].shape[0]
    groups = -(-grid.tiles // batch)
    batch = -(-grid.tiles // groups)  # no group is emptier than it must be

    def at(origins: jax.Array) -> jax.Array:
        return function(*(_cut(each, origins, grid) for each in maps))

    found = jax.eval_shape(at, jax.ShapeDtypeStruct((1, 2), jnp.int32))
    unit, channels = found.shape[1] // grid.tile[0], found.shape[3]

    def add(canvas: jax.Array, group: tuple[jax.Array, ...]) -> tuple[jax.Array, None]:
        origins, rows, columns = group  # [batch, 2], [batch, h v], [batch, w v]
        tiles = at(origins).astype(jnp.float32).reshape(batch, images, *found.shape[1:])
        weighed = tiles * rows[:, None, :, None, None] * columns[:, None, None, :, None]
        for tile, origin in zip(weighed, origins, strict=True):
            place = (0, origin[0] * unit, origin[1] * unit, 0)
            before = jax.lax.dynamic_slice(canvas, place, tile.shape)
            canvas = jax.lax.dynamic_update_slice(canvas, before + tile, place)
        return canvas, None

    canvas = jnp.zeros((images, grid.shape[0] * unit, grid.shape[1] * unit, channels), jnp.float32)
    grouped = tuple(jnp.asarray(part).reshape(groups, batch, -1) for part in _weighed(grid, unit, groups * batch))
    return jax.lax.scan(add, canvas, grouped)[0]


def _origins(grid: Grid) -> np.ndarray:
    """[N, 2] int32, in reading order."""
    return np.array([(row, column) for row in grid.rows for column in grid.columns], np.int32)


def _weighed(grid: Grid, unit: int, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Origins [count, 2] and weights of their rows and columns [count, side]; those that fill up weigh nothing."""
    height, width = (side * unit for side in grid.tile)

    def axis(places: Starts, length: int, profile: np.ndarray) -> tuple[np.ndarray, ...]:
        return shares(tuple(start * unit for start in places), length * unit, profile)

    rows = axis(grid.rows, grid.shape[0], gaussian_profile(height, height / 2))
    columns = axis(grid.columns, grid.shape[1], gaussian_profile(width))
    vertical, horizontal = zip(*((row, column) for row in rows for column in columns), strict=True)
    filling = ((0, count - grid.tiles), (0, 0))
    return np.pad(_origins(grid), filling), np.pad(vertical, filling), np.pad(horizontal, filling)


def _cut(image: jax.Array, origins: jax.Array, grid: Grid) -> jax.Array:
    """The tiles [n B, h u, w u, C] at n origins."""
    unit = image.shape[1] // grid.shape[0]
    size = (image.shape[0], grid.tile[0] * unit, grid.tile[1] * unit, image.shape[3])
    found = jax.vmap(lambda origin: jax.lax.dynamic_slice(image, (0, origin[0] * unit, origin[1] * unit, 0), size))(
        origins
    )
    return found.reshape(-1, *size[1:])
