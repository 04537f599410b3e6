"""A perceptual distance as a term of a recipe's loss: LPIPS, with frozen weights that the user names."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import jax

from framer_jax.losses.lpips import lpips
from framer_jax.models.vgg import Lpips
from framer_jax.recipes.base import Frozen, Params

LPIPS = "lpips"
"""The entry of `frozen` that the network of LPIPS has."""


@dataclass(frozen=True)
class Perceptual:
    """A distance of pictures and the weights it needs.

    Attributes:
      distance: (frozen, picture, reference), both [B, H, W, 3] float32 in [-1, 1] → [B] float32.
      frozen: the weights that `distance` finds in what it is given.
    """

    distance: Callable[[Frozen, jax.Array, jax.Array], jax.Array]
    frozen: Frozen


def lpips_distance(module: Lpips, params: Params) -> Perceptual:
    """LPIPS with a trunk and heads, see framer_jax.losses.lpips; the gradient reaches the first picture only."""

    def distance(frozen: Frozen, picture: jax.Array, reference: jax.Array) -> jax.Array:
        def features(image: jax.Array) -> tuple[tuple[jax.Array, ...], tuple[jax.Array, ...]]:
            return module.apply({"params": frozen[LPIPS]}, image)  # type: ignore[return-value]

        found, heads = features(picture)
        return lpips(found, features(jax.lax.stop_gradient(reference))[0], heads)

    return Perceptual(distance, {LPIPS: params})
