"""Standard normal noise that is a function of the position on an unbounded canvas.

A sampler that draws its noise here gets the same noise for a pixel whatever tile it is computed in: tile size, tile
order and batch size do not change the noise of a result, and no canvas of noise is ever held in memory.
"""

from __future__ import annotations

from fractions import Fraction
from typing import NamedTuple

import jax
import jax.numpy as jnp

CELL = 16
"""Side, in latent positions, of the square cells of the canvas; each cell is drawn with one folded key."""


class NoiseField(NamedTuple):
    """One noise canvas per image of a batch, and the position of each image on its canvas.

    Attributes:
      key: [B] typed PRNG keys, one canvas each; tiles of one image share their key.
      origin: [B, 2] int32, the row and column of the crop's first LR pixel on its canvas (both >= 0).
    """

    key: jax.Array
    origin: jax.Array


def noise_field(key: jax.Array, batch_size: int) -> NoiseField:
    """A field for `batch_size` whole images, each with its own canvas."""
    return NoiseField(jax.random.split(key, batch_size), jnp.zeros((batch_size, 2), jnp.int32))


def noise_window(
    field: NoiseField, draw: int | jax.Array, shape: tuple[int, int, int], latents_per_lr_pixel: Fraction = Fraction(1)
) -> jax.Array:
    """The part of a noise draw that lies under each crop.

    Args:
      field: canvases and origins of the batch.
      draw: number of the sampler's noise draw (0 for the initial noise, 1, 2, ... for its steps); may be traced.
      shape: (H, W, C) of the latent crop.
      latents_per_lr_pixel: latent positions per LR pixel along an axis; origins must fall on whole latent positions.

    Returns:
      [B, H, W, C] float32 standard normal.
    """
    height, width, channels = shape
    ratio = Fraction(latents_per_lr_pixel)
    rows, columns = -(-height // CELL) + 1, -(-width // CELL) + 1  # cells that the crop can overlap

    def image_noise(key: jax.Array, origin: jax.Array) -> jax.Array:  # key: [], origin: [2]
        start = origin * ratio.numerator // ratio.denominator
        cell, offset = start // CELL, start % CELL
        key = jax.random.fold_in(key, draw)

        def cell_noise(row: jax.Array, column: jax.Array) -> jax.Array:
            return jax.random.normal(
                jax.random.fold_in(jax.random.fold_in(key, row), column), (CELL, CELL, channels), jnp.float32
            )

        grid = jax.vmap(lambda row: jax.vmap(lambda column: cell_noise(row, column))(cell[1] + jnp.arange(columns)))(
            cell[0] + jnp.arange(rows)
        )  # [rows, columns, CELL, CELL, C]
        canvas = grid.transpose(0, 2, 1, 3, 4).reshape(rows * CELL, columns * CELL, channels)
        return jax.lax.dynamic_slice(canvas, (offset[0], offset[1], 0), (height, width, channels))

    return jax.vmap(image_noise)(field.key, field.origin)
