"""Run a recipe's sampler over a whole image, tile by tile."""

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
from framer_jax.inference.images import ImageData, premultiply_alpha, replace_pixels
from framer_jax.inference.protocols import PROTOCOLS
from framer_jax.inference.resample import resize_pillow
from framer_jax.inference.settings import UpscaleSettings
from framer_jax.inference.tiler import TilePlan, add_tile, pad_image, static_batch_size, tile_batches
from framer_jax.recipes.base import Params, Recipe, Tiling

LOGGER = logging.getLogger(__name__)

Progress = Callable[[int, int], None]
"""Called with (tiles done, total tiles); starts again from 0 if the image is restarted with smaller tiles."""


class UpscaleResult(NamedTuple):
    """An SR image and the settings that produced it.

    Attributes:
      pixels: [sH, sW, 3] float32 in [0, 1].
      settings: the settings in effect, with a smaller batch or tile than requested if device memory ran out.
    """

    pixels: np.ndarray
    settings: UpscaleSettings


class MemoryEstimate(NamedTuple):
    """Memory that one image needs, in bytes.

    Attributes:
      device: accelerator memory while a batch of tiles runs: weights, temporaries, input and output. None if the
        backend does not report it.
      host: approximate size of the arrays in main memory (canvas, color fix, image).
      tiles: number of tiles.
      batch: number of tiles computed at a time.
      tile: (height, width) of a tile, LR pixels.
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


class UpscaleFunction(Protocol):
    """(params, image, progress, settings) → UpscaleResult; `settings` replaces those of `make_upscaler`."""

    def __call__(
        self,
        params: Params,
        image: np.ndarray,
        progress: Progress | None = None,
        settings: UpscaleSettings | None = None,
    ) -> UpscaleResult:
        """Upscale one image."""
        ...


class EstimateFunction(Protocol):
    """(params, height, width, settings) → MemoryEstimate."""

    def __call__(
        self, params: Params, height: int, width: int, settings: UpscaleSettings | None = None
    ) -> MemoryEstimate:
        """Estimate the memory for an image of this size; it compiles the program that `run` then uses."""
        ...


class Upscaler(NamedTuple):
    """The two functions that `make_upscaler` returns; all they share is their compiled programs.

    Attributes:
      run: (params, image [H, W, 3] float32 in [0, 1], progress=None, settings=None) → UpscaleResult.
      estimate: (params, height, width, settings=None) → MemoryEstimate.
    """

    run: UpscaleFunction
    estimate: EstimateFunction


def make_upscaler(recipe: Recipe, settings: UpscaleSettings) -> Upscaler:
    """Prepare a recipe for upscaling any number of images; it compiles once per tile shape.

    Upscalers of the same `Recipe` object share their compiled programs.

    Args:
      recipe: recipe whose `sample` or `mean`, `frozen`, `scale` and `lr_multiple` are used.
      settings: default settings of the returned functions.

    Raises:
      ValueError: the recipe does not have the mode, or its lr_multiple does not fit the tile and overlap.
    """
    check_settings(recipe, settings)
    frozen = jax.device_put(recipe.frozen)
    default = settings

    def run(
        params: Params,
        image: np.ndarray,
        progress: Progress | None = None,
        settings: UpscaleSettings | None = None,
    ) -> UpscaleResult:
        current = settings or default
        check_settings(recipe, current)
        _check_image(image)
        params = jax.device_put(params)
        network_input = _resize(recipe, image, current)
        while True:
            try:
                canvas = _run_tiles(recipe, params, frozen, network_input, current, progress)
                break
            except jax.errors.JaxRuntimeError as error:
                smaller = _reduced_settings(recipe, current) if _out_of_memory(error) else None
                if smaller is None:
                    raise
            LOGGER.warning(
                "device memory ran out with tile %d and tile_batch %d: starting this image again with %d and %d",
                current.tile,
                current.tile_batch,
                smaller.tile,
                smaller.tile_batch,
            )
            current = smaller
        scale = _network_scale(recipe, current)
        fix_color(canvas, network_input, current.color_fix, scale, current.color_strength, out=canvas)
        height, width = (side * recipe.scale for side in image.shape[:2])
        return UpscaleResult(resize_pillow(np.clip(canvas, 0, 1, out=canvas), (height, width)), current)

    def estimate(params: Params, height: int, width: int, settings: UpscaleSettings | None = None) -> MemoryEstimate:
        current = settings or default
        check_settings(recipe, current)
        size = _input_sizes(recipe, (height, width), current)[-1]
        return _estimate(recipe, jax.device_put(params), frozen, size, current)

    return Upscaler(run, estimate)


def upscale(
    recipe: Recipe,
    params: Params,
    image: np.ndarray,
    settings: UpscaleSettings,
    progress: Progress | None = None,
) -> np.ndarray:
    """Upscale one image; for several images, `make_upscaler` transfers frozen weights to the device only once.

    Args:
      recipe: the recipe.
      params: the recipe's parameters.
      image: LR image, [H, W, 3] float32 in [0, 1].
      settings: settings of the upscaling.
      progress: callback that receives the number of finished tiles.

    Returns:
      The SR image, [sH, sW, 3] float32 in [0, 1].

    Raises:
      ValueError: an invalid image, settings that do not fit the recipe, or a sampler whose result is not finite.
    """
    return make_upscaler(recipe, settings).run(params, image, progress).pixels


def upscale_image(
    upscaler: Upscaler,
    scale: int,
    params: Params,
    image: ImageData,
    progress: Progress | None = None,
    settings: UpscaleSettings | None = None,
) -> tuple[ImageData, UpscaleSettings]:
    """Upscale an image and keep its transparency, gray mode, bit depth and color profile.

    Args:
      upscaler: upscaler from `make_upscaler`.
      scale: the recipe's upsampling factor.
      params: the recipe's parameters.
      image: LR image from `read_image`.
      progress: callback that receives the number of finished tiles.
      settings: settings to use instead of the upscaler's.

    Returns:
      (the SR image, the settings in effect).
    """
    result = upscaler.run(params, premultiply_alpha(image), progress, settings)
    return replace_pixels(image, result.pixels, scale), result.settings


def check_settings(recipe: Recipe, settings: UpscaleSettings) -> None:
    """Raise ValueError if the settings do not fit the recipe."""
    if settings.mode == "mean" and recipe.mean is None:
        raise ValueError(f"recipe {recipe.name!r} has no one-step mean: use mode 'sample'")
    if PROTOCOLS[settings.protocol].sizes is not None:
        if settings.mode != "sample":
            raise ValueError(f"protocol {settings.protocol!r} samples in many steps: use mode 'sample'")
        if recipe.sample_tiled is None:
            raise ValueError(
                f"protocol {settings.protocol!r} tiles within the steps of the sampler, which recipe {recipe.name!r} "
                "does not support: use protocol 'framer_jax'"
            )
    protocol = PROTOCOLS[settings.protocol]
    protocol.check(settings.tile, settings.overlap, protocol.multiple(recipe))


def _program(recipe: Recipe, settings: UpscaleSettings) -> Any:
    protocol = PROTOCOLS[settings.protocol]
    samplers: dict[str, Any] = {"sample": recipe.sample, "mean": recipe.mean, "tiled": recipe.sample_tiled}
    if protocol.sizes is None:
        return _jitted(samplers[settings.mode])
    side, overlap = settings.tile * recipe.scale, settings.overlap * recipe.scale
    return _jitted(samplers["tiled"], Tiling(side, overlap, settings.tile_batch, *protocol.autoencoder))


@lru_cache(maxsize=16)  # samplers are pure functions, so their programs may outlive an upscaler
def _jitted(sampler: Any, *tiling: Tiling) -> Any:
    """The jitted sampler: (params, frozen, tiles [B, h, w, 3], keys [B], origins [B, 2]) → [B, s h, s w, 3] float32."""

    def run(params: Params, frozen: Params, tiles: jax.Array, keys: jax.Array, origins: jax.Array) -> jax.Array:
        return sampler(params, frozen, tiles, NoiseField(keys, origins), *tiling).astype(jnp.float32)

    return jax.jit(run)


def _network_scale(recipe: Recipe, settings: UpscaleSettings) -> int:
    """Ratio of the sides of the sampler's output and input; 1 if the protocol upsamples the image first."""
    return recipe.scale if PROTOCOLS[settings.protocol].sizes is None else 1


def _input_sizes(recipe: Recipe, size: tuple[int, int], settings: UpscaleSettings) -> tuple[tuple[int, int], ...]:
    """The sizes to which an image is resized in turn; the last one is the size of the sampler's input."""
    sizes = PROTOCOLS[settings.protocol].sizes
    return (size,) if sizes is None else sizes(*size, recipe.scale, settings.tile, recipe.lr_multiple)


def _resize(recipe: Recipe, image: np.ndarray, settings: UpscaleSettings) -> np.ndarray:
    height, width, _ = image.shape
    return reduce(resize_pillow, _input_sizes(recipe, (height, width), settings), image)


def _plan_batches(recipe: Recipe, height: int, width: int, settings: UpscaleSettings) -> tuple[TilePlan, int]:
    """The tiles of an image and how many of them are computed at a time."""
    protocol = PROTOCOLS[settings.protocol]
    plan = protocol.plan(height, width, settings.tile, settings.overlap, protocol.multiple(recipe))
    return plan, static_batch_size(plan.grid.num_tiles, settings.tile_batch)


def _estimate(
    recipe: Recipe,
    params: Params,
    frozen: Params,
    size: tuple[int, int],
    settings: UpscaleSettings,
) -> MemoryEstimate:
    plan, batch = _plan_batches(recipe, *size, settings)
    tiles, origins = np.zeros((batch, *plan.grid.tile, 3), np.float32), np.zeros((batch, 2), np.int32)
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
        if not _out_of_memory(error):  # some compilers reject a program that is too large; `run` then reduces it
            raise
    canvas = size[0] * size[1] * _network_scale(recipe, settings) ** 2 * 3 * 4
    # the color fix processes one channel: it, its source and up to four temporaries, each a third of the canvas
    host = canvas if settings.color_fix == "none" else canvas * 3
    return MemoryEstimate(device, host, plan.grid.num_tiles, batch, plan.grid.tile)


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
    plan, batch = _plan_batches(recipe, height, width, settings)
    scale, program = _network_scale(recipe, settings), _program(recipe, settings)
    expected = (batch, plan.grid.tile[0] * scale, plan.grid.tile[1] * scale, 3)
    protocol = PROTOCOLS[settings.protocol]
    weights = protocol.weights(plan, scale)
    canvas = np.zeros((height * scale, width * scale, 3), np.float32)
    key = jax.random.key(settings.seed)
    total = plan.grid.num_tiles
    if progress is not None:
        progress(0, total)
    for indices, tiles, origins in tile_batches(pad_image(image, plan), plan, batch):
        filled = np.pad(indices, (0, batch - len(indices)), mode="edge")
        output = np.asarray(program(params, frozen, tiles, *protocol.noise(key, filled, origins)))
        if output.shape != expected:
            raise ValueError(f"recipe {recipe.name!r} gave {output.shape} for tiles, expected {expected}")
        if not np.isfinite(output[: len(indices)]).all():
            raise ValueError(f"recipe {recipe.name!r} gave values that are not finite: check its weights")
        if protocol.clips:
            output = np.clip(output, 0, 1)
        for index, tile in zip(indices.tolist(), output, strict=False):  # without the copies that fill the batch
            add_tile(canvas, tile, index, plan, weights)
        if progress is not None:
            progress(int(indices[-1]) + 1, total)
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


def _reduced_settings(recipe: Recipe, settings: UpscaleSettings) -> UpscaleSettings | None:
    """Settings with half the batch or, from a batch of 1, half the tile; None if neither can be halved.

    A tile is halved only if the overlap still leaves a stride, and if it is not a fixed part of the protocol.
    """
    if settings.tile_batch > 1:
        return replace(settings, tile_batch=settings.tile_batch // 2)
    if PROTOCOLS[settings.protocol].fixed:
        return None
    tile = settings.tile // 2 // recipe.lr_multiple * recipe.lr_multiple
    if tile < recipe.lr_multiple or settings.overlap > min(tile - recipe.lr_multiple, tile // 2):
        return None
    return replace(settings, tile=tile)
