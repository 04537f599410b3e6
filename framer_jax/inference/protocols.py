"""Protocols: how an image is resized and cut into tiles, which noise they get, and how they become an image again.

'framer_jax' is the library's own: Gaussian blending, one noise canvas, tiles that start on whole latents. The others
follow the released code of a method and are described in its package (`Method.protocols`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from framer_jax.inference.tiler import (
    WHOLE,
    BlendWeights,
    ImagePart,
    TilePlan,
    adjacent_parts,
    check_adjacent_tiles,
    check_strided_tiles,
    check_tile,
    check_window_tiles,
    gaussian_blend_weights,
    one_part,
    plan_padded_image,
    plan_single_tile,
    plan_strided_tiles,
    plan_tiles,
    plan_window_tiles,
    uniform_blend_weights,
)
from framer_jax.recipes.base import Recipe
from framer_jax.recipes.method import UpscaleProtocol
from framer_jax.recipes.table import upscale_protocols

Size = tuple[int, int]
"""Height and width."""

LATENT_GRID = 8
"""Sides of an upsampled image are multiples of a latent position's pixels."""


def lr_multiple(recipe: Recipe) -> int:
    """Tiles start and end at what the recipe can compute."""
    return recipe.lr_multiple


class Protocol(NamedTuple):
    """One way to tile.

    Attributes:
      tile: (scale) → default side of a tile, LR pixels; None for what suits the model.
      overlap: (tile) → default overlap, LR pixels.
      multiple: (recipe) → what sides are multiples of, `multiple` below: the recipe's lr_multiple, or its windows.
      parts: (height, width, tile, overlap) → the parts that are upscaled one after the other, each with its own `plan`.
      check: (tile, overlap, multiple) → raises ValueError where they do not fit together.
      plan: (height, width, tile, overlap, multiple) → the tiles.
      weights: (plan, scale) → how they are blended.
      noise: (key, numbers [B], origins [B, 2]) → keys [B] and origins [B, 2] of the tiles' noise canvases.
      clips: each tile is clipped to [0, 1] before it is blended.
      color_fixes: the color fixes that may follow; the first one is the default.
      fixed: the tile is a part of the protocol, so it is not reduced where memory runs out.
      sizes: (height, width, scale, tile, multiple) → sizes to which the image is resized first, one after the other,
        the last one as large as the result. The image is then super-resolved as a whole by `Recipe.sample_tiled`, with
        the tiles within its steps. None: tiles of the LR image go through `Recipe.sample`.
      autoencoder: then, sides of the tiles of its encoder and its decoder, pixels of the result; 0 for no tiles.
      summary: one sentence for the command line.
    """

    tile: Callable[[int], int | None]
    overlap: Callable[[int], int]
    check: Callable[[int, int, int], None]
    plan: Callable[[int, int, int, int, int], TilePlan]
    weights: Callable[[TilePlan, int], BlendWeights]
    noise: Callable[[jax.Array, np.ndarray, np.ndarray], tuple[jax.Array, np.ndarray]]
    clips: bool
    color_fixes: tuple[str, ...]
    fixed: bool
    sizes: Callable[[int, int, int, int, int], tuple[Size, ...]] | None = None
    autoencoder: tuple[int, int] = (0, 0)
    summary: str = ""
    multiple: Callable[[Recipe], int] = lr_multiple
    parts: Callable[[int, int, int, int], tuple[ImagePart, ...]] = one_part


def one_canvas(key: jax.Array, numbers: np.ndarray, origins: np.ndarray) -> tuple[jax.Array, np.ndarray]:
    """Noise belongs to positions in the image, so tiles agree where they overlap."""
    return jnp.broadcast_to(key, numbers.shape), origins


def one_canvas_per_tile(key: jax.Array, numbers: np.ndarray, origins: np.ndarray) -> tuple[jax.Array, np.ndarray]:
    """Every tile has its own noise."""
    return jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.asarray(numbers, jnp.uint32)), np.zeros_like(origins)


def upsampled_sizes(
    height: int, width: int, scale: int, tile: int, multiple: int, shorter_side: int
) -> tuple[Size, ...]:
    """How released samplers of latent tiles resize an image before they super-resolve it.

    The shorter side to no less than shorter_side / scale; then everything by the scale; then both sides down to
    multiples of 8 or, where a side is not larger than a tile, to multiples of what the denoiser takes (the released
    code does not need the latter).

    Args:
      height: height of the LR image.
      width: its width.
      scale: upsampling factor s.
      tile: side of a tile, LR pixels.
      multiple: the recipe's lr_multiple, LR pixels.
      shorter_side: least shorter side of the result, pixels.
    """
    least, shorter = shorter_side // scale, min(height, width)
    small = (height, width) if shorter >= least else (height * least // shorter, width * least // shorter)
    large = (small[0] * scale, small[1] * scale)

    def rounded_down(side: int) -> int:
        on_grid = side // LATENT_GRID * LATENT_GRID
        return on_grid if on_grid > tile * scale else side // (multiple * scale) * multiple * scale

    return small, large, (rounded_down(large[0]), rounded_down(large[1]))


def check_latent_tile(tile: int, overlap: int, multiple: int) -> None:
    """Raise ValueError unless tiles of this side and overlap are whole latents and suit the recipe."""
    check_tile(tile, overlap, multiple)
    if overlap % multiple:
        low = overlap // multiple * multiple
        raise ValueError(
            f"overlap {overlap} is not a multiple of the recipe's lr_multiple {multiple}: use {low} or {low + multiple}"
        )


def _strided(protocol: UpscaleProtocol) -> Protocol:
    return Protocol(
        tile=lambda scale: protocol.tile // scale,
        overlap=protocol.overlap,
        check=check_strided_tiles,
        plan=plan_strided_tiles,
        weights=uniform_blend_weights,
        noise=one_canvas_per_tile,
        clips=True,
        color_fixes=protocol.color_fixes,
        fixed=True,
        summary=protocol.summary,
    )


def _latent(protocol: UpscaleProtocol) -> Protocol:
    return Protocol(
        tile=lambda scale: protocol.tile // scale,
        overlap=protocol.overlap,
        check=check_latent_tile,
        plan=lambda height, width, tile, overlap, multiple: plan_single_tile(height, width),
        weights=gaussian_blend_weights,
        noise=one_canvas,
        clips=True,
        color_fixes=protocol.color_fixes,
        fixed=True,
        sizes=partial(upsampled_sizes, shorter_side=protocol.shorter_side),
        autoencoder=protocol.autoencoder_tiles,
        summary=protocol.summary,
    )


def _windows(protocol: UpscaleProtocol) -> Protocol:
    return Protocol(
        tile=lambda scale: protocol.tile or WHOLE,
        overlap=protocol.overlap,
        check=check_window_tiles,
        plan=plan_window_tiles,
        weights=uniform_blend_weights,
        noise=one_canvas,
        clips=False,
        color_fixes=protocol.color_fixes,
        fixed=True,
        summary=protocol.summary,
        multiple=lambda recipe: recipe.window,
    )


def _adjacent(protocol: UpscaleProtocol) -> Protocol:
    return Protocol(
        tile=lambda scale: protocol.tile or WHOLE,
        overlap=protocol.overlap,
        check=check_adjacent_tiles,
        plan=lambda height, width, tile, overlap, multiple: plan_padded_image(height, width, multiple),
        weights=uniform_blend_weights,
        noise=one_canvas,
        clips=False,
        color_fixes=protocol.color_fixes,
        fixed=True,
        summary=protocol.summary,
        parts=adjacent_parts,
    )


TILES: Mapping[str, Callable[[UpscaleProtocol], Protocol]] = {
    "strided": _strided,
    "latent": _latent,
    "windows": _windows,
    "adjacent": _adjacent,
}

DEFAULT_PROTOCOL = "framer_jax"

PROTOCOLS: Mapping[str, Protocol] = {
    DEFAULT_PROTOCOL: Protocol(
        tile=lambda scale: None,
        overlap=lambda tile: 16,
        check=check_tile,
        plan=plan_tiles,
        weights=gaussian_blend_weights,
        noise=one_canvas,
        clips=False,
        color_fixes=("none", "adain", "wavelet"),
        fixed=False,
        summary="Gaussian blending and one noise canvas",
    ),
    **{name: TILES[protocol.tiles](protocol) for name, protocol in upscale_protocols().items()},
}
"""Name → protocol."""
