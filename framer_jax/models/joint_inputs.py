"""What enters Stable Diffusion 3's transformer: patches with positions, and what modulates the blocks."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from framer_jax.models.layers import Dtype, TimeEmbedding

SINUSOIDS = 256
"""Of the time."""

POSITIONS = ("sine", "table")
"""Positions are computed; or they are a parameter, for checkpoints whose table is not what would be computed."""


class Condition(nn.Module):
    """The time and the pooled text, a perceptron each, added; float32.

    Attributes:
      width: of the result.
    """

    width: int

    @nn.compact
    def __call__(self, timestep: jax.Array, pooled: jax.Array) -> jax.Array:
        """Timestep [B], pooled [B, P] → [B, width] float32."""
        time = TimeEmbedding(self.width, sinusoids=SINUSOIDS, name="time")(timestep)
        h = nn.Dense(self.width, dtype=jnp.float32, name="pooled_0")(pooled.astype(jnp.float32))
        return time + nn.Dense(self.width, dtype=jnp.float32, name="pooled_1")(nn.silu(h))


class Tokens(nn.Module):
    """A linear map of each patch, plus its position.

    Attributes:
      width: of a token.
      patch: side of a patch.
      grid: side of the square of known positions, in tokens; an image lies in its centre.
      base: see `centred_positions`.
      positions: one of `POSITIONS`.
      dtype: compute dtype.
    """

    width: int
    patch: int
    grid: int
    base: int
    positions: str = "sine"
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, latent: jax.Array) -> jax.Array:
        """[B, H, W, C] → [B, (H / patch) (W / patch), width]."""
        patch = (self.patch, self.patch)
        embed = nn.Conv(self.width, patch, patch, padding="VALID", dtype=self.dtype, name="embed")
        tokens = embed(latent.astype(self.dtype))
        rows, columns = tokens.shape[1:3]
        positions = self._positions(rows, columns).astype(self.dtype)
        return tokens.reshape(-1, rows * columns, self.width) + positions[None]

    def _positions(self, rows: int, columns: int) -> jax.Array:
        if self.positions == "sine":
            return jnp.asarray(centred_positions((rows, columns), self.grid, self.base, self.width))
        whole = (self.grid, self.grid)
        table = self.param(
            "positions", lambda key: jnp.asarray(centred_positions(whole, self.grid, self.base, self.width))[None]
        )
        top, left = (self.grid - rows) // 2, (self.grid - columns) // 2
        centre = table.reshape(*whole, self.width)[top : top + rows, left : left + columns]
        return centre.reshape(rows * columns, self.width)


def centred_positions(grid: tuple[int, int], side: int, base: int, features: int) -> np.ndarray:
    """Sine-cosine positions of a token grid in the centre of a square one: [rows · columns, features] float32.

    Features are a quarter each: sines and cosines of the column, sines and cosines of the row.

    Args:
      grid: rows and columns.
      side: of the square, not less than those.
      base: positions are counted in units of side / base tokens.
      features: a multiple of 4.
    """
    quarter = features // 4
    frequencies = 1.0 / 10_000 ** (np.arange(quarter) / quarter)

    def axis(count: int) -> np.ndarray:
        positions = (np.arange(count) + (side - count) // 2) / (side / base)
        angle = positions[:, None] * frequencies[None, :]
        return np.concatenate([np.sin(angle), np.cos(angle)], axis=1)

    rows, columns = grid
    by_column, by_row = np.tile(axis(columns), (rows, 1)), np.repeat(axis(rows), columns, axis=0)
    return np.concatenate([by_column, by_row], axis=1).astype(np.float32)
