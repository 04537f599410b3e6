"""Standard normal noise that belongs to places on an unbounded canvas.

A sampler that draws its noise here gives the same noise to the same pixel whatever tile the pixel is computed in, so
tile size, tile order and batch size do not change the noise of a result, and no canvas of noise is ever kept in memory.
"""

from __future__ import annotations

from fractions import Fraction
from typing import NamedTuple

import jax
import jax.numpy as jnp

CELL = 16
"""Side of the square of latent positions that one folded key serves."""


class NoiseField(NamedTuple):
    """One noise canvas per image of a batch, and where on it each image lies.

    Attributes:
      key: [B] typed PRNG keys, one canvas each; tiles of one image share their key.
      origin: [B, 2] int32, the row and column of the crop's first LR pixel on its canvas (both >= 0).
    """

    key: jax.Array
    origin: jax.Array


def noise_field(key: jax.Array, batch_size: int) -> NoiseField:
    """A field for `batch_size` whole images, each with a canvas of its own."""
    return NoiseField(jax.random.split(key, batch_size), jnp.zeros((batch_size, 2), jnp.int32))


def window(
    field: NoiseField, draw: int | jax.Array, shape: tuple[int, int, int], latents_per_lr_pixel: Fraction = Fraction(1)
) -> jax.Array:
    """The part of draw number `draw` that lies under each crop.

    Args:
      field: canvases and origins of the batch.
      draw: which of a sampler's noise draws (0 for the start, 1, 2, ... for its steps); may be traced.
      shape: (H, W, C) of the latent crop.
      latents_per_lr_pixel: side of a latent position in LR pixels, inverted; origins must fall on whole latents.

    Returns:
      [B, H, W, C] float32 standard normal.
    """
    height, width, channels = shape
    ratio = Fraction(latents_per_lr_pixel)
    rows, columns = -(-height // CELL) + 1, -(-width // CELL) + 1  # cells that can touch the crop

    def one(key: jax.Array, origin: jax.Array) -> jax.Array:  # key: [], origin: [2]
        start = origin * ratio.numerator // ratio.denominator
        cell, offset = start // CELL, start % CELL
        key = jax.random.fold_in(key, draw)

        def one_cell(row: jax.Array, column: jax.Array) -> jax.Array:
            return jax.random.normal(
                jax.random.fold_in(jax.random.fold_in(key, row), column), (CELL, CELL, channels), jnp.float32
            )

        grid = jax.vmap(lambda row: jax.vmap(lambda column: one_cell(row, column))(cell[1] + jnp.arange(columns)))(
            cell[0] + jnp.arange(rows)
        )  # [rows, columns, CELL, CELL, C]
        canvas = grid.transpose(0, 2, 1, 3, 4).reshape(rows * CELL, columns * CELL, channels)
        return jax.lax.dynamic_slice(canvas, (offset[0], offset[1], 0), (height, width, channels))

    return jax.vmap(one)(field.key, field.origin)
