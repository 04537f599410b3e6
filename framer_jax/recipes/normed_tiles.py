"""Convolutional networks with group norms on large images, in tiles that are normed as one image."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from framer_jax.diffusion.tiles import Grid, each_tile, lay, over_tiles
from framer_jax.models.layers import MOMENTS

OVERLAP = 8
"""Tiles share an eighth of their side."""


def as_one(
    module: nn.Module,
    variables: Mapping[str, Any],
    method: Callable[[Any, jax.Array], jax.Array],
    image: jax.Array,
    side: int,
    unit: int = 1,
) -> jax.Array:
    """Apply a module to an image, in overlapping tiles where it is larger than one; memory then follows the tile.

    A group norm looks at the whole image: tiles that are normed by themselves differ in tone. So all tiles are computed
    twice: first for the means and variances of their norms, which are then pooled, and again with these. Norms behind
    the first one see inputs that were normed by tile, so that their pooled moments are near those of the whole, not
    equal. Attention stays within a tile.

    Args:
      module: its norms are framer_jax.models.layers.GroupNorm.
      variables: with 'params'.
      method: (bound module, image) → map.
      image: [B, H, W, C].
      side: of the tiles, in units; 0 for the image as one.
      unit: pixels of the image that tiles start at multiples of, such as those of a latent for an encoder.
    """
    height, width = (length // unit for length in image.shape[1:3])
    if not side or max(height, width) <= side:
        return module.apply(variables, image, method=method)  # type: ignore[return-value]
    grid = lay((height, width), side, side // OVERLAP)
    moments = pooled_moments(module, variables, method, image, grid)

    def normed(tile: jax.Array) -> jax.Array:
        return module.apply({**variables, MOMENTS: moments}, tile, method=method)  # type: ignore[return-value]

    return over_tiles(normed, grid, image)


def pooled_moments(
    module: nn.Module,
    variables: Mapping[str, Any],
    method: Callable[[Any, jax.Array], jax.Array],
    image: jax.Array,
    grid: Grid,
) -> dict[str, Any]:
    """The collection `MOMENTS` of all tiles of an image together."""

    def moments(tile: jax.Array) -> Any:
        return module.apply(variables, tile, method=method, mutable=["intermediates"])[1]["intermediates"]

    def pool(found: jax.Array) -> jax.Array:  # [tiles, 2, B, 1, 1, groups, 1]
        means, variances = found[:, 0], found[:, 1]
        mean = means.mean(axis=0)
        return jnp.stack([mean, (variances + jnp.square(means - mean[None])).mean(axis=0)])

    return jax.tree.map(pool, each_tile(moments, grid, image))  # type: ignore[no-any-return]
