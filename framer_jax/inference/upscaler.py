"""Run a recipe's sampler over a whole image, tile by tile."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import reduce
from types import MappingProxyType
from typing import NamedTuple, Protocol

import jax
import numpy as np

from framer_jax.images.image_data import ImageData
from framer_jax.inference.color_fix import fix_color
from framer_jax.inference.computed_tiles import Progress, computed_tiles, result_strips
from framer_jax.inference.estimate import MemoryEstimate, check_host_memory, estimate_memory
from framer_jax.inference.programs import (
    image_parts,
    input_sizes,
    network_scale,
    out_of_memory,
    plan_batches,
    preview_steps,
    tile_devices,
)
from framer_jax.inference.protocols import PROTOCOLS
from framer_jax.inference.resample import resize_pillow, upsample_bicubic
from framer_jax.inference.result_image import blended, extended, finished
from framer_jax.inference.result_settings import ResultSettings
from framer_jax.inference.settings import UpscaleSettings
from framer_jax.inference.tiler import add_tile, paste_part
from framer_jax.inference.transparency import is_opaque, premultiply_alpha, upsampled_alpha, with_result
from framer_jax.recipes.base import Params, Recipe

LOGGER = logging.getLogger(__name__)

OWN_SIZE = ResultSettings()


class UpscaleResult(NamedTuple):
    """An SR image and the settings that produced it.

    Attributes:
      pixels: [sH, sW, 3] float32 in [0, 1].
      settings: the settings in effect, with a smaller batch or tile than requested if device memory ran out.
      previews: number of steps → what the sampler had estimated after them, as `pixels`; with `settings.preview`.
    """

    pixels: np.ndarray
    settings: UpscaleSettings
    previews: Mapping[int, np.ndarray] = MappingProxyType({})


class UpscaledImage(NamedTuple):
    """As `UpscaleResult`, with the transparency, gray mode, bit depth and color profile of the LR image."""

    image: ImageData
    settings: UpscaleSettings
    previews: Mapping[int, ImageData] = MappingProxyType({})


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
        self,
        params: Params,
        height: int,
        width: int,
        settings: UpscaleSettings | None = None,
        streamed: bool = False,
    ) -> MemoryEstimate:
        """Estimate the memory for an image of this size; it compiles the program that `run` then uses."""
        ...


class StripsFunction(Protocol):
    """(params, image, progress, settings) → strips of the result, for settings with which it can be streamed."""

    def __call__(
        self,
        params: Params,
        image: np.ndarray,
        progress: Progress | None = None,
        settings: UpscaleSettings | None = None,
    ) -> Iterator[np.ndarray]:
        """Upscale one image in strips."""
        ...


class Upscaler(NamedTuple):
    """The functions that `make_upscaler` returns; all they share is their compiled programs.

    Attributes:
      run: (params, image [H, W, 3] float32 in [0, 1], progress=None, settings=None) → UpscaleResult.
      estimate: (params, height, width, settings=None, streamed=False) → MemoryEstimate.
      strips: as `run`, for images that can be streamed (framer_jax.inference.computed_tiles): the result in strips
        [rows, sW, 3] float32 in [0, 1], from top to bottom; where device memory runs out, the caller starts again.
    """

    run: UpscaleFunction
    estimate: EstimateFunction
    strips: StripsFunction


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
        check_host_memory(recipe, image.shape[0], image.shape[1], current)
        params = jax.device_put(params)
        network_input = _resize(recipe, image, current)
        canvas, current = _run_within_memory(recipe, params, frozen, network_input, current, progress)
        size = (image.shape[0] * recipe.scale, image.shape[1] * recipe.scale)

        def finished(canvas: np.ndarray) -> np.ndarray:
            scale = network_scale(recipe, current)
            fix_color(canvas, network_input, current.color_fix, scale, current.color_strength, out=canvas)
            return resize_pillow(np.clip(canvas, 0, 1, out=canvas), size)

        steps = preview_steps(recipe, current)
        pixels, *previews = (finished(np.ascontiguousarray(part)) for part in np.split(canvas, 1 + len(steps), axis=2))
        return UpscaleResult(pixels, current, dict(zip(steps, previews, strict=True)))

    def strips(
        params: Params,
        image: np.ndarray,
        progress: Progress | None = None,
        settings: UpscaleSettings | None = None,
    ) -> Iterator[np.ndarray]:
        current = settings or default
        check_settings(recipe, current)
        _check_image(image)
        return result_strips(recipe, jax.device_put(params), frozen, image, current, progress)

    def estimate(
        params: Params, height: int, width: int, settings: UpscaleSettings | None = None, streamed: bool = False
    ) -> MemoryEstimate:
        current = settings or default
        check_settings(recipe, current)
        check_host_memory(recipe, height, width, current, streamed=streamed)  # compiling takes as much
        return estimate_memory(recipe, jax.device_put(params), frozen, (height, width), current, streamed)

    return Upscaler(run, estimate, strips)


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
    result: ResultSettings = OWN_SIZE,
) -> UpscaledImage:
    """Upscale an image and keep its transparency, gray mode, bit depth, color profile and metadata.

    Args:
      upscaler: upscaler from `make_upscaler`.
      scale: the recipe's upsampling factor.
      params: the recipe's parameters.
      image: LR image from `read_image`.
      progress: callback that receives the number of finished tiles; it begins again for transparency.
      settings: settings to use instead of the upscaler's.
      result: size and edges of the result, and how its transparency is upsampled.

    Returns:
      the SR image, the settings in effect, and the previews that they ask for.
    """
    source, size = extended(image, result), image.pixels.shape[:2]
    upscaled = upscaler.run(params, premultiply_alpha(source), progress, settings)
    if result.alpha == "network" and source.alpha is not None and not is_opaque(source):
        gray = np.repeat(source.alpha[:, :, None], 3, axis=2)
        alpha = upscaler.run(params, gray, progress, replace(upscaled.settings, preview=0)).pixels.mean(
            axis=2, dtype=np.float32
        )
    else:
        alpha = upsampled_alpha(source, scale)
    alpha = None if alpha is None else finished(alpha, size, scale, result)

    smooth = None if result.strength == 1 else upsample_bicubic(premultiply_alpha(source), scale)

    def complete(pixels: np.ndarray) -> ImageData:
        pixels = pixels if smooth is None else blended(pixels, smooth, result.strength)
        return with_result(image, finished(pixels, size, scale, result), alpha)

    previews = {step: complete(pixels) for step, pixels in upscaled.previews.items()}
    return UpscaledImage(complete(upscaled.pixels), upscaled.settings, previews)


def check_settings(recipe: Recipe, settings: UpscaleSettings) -> None:
    """Raise ValueError if the settings do not fit the recipe."""
    if settings.mode == "mean" and recipe.mean is None:
        raise ValueError(f"recipe {recipe.name!r} has no one-step mean: use mode 'sample'")
    if settings.preview:
        _check_preview(recipe, settings)
    if PROTOCOLS[settings.protocol].sizes is not None:
        if settings.mode != "sample":
            raise ValueError(f"protocol {settings.protocol!r} samples in many steps: use mode 'sample'")
        if recipe.sample_tiled is None:
            raise ValueError(
                f"protocol {settings.protocol!r} tiles within the steps of the sampler, which recipe {recipe.name!r} "
                "does not support: use protocol 'framer_jax'"
            )
    tile_devices(settings, 1)
    protocol = PROTOCOLS[settings.protocol]
    protocol.check(settings.tile, settings.overlap, protocol.multiple(recipe))


def _check_preview(recipe: Recipe, settings: UpscaleSettings) -> None:
    if settings.mode != "sample" or PROTOCOLS[settings.protocol].sizes is not None:
        raise ValueError(
            f"preview {settings.preview} shows the steps of mode 'sample' with tiles of the LR image, and this is mode "
            f"{settings.mode!r} with protocol {settings.protocol!r}: omit it, or use protocol 'framer_jax'"
        )
    if recipe.stepwise is None:
        raise ValueError(f"preview {settings.preview}: recipe {recipe.name!r} samples in one step: omit it")
    if settings.preview >= recipe.stepwise.steps:
        raise ValueError(
            f"preview {settings.preview} must be less than the {recipe.stepwise.steps} steps of the sampler, the last "
            "of which gives the result"
        )


def _resize(recipe: Recipe, image: np.ndarray, settings: UpscaleSettings) -> np.ndarray:
    height, width, _ = image.shape
    return reduce(resize_pillow, input_sizes(recipe, (height, width), settings), image)


def _run_within_memory(
    recipe: Recipe,
    params: Params,
    frozen: Params,
    image: np.ndarray,
    settings: UpscaleSettings,
    progress: Progress | None,
) -> tuple[np.ndarray, UpscaleSettings]:
    """`_run_parts`, again with smaller tiles or batches where device memory runs out: (canvas, settings used)."""
    while True:
        try:
            return _run_parts(recipe, params, frozen, image, settings, progress), settings
        except jax.errors.JaxRuntimeError as error:
            smaller = reduced_settings(recipe, settings) if out_of_memory(error) else None
            if smaller is None:
                raise
        LOGGER.warning(
            "device memory ran out with tile %d and tile_batch %d: starting this image again with %d and %d",
            settings.tile,
            settings.tile_batch,
            smaller.tile,
            smaller.tile_batch,
        )
        settings = smaller


def _run_parts(
    recipe: Recipe,
    params: Params,
    frozen: Params,
    image: np.ndarray,
    settings: UpscaleSettings,
    progress: Progress | None,
) -> np.ndarray:
    """The canvas of the whole image, see `_run_tiles`; progress counts its parts if it has several."""
    height, width, _ = image.shape
    parts = image_parts(height, width, settings)
    if len(parts) == 1:
        return _run_tiles(recipe, params, frozen, image, settings, progress)
    scale = network_scale(recipe, settings)
    channels = 3 * (1 + len(preview_steps(recipe, settings)))
    canvas = np.zeros((height * scale, width * scale, channels), np.float32)
    if progress is not None:
        progress(0, len(parts))
    for done, part in enumerate(parts, start=1):
        pixels = image[part.rows, part.columns]
        paste_part(canvas, _run_tiles(recipe, params, frozen, pixels, settings, None, part.origin), part, scale)
        if progress is not None:
            progress(done, len(parts))
    return canvas


def _run_tiles(
    recipe: Recipe,
    params: Params,
    frozen: Params,
    image: np.ndarray,
    settings: UpscaleSettings,
    progress: Progress | None,
    origin: tuple[int, int] = (0, 0),
) -> np.ndarray:
    """The blended canvas [sH, sW, 3] float32, not clipped; with previews, next to it along the channels.

    `origin` is where the image begins in the whole one, to which noise belongs.
    """
    height, width, _ = image.shape
    plan, scale = plan_batches(recipe, height, width, settings).plan, network_scale(recipe, settings)
    weights = PROTOCOLS[settings.protocol].weights(plan, scale)
    channels = 3 * (1 + len(preview_steps(recipe, settings)))
    canvas = np.zeros((height * scale, width * scale, channels), np.float32)
    for index, tile in computed_tiles(recipe, params, frozen, image, settings, progress, origin):
        add_tile(canvas, tile, index, plan, weights)
    return canvas


def _check_image(image: np.ndarray) -> None:
    if image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise ValueError(f"image of shape {image.shape}: give [height, width, 3]")
    if image.dtype != np.float32:
        raise ValueError(f"image of dtype {image.dtype}: give float32 in [0, 1] (uint8 pixels divided by 255)")
    lowest, highest = float(image.min()), float(image.max())
    if not (lowest >= 0 and highest <= 1):
        raise ValueError(f"image values from {lowest:g} to {highest:g}: give float32 in [0, 1]")


def reduced_settings(recipe: Recipe, settings: UpscaleSettings) -> UpscaleSettings | None:
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
