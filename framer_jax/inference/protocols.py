"""Protocols: how a picture is resized and cut into tiles, what noise these get, and how they become a picture again."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from framer_jax.inference.tiler import (
    BlendWeights,
    TilePlan,
    check_strided_tiles,
    check_tile,
    gaussian_blend_weights,
    plan_single_tile,
    plan_strided_tiles,
    plan_tiles,
    uniform_blend_weights,
)

Size = tuple[int, int]
"""Height and width."""


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
      color_fixes: which may follow; the first one, if none is asked for.
      fixed: the tile is a part of the protocol, so it does not get smaller where memory runs out.
      sizes: (height, width, scale, tile, multiple) → sizes to which the picture is resized before anything else, one
        after the other, the last one as large as what comes out. It is then restored as one, by `Recipe.restore`, with
        the tiles within its steps. None: tiles of the picture as it is go through `Recipe.sample`.
      autoencoder: then, sides of the tiles of its encoder and its decoder, pixels of what comes out; 0 for no tiles.
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


def one_canvas(key: jax.Array, numbers: np.ndarray, origins: np.ndarray) -> tuple[jax.Array, np.ndarray]:
    """Noise belongs to places of the picture: tiles agree where they overlap."""
    return jnp.broadcast_to(key, numbers.shape), origins


def one_canvas_per_tile(key: jax.Array, numbers: np.ndarray, origins: np.ndarray) -> tuple[jax.Array, np.ndarray]:
    """Every tile draws noise of its own."""
    return jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.asarray(numbers, jnp.uint32)), np.zeros_like(origins)


DIT4SR_SIDE, DIT4SR_TILE, DIT4SR_GRID = 512, 512, 8
"""Of DiT4SR's protocol, in pixels of the result: the least shorter side; a tile, 64 latents; a latent."""


def dit4sr_sizes(height: int, width: int, scale: int, tile: int, multiple: int) -> tuple[Size, ...]:
    """How DiT4SR's released code resizes a picture before it restores it.

    The shorter side to no less than 512 / scale; then all by the scale; then both sides down to multiples of 8, or,
    which it need not, of what the denoiser takes where a side is not larger than a tile.

    Args:
      height: of the LR picture.
      width: the same.
      scale: s.
      tile: side of a tile, LR pixels.
      multiple: of the recipe, LR pixels.
    """
    least, shorter = DIT4SR_SIDE // scale, min(height, width)
    small = (height, width) if shorter >= least else (height * least // shorter, width * least // shorter)
    large = (small[0] * scale, small[1] * scale)

    def floored(side: int) -> int:
        whole = side // DIT4SR_GRID * DIT4SR_GRID
        return whole if whole > tile * scale else side // (multiple * scale) * multiple * scale

    return small, large, (floored(large[0]), floored(large[1]))


def check_steps(tile: int, overlap: int, multiple: int) -> None:
    """Raise ValueError unless tiles of this side and overlap are whole latents and suit the recipe."""
    check_tile(tile, overlap, multiple)
    if overlap % multiple:
        low = overlap // multiple * multiple
        raise ValueError(
            f"overlap {overlap} is no multiple of the recipe's lr_multiple {multiple}: use {low} or {low + multiple}"
        )


RESSHIFT_OVERLAP = {512: 64, 256: 32, 64: 16}
"""Tile → overlap of the settings that ResShift's authors publish (512 with stride 448, 256 with 224, 64 with 48)."""

_DIT4SR = Protocol(
    tile=lambda scale: DIT4SR_TILE // scale,
    overlap=lambda tile: tile * 3 // 32 * 4,  # 24 of 64 latents
    check=check_steps,
    plan=lambda height, width, tile, overlap, multiple: plan_single_tile(height, width),
    weights=gaussian_blend_weights,
    noise=one_canvas,
    clips=True,
    color_fixes=("adain",),
    fixed=True,
    sizes=dit4sr_sizes,
    autoencoder=(1024, 1792),  # 224 latents
)

PROTOCOLS = {
    "framer_jax": Protocol(
        tile=lambda scale: None,
        overlap=lambda tile: 16,
        check=check_tile,
        plan=plan_tiles,
        weights=gaussian_blend_weights,
        noise=one_canvas,
        clips=False,
        color_fixes=("none", "adain", "wavelet"),
        fixed=False,
    ),
    "resshift": Protocol(
        tile=lambda scale: 512 * 4 // scale,  # their sides are of ×4, and grow for smaller scales
        overlap=lambda tile: RESSHIFT_OVERLAP.get(tile, tile // 8),
        check=check_strided_tiles,
        plan=plan_strided_tiles,
        weights=uniform_blend_weights,
        noise=one_canvas_per_tile,
        clips=True,
        color_fixes=("none",),
        fixed=True,
    ),
    "dit4sr": _DIT4SR,
    "tsd_sr": _DIT4SR._replace(
        overlap=lambda tile: tile // 32 * 4,  # 8 of 64 latents
        color_fixes=("wavelet", "adain", "none"),
    ),
}
"""'framer_jax': gaussian blending, one noise canvas; tiles start on whole latents. 'resshift', as the released code of
ResShift and SinSR: tiles at a fixed stride, moved inwards at the far edges; the picture reflected to a multiple; fresh
noise per tile; the plain average; no colour fix.

'dit4sr', as DiT4SR's released code and paper, on which FRAMER_D builds: the picture is enlarged by Pillow's bicubic
(`dit4sr_sizes`) and is one canvas of latents with one noise. In each step the network sees tiles of 64 latents that
share 24, each with the positions of a picture of its own, and their velocities are blended with gaussian weights. The
colours are given back by AdaIN, against the enlarged picture, and the result is resized to the scale's size.

'tsd_sr', as TSD-SR's released code: as 'dit4sr', in its one step, with tiles that share 8 latents; colours by wavelets,
or by AdaIN as for its authors' benchmarks. (There, the picture is enlarged in one go, the size restored before the
colours, and AdaIN's source is the small picture.)

What departs from DiT4SR's: the latent of the LR picture is the mean of its Gaussian, not a draw; all pictures have one
prompt (theirs: a caption of each, and an added text); nothing is rounded to 8 bits between. Pictures above 1024 pixels
a side are encoded, and above 1792 decoded, in overlapping tiles whose group norms use the moments of the reduced
picture (framer_jax.recipes.normed_tiles): the released scripts name these sides, and do not use them."""
