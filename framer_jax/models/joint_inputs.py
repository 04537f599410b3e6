"""Inputs of Stable Diffusion 3's transformer: the patch embedding, and the embedding of time and pooled text."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from framer_jax.models.layers import Dtype, TimeEmbedding

SINUSOIDS = 256
"""Number of sinusoidal features of the time."""

POSITIONS = ("sine", "table")
"""Position embeddings are computed (sine), or are a parameter (table), for checkpoints whose table differs from the
computed one."""


class TimeTextEmbedding(nn.Module):
    """The sum of two MLPs, of the time and of the pooled text; float32.

    Attributes:
      width: features of the embedding.
    """

    width: int

    @nn.compact
    def __call__(self, timestep: jax.Array, pooled: jax.Array) -> jax.Array:
        """Timestep [B], pooled [B, P] → [B, width] float32."""
        time = TimeEmbedding(self.width, sinusoids=SINUSOIDS, name="time")(timestep)
        h = nn.Dense(self.width, dtype=jnp.float32, name="pooled_0")(pooled.astype(jnp.float32))
        return time + nn.Dense(self.width, dtype=jnp.float32, name="pooled_1")(nn.silu(h))


class PatchEmbedding(nn.Module):
    """A linear map of each patch, plus its position embedding.

    Attributes:
      width: features of a token.
      patch: side of a patch.
      grid: side of the square grid of positions, in tokens; smaller images use its center.
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
        square = (self.grid, self.grid)
        table = self.param(
            "positions", lambda key: jnp.asarray(centred_positions(square, self.grid, self.base, self.width))[None]
        )
        top, left = (self.grid - rows) // 2, (self.grid - columns) // 2
        center = table.reshape(*square, self.width)[top : top + rows, left : left + columns]
        return center.reshape(rows * columns, self.width)


def centred_positions(grid: tuple[int, int], side: int, base: int, features: int) -> np.ndarray:
    """Sine-cosine position embeddings of a token grid in the center of a square one.

    A quarter of the features each: sines and cosines of the column, sines and cosines of the row.

    Args:
      grid: rows and columns.
      side: side of the square grid, at least the number of rows and of columns.
      base: positions are counted in units of side / base tokens.
      features: number of features, a multiple of 4.

    Returns:
      [rows · columns, features] float32.
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
