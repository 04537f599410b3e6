"""Protocols: how a picture is cut into tiles, what noise each tile gets, and how tiles become a picture again."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from framer_jax.inference.tiler import (
    Blending,
    TilePlan,
    blending,
    check_chop,
    check_tile,
    plan_chops,
    plan_tiles,
    uniform_blending,
)


class Protocol(NamedTuple):
    """One way to tile.

    Attributes:
      tile: (scale) → side of a tile if none is asked for, LR pixels; None for what suits the model.
      overlap: (tile) → the overlap if none is asked for.
      check: (tile, overlap, multiple) → raises ValueError where they do not go together.
      plan: (height, width, tile, overlap, multiple) → the tiles.
      weights: (plan, scale) → how they are blended.
      noise: (key, numbers [B], origins [B, 2]) → keys [B] and origins [B, 2] of the tiles' noise canvases.
      clips: each tile is clipped to [0, 1] before it is blended.
      color_fix: whether one may follow.
      fixed: the tile is a part of the protocol, so it does not get smaller where memory runs out.
    """

    tile: Callable[[int], int | None]
    overlap: Callable[[int], int]
    check: Callable[[int, int, int], None]
    plan: Callable[[int, int, int, int, int], TilePlan]
    weights: Callable[[TilePlan, int], Blending]
    noise: Callable[[jax.Array, np.ndarray, np.ndarray], tuple[jax.Array, np.ndarray]]
    clips: bool
    color_fix: bool
    fixed: bool


def one_canvas(key: jax.Array, numbers: np.ndarray, origins: np.ndarray) -> tuple[jax.Array, np.ndarray]:
    """Noise belongs to places of the picture: tiles agree where they overlap."""
    return jnp.broadcast_to(key, numbers.shape), origins


def one_canvas_per_tile(key: jax.Array, numbers: np.ndarray, origins: np.ndarray) -> tuple[jax.Array, np.ndarray]:
    """Every tile draws noise of its own."""
    return jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.asarray(numbers, jnp.uint32)), np.zeros_like(origins)


RESSHIFT_OVERLAP = {512: 64, 256: 32, 64: 16}
"""Tile → overlap of the settings that ResShift's authors publish (512 with stride 448, 256 with 224, 64 with 48)."""

PROTOCOLS = {
    "framer_jax": Protocol(
        tile=lambda scale: None,
        overlap=lambda tile: 16,
        check=check_tile,
        plan=plan_tiles,
        weights=blending,
        noise=one_canvas,
        clips=False,
        color_fix=True,
        fixed=False,
    ),
    "resshift": Protocol(
        tile=lambda scale: 512 * 4 // scale,  # their sides are of ×4, and grow for smaller scales
        overlap=lambda tile: RESSHIFT_OVERLAP.get(tile, tile // 8),
        check=check_chop,
        plan=plan_chops,
        weights=uniform_blending,
        noise=one_canvas_per_tile,
        clips=True,
        color_fix=False,
        fixed=True,
    ),
}
"""'framer_jax': gaussian blending, one noise canvas; tiles start on whole latents. 'resshift', as the released code of
ResShift and SinSR: tiles at a fixed stride, moved inwards at the far edges; the picture reflected to a multiple; fresh
noise per tile; the plain average; no colour fix."""
