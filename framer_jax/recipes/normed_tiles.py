"""Convolutional networks with group norms on large images, in tiles that are normed as one image."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from framer_jax.diffusion.tiles import lay, over_tiles
from framer_jax.models.layers import MOMENTS

OVERLAP = 8
"""Tiles share an eighth of their side."""

Method = Callable[[Any, jax.Array], jax.Array]


def as_one(
    module: nn.Module, variables: Mapping[str, Any], method: Method, image: jax.Array, side: int, unit: int = 1
) -> jax.Array:
    """Apply a module to an image, in overlapping tiles where it is larger than one; memory then follows the tile.

    A group norm looks at the whole image: tiles that are normed by themselves differ in tone. So all tiles take the
    means and variances that the norms find in the image reduced to the side of a tile, as the fast mode of the tiled
    autoencoders does that published samplers share. Attention stays within a tile.

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
    reduced = thinned(image, side / max(height, width), unit)
    moments = module.apply(variables, reduced, method=method, mutable=["intermediates"])[1]["intermediates"]

    def normed(tile: jax.Array) -> jax.Array:
        return module.apply({**variables, MOMENTS: moments}, tile, method=method)  # type: ignore[return-value]

    return over_tiles(normed, lay((height, width), side, side // OVERLAP), image)


def thinned(image: jax.Array, factor: float, unit: int = 1) -> jax.Array:
    """An image [B, H, W, C] reduced by leaving rows and columns out, to sides that are multiples of `unit`."""
    rows, columns = (
        ((np.arange(kept) + 0.5) * length / kept).astype(np.int32)
        for length, kept in ((side, max(1, round(side * factor / unit)) * unit) for side in image.shape[1:3])
    )
    return image[:, rows][:, :, columns]
