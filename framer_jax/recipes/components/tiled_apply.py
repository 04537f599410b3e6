"""Convolutional networks with GroupNorm on large images, in tiles that share the statistics of the whole image."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, cast

import flax.linen as nn
import jax
import numpy as np

from framer_jax.diffusion.tiles import map_tiles, tile_grid
from framer_jax.models.layers import MOMENTS

OVERLAP = 8
"""Neighboring tiles share this fraction of their side: an eighth."""

Method = Callable[[Any, jax.Array], jax.Array]


def tiled_apply(
    module: nn.Module, variables: Mapping[str, Any], method: Method, image: jax.Array, side: int, unit: int = 1
) -> jax.Array:
    """Apply a module to an image, in overlapping tiles where the image is larger than a tile.

    Memory then depends on the tile alone. GroupNorm computes statistics over the whole image, so tiles that are
    normalized separately differ in tone. All tiles therefore share the means and variances that the norms compute on
    the image subsampled to the side of a tile, as in the fast mode of the tiled VAE that published samplers share.
    Attention stays within a tile.

    Args:
      module: its norms are framer_jax.models.layers.GroupNorm.
      variables: its variables, with 'params'.
      method: (bound module, image) → map.
      image: [B, H, W, C].
      side: side of the tiles in units; 0 for no tiles.
      unit: tiles start at multiples of so many pixels, such as those of a latent position for an encoder.
    """
    height, width = (length // unit for length in image.shape[1:3])
    if not side or max(height, width) <= side:
        return cast(jax.Array, module.apply(variables, image, method=method))
    subsampled = subsample(image, side / max(height, width), unit)
    moments = module.apply(variables, subsampled, method=method, mutable=["intermediates"])[1]["intermediates"]

    def normalized(tile: jax.Array) -> jax.Array:
        return cast(jax.Array, module.apply({**variables, MOMENTS: moments}, tile, method=method))

    return map_tiles(normalized, tile_grid((height, width), side, side // OVERLAP), image)


def subsample(image: jax.Array, factor: float, unit: int = 1) -> jax.Array:
    """An image [B, H, W, C] with rows and columns left out, to sides that are multiples of `unit`."""
    rows, columns = (
        ((np.arange(count) + 0.5) * length / count).astype(np.int32)
        for length, count in ((side, max(1, round(side * factor / unit)) * unit) for side in image.shape[1:3])
    )
    return image[:, rows][:, :, columns]
