"""Run a recipe's sampler over a whole picture, tile by tile."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache, reduce
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from framer_jax.diffusion.noise import NoiseField
from framer_jax.inference.color_fix import fix_color
from framer_jax.inference.images import Picture, enlarged, premultiplied
from framer_jax.inference.protocols import PROTOCOLS
from framer_jax.inference.resample import resize_pillow
from framer_jax.inference.settings import UpscaleSettings
from framer_jax.inference.tiler import TilePlan, add_tile, pad_image, static_batch, tile_batches
from framer_jax.recipes.base import Params, Recipe, Tiling

LOGGER = logging.getLogger(__name__)

Progress = Callable[[int, int], None]
"""Called with (tiles done, tiles in all); may start again from 0 with smaller tiles."""


class Upscaled(NamedTuple):
    """What came out, and the settings that made it (smaller than asked for if device memory ran out).

    Attributes:
      pixels: [sH, sW, 3] float32 in [0, 1].
      settings: the settings in effect.
    """

    pixels: np.ndarray
    settings: UpscaleSettings


class MemoryEstimate(NamedTuple):
    """Bytes that one picture needs.

    Attributes:
      device: on the accelerator while a batch of tiles runs: weights, temporaries, input and output. None where the
        backend does not tell.
      host: arrays in main memory (canvas, colour fix, picture), roughly.
      tiles: number of tiles.
      batch: how many run at a time.
      tile: (height, width) of one, in LR pixels.
    """

    device: int | None
    host: int
    tiles: int
    batch: int
    tile: tuple[int, int]

    def __str__(self) -> str:
        device = "unknown" if self.device is None else f"{self.device / 2**20:,.0f} MiB"
        return (
            f"{self.tiles} tiles of {self.tile[0]}x{self.tile[1]}, {self.batch} at a time: "
            f"{device} on the device, about {self.host / 2**20:,.0f} MiB in main memory"
        )


class Run(Protocol):
    """(params, image, progress, settings) → Upscaled; `settings` replaces those the upscaler was made with."""

    def __call__(
        self,
        params: Params,
        image: np.ndarray,
        progress: Progress | None = None,
        settings: UpscaleSettings | None = None,
    ) -> Upscaled:
        """Upscale one image."""
        ...


class Estimate(Protocol):
    """(params, height, width, settings) → MemoryEstimate."""

    def __call__(
        self, params: Params, height: int, width: int, settings: UpscaleSettings | None = None
    ) -> MemoryEstimate:
        """Estimate the memory for an image of this size; compiles the program that `run` then uses."""
        ...


class Upscaler(NamedTuple):
    """The two functions that `make_upscaler` gives; they share their compiled programs and nothing else.

    `run(params, image [H, W, 3] float32 in [0, 1], progress=None, settings=None)` → `Upscaled`;
    `estimate(params, height, width, settings=None)` → `MemoryEstimate`.
    """

    run: Run
    estimate: Estimate


def make_upscaler(recipe: Recipe, settings: UpscaleSettings) -> Upscaler:
    """Prepare a recipe for upscaling any number of pictures; it compiles once for each tile shape.

    A second upscaler of the same `Recipe` object takes over the compiled programs of the first.

    Args:
      recipe: its `sample` or `mean`, `frozen`, `scale` and `lr_multiple` are used.
      settings: how to upscale.

    Returns:
      the functions.

    Raises:
      ValueError: the recipe has no such mode, or its lr_multiple does not fit the tile and overlap.
    """
    check_settings(recipe, settings)
    frozen = jax.device_put(recipe.frozen)
    default = settings

    def run(
        params: Params,
        image: np.ndarray,
        progress: Progress | None = None,
        settings: UpscaleSettings | None = None,
    ) -> Upscaled:
        current = settings or default
        check_settings(recipe, current)
        _check_image(image)
        params = jax.device_put(params)
        source = _resized(recipe, image, current)
        while True:
            try:
                canvas = _run_tiles(recipe, params, frozen, source, current, progress)
                break
            except jax.errors.JaxRuntimeError as error:
                smaller = _smaller(recipe, current) if _out_of_memory(error) else None
                if smaller is None:
                    raise
            LOGGER.warning(
                "device memory ran out with tile %d and tile_batch %d: starting this picture again with %d and %d",
                current.tile,
                current.tile_batch,
                smaller.tile,
                smaller.tile_batch,
            )
            current = smaller
        fix_color(canvas, source, current.color_fix, _factor(recipe, current), current.color_strength, out=canvas)
        height, width = (side * recipe.scale for side in image.shape[:2])
        return Upscaled(resize_pillow(np.clip(canvas, 0, 1, out=canvas), (height, width)), current)

    def estimate(params: Params, height: int, width: int, settings: UpscaleSettings | None = None) -> MemoryEstimate:
        current = settings or default
        check_settings(recipe, current)
        size = _sizes(recipe, (height, width), current)[-1]
        return _estimate(recipe, jax.device_put(params), frozen, size, current)

    return Upscaler(run, estimate)


def upscale(
    recipe: Recipe,
    params: Params,
    image: np.ndarray,
    settings: UpscaleSettings,
    progress: Progress | None = None,
) -> np.ndarray:
    """Upscale one image; for several, `make_upscaler` puts frozen weights on the device once.

    Args:
      recipe: the method.
      params: its parameters.
      image: [H, W, 3] float32 in [0, 1].
      settings: how to upscale.
      progress: told how many tiles are done.

    Returns:
      [sH, sW, 3] float32 in [0, 1].

    Raises:
      ValueError: bad image, settings that do not fit the recipe, or a sampler whose result is not finite.
    """
    return make_upscaler(recipe, settings).run(params, image, progress).pixels


def upscale_picture(
    upscaler: Upscaler,
    scale: int,
    params: Params,
    picture: Picture,
    progress: Progress | None = None,
    settings: UpscaleSettings | None = None,
) -> tuple[Picture, UpscaleSettings]:
    """Upscale a picture with all it has: transparency, grey, depth, profile.

    Args:
      upscaler: from `make_upscaler`.
      scale: the recipe's.
      params: the recipe's parameters.
      picture: from `read_picture`.
      progress: told how many tiles are done.
      settings: instead of those that the upscaler was made with.

    Returns:
      (the large picture, the settings in effect).
    """
    result = upscaler.run(params, premultiplied(picture), progress, settings)
    return enlarged(picture, result.pixels, scale), result.settings


def check_settings(recipe: Recipe, settings: UpscaleSettings) -> None:
    """Raise ValueError where settings do not fit a recipe."""
    if settings.mode == "mean" and recipe.mean is None:
        raise ValueError(f"recipe {recipe.name!r} has no one-call mean: use mode 'sample'")
    if PROTOCOLS[settings.protocol].sizes is not None:
        if settings.mode != "sample":
            raise ValueError(f"protocol {settings.protocol!r} samples in many steps: use mode 'sample'")
        if recipe.sample_tiled is None:
            raise ValueError(
                f"protocol {settings.protocol!r} has tiles within the steps of a sampler, which recipe {recipe.name!r} "
                "does not know: use protocol 'framer_jax'"
            )
    PROTOCOLS[settings.protocol].check(settings.tile, settings.overlap, recipe.lr_multiple)


def _program(recipe: Recipe, settings: UpscaleSettings) -> Any:
    protocol = PROTOCOLS[settings.protocol]
    samplers: dict[str, Any] = {"sample": recipe.sample, "mean": recipe.mean, "tiled": recipe.sample_tiled}
    if protocol.sizes is None:
        return _jitted(samplers[settings.mode])
    side, overlap = settings.tile * recipe.scale, settings.overlap * recipe.scale
    return _jitted(samplers["tiled"], Tiling(side, overlap, settings.tile_batch, *protocol.autoencoder))


@lru_cache(maxsize=16)  # a sampler's programs outlive the upscaler; a sampler is a pure function, so they stay true
def _jitted(sampler: Any, *tiling: Tiling) -> Any:
    """One batch of tiles of one picture, jitted: (params, frozen, tiles [B, h, w, 3], keys [B], origins [B, 2])."""

    def run(params: Params, frozen: Params, tiles: jax.Array, keys: jax.Array, origins: jax.Array) -> jax.Array:
        found = sampler(params, frozen, tiles, NoiseField(keys, origins), *tiling)
        return found.astype(jnp.float32)  # [B, s h, s w, 3]

    return jax.jit(run)


def _factor(recipe: Recipe, settings: UpscaleSettings) -> int:
    """By how much the network's picture is larger than the one that it is given."""
    return recipe.scale if PROTOCOLS[settings.protocol].sizes is None else 1


def _sizes(recipe: Recipe, size: tuple[int, int], settings: UpscaleSettings) -> tuple[tuple[int, int], ...]:
    """To which a picture is resized before it comes to the network, one after the other."""
    sizes = PROTOCOLS[settings.protocol].sizes
    return (size,) if sizes is None else sizes(*size, recipe.scale, settings.tile, recipe.lr_multiple)


def _resized(recipe: Recipe, image: np.ndarray, settings: UpscaleSettings) -> np.ndarray:
    height, width, _ = image.shape
    return reduce(resize_pillow, _sizes(recipe, (height, width), settings), image)


def _layout(recipe: Recipe, height: int, width: int, settings: UpscaleSettings) -> tuple[TilePlan, int]:
    plan = PROTOCOLS[settings.protocol].plan(height, width, settings.tile, settings.overlap, recipe.lr_multiple)
    return plan, static_batch(len(plan.rows) * len(plan.columns), settings.tile_batch)


def _estimate(
    recipe: Recipe,
    params: Params,
    frozen: Params,
    size: tuple[int, int],
    settings: UpscaleSettings,
) -> MemoryEstimate:
    plan, batch = _layout(recipe, *size, settings)
    tiles, origins = np.zeros((batch, *plan.tile, 3), np.float32), np.zeros((batch, 2), np.int32)
    device = None
    try:
        keys = jnp.broadcast_to(jax.random.key(settings.seed), (batch,))
        lowered = _program(recipe, settings).lower(params, frozen, tiles, keys, origins)
        if (memory := lowered.compile().memory_analysis()) is not None:
            device = (
                memory.argument_size_in_bytes
                + memory.output_size_in_bytes
                + memory.temp_size_in_bytes
                - memory.alias_size_in_bytes
            )
    except jax.errors.JaxRuntimeError as error:
        if not _out_of_memory(error):  # some compilers know that a program is too large; `run` then makes it smaller
            raise
    canvas = size[0] * size[1] * _factor(recipe, settings) ** 2 * 3 * 4
    # the colour fix works on one channel: itself, its source and up to four temporaries, each a third of the canvas
    host = canvas if settings.color_fix == "none" else canvas * 3
    return MemoryEstimate(device, host, len(plan.rows) * len(plan.columns), batch, plan.tile)


def _run_tiles(
    recipe: Recipe,
    params: Params,
    frozen: Params,
    image: np.ndarray,
    settings: UpscaleSettings,
    progress: Progress | None,
) -> np.ndarray:
    """The blended canvas [sH, sW, 3] float32, not clipped."""
    height, width, _ = image.shape
    plan, batch = _layout(recipe, height, width, settings)
    scale, program = _factor(recipe, settings), _program(recipe, settings)
    expected = (batch, plan.tile[0] * scale, plan.tile[1] * scale, 3)
    protocol = PROTOCOLS[settings.protocol]
    weights = protocol.weights(plan, scale)
    canvas = np.zeros((height * scale, width * scale, 3), np.float32)
    key = jax.random.key(settings.seed)
    total = len(plan.rows) * len(plan.columns)
    if progress is not None:
        progress(0, total)
    for numbers, tiles, origins in tile_batches(pad_image(image, plan), plan, batch):
        filled = np.pad(numbers, (0, batch - len(numbers)), mode="edge")
        output = np.asarray(program(params, frozen, tiles, *protocol.noise(key, filled, origins)))
        if output.shape != expected:
            raise ValueError(f"recipe {recipe.name!r} gave {output.shape} for tiles that make {expected}")
        if not np.isfinite(output[: len(numbers)]).all():
            raise ValueError(f"recipe {recipe.name!r} gave values that are not finite: check its weights")
        if protocol.clips:
            output = np.clip(output, 0, 1)
        for number, tile in zip(numbers.tolist(), output, strict=False):  # the rest fills the batch
            add_tile(canvas, tile, number, plan, weights)
        if progress is not None:
            progress(int(numbers[-1]) + 1, total)
    return canvas


def _check_image(image: np.ndarray) -> None:
    if image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise ValueError(f"image of shape {image.shape}: give [height, width, 3]")
    if image.dtype != np.float32:
        raise ValueError(f"image of dtype {image.dtype}: give float32 in [0, 1] (uint8 pixels divided by 255)")
    lowest, highest = float(image.min()), float(image.max())
    if not (lowest >= 0 and highest <= 1):
        raise ValueError(f"image values from {lowest:g} to {highest:g}: give float32 in [0, 1]")


def _out_of_memory(error: Exception) -> bool:
    text = str(error)
    return "RESOURCE_EXHAUSTED" in text or "out of memory" in text.lower()


def _smaller(recipe: Recipe, settings: UpscaleSettings) -> UpscaleSettings | None:
    """Half the batch, then half the tile, as long as the overlap leaves a stride; None if nothing is left to halve."""
    if settings.tile_batch > 1:
        return replace(settings, tile_batch=settings.tile_batch // 2)
    if PROTOCOLS[settings.protocol].fixed:
        return None
    tile = settings.tile // 2 // recipe.lr_multiple * recipe.lr_multiple
    if tile < recipe.lr_multiple or settings.overlap > min(tile - recipe.lr_multiple, tile // 2):
        return None
    return replace(settings, tile=tile)
