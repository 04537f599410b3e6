"""The compiled samplers that upscaling runs, and the tiles that they run on."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp

from framer_jax.diffusion.noise import NoiseField
from framer_jax.inference.protocols import PROTOCOLS
from framer_jax.inference.settings import UpscaleSettings
from framer_jax.inference.tiler import ImagePart, TilePlan, static_batch_size
from framer_jax.recipes.base import Params, Recipe, Tiling


def sampler_program(recipe: Recipe, settings: UpscaleSettings) -> Any:
    """The jitted sampler that the settings select, see `_jitted`; recipes' samplers share their programs."""
    protocol = PROTOCOLS[settings.protocol]
    if settings.preview and recipe.stepwise is not None:
        return _jitted(recipe.stepwise.sample, settings.preview)
    samplers: dict[str, Any] = {"sample": recipe.sample, "mean": recipe.mean, "tiled": recipe.sample_tiled}
    if protocol.sizes is None:
        return _jitted(samplers[settings.mode])
    side, overlap = settings.tile * recipe.scale, settings.overlap * recipe.scale
    return _jitted(samplers["tiled"], Tiling(side, overlap, settings.tile_batch, *protocol.autoencoder))


@lru_cache(maxsize=16)  # samplers are pure functions, so their programs may outlive an upscaler
def _jitted(sampler: Any, *static: Tiling | int) -> Any:
    """The jitted sampler: (params, frozen, tiles [B, h, w, 3], keys [B], origins [B, 2]) → [B, s h, s w, C] float32.

    C is 3 times the number of `preview_steps`, and of the result.
    """

    def run(params: Params, frozen: Params, tiles: jax.Array, keys: jax.Array, origins: jax.Array) -> jax.Array:
        return sampler(params, frozen, tiles, NoiseField(keys, origins), *static).astype(jnp.float32)

    return jax.jit(run)


def preview_steps(recipe: Recipe, settings: UpscaleSettings) -> tuple[int, ...]:
    """The numbers of steps after which the settings ask for a preview."""
    return recipe.stepwise.preview_steps(settings.preview) if settings.preview and recipe.stepwise else ()


def network_scale(recipe: Recipe, settings: UpscaleSettings) -> int:
    """Ratio of the sides of the sampler's output and input; 1 if the protocol upsamples the image first."""
    return recipe.scale if PROTOCOLS[settings.protocol].sizes is None else 1


def input_sizes(recipe: Recipe, size: tuple[int, int], settings: UpscaleSettings) -> tuple[tuple[int, int], ...]:
    """The sizes to which an image is resized in turn; the last one is the size of the sampler's input."""
    sizes = PROTOCOLS[settings.protocol].sizes
    return (size,) if sizes is None else sizes(*size, recipe.scale, settings.tile, recipe.lr_multiple)


def image_parts(height: int, width: int, settings: UpscaleSettings) -> tuple[ImagePart, ...]:
    """The parts of an image that are upscaled one after the other; most protocols have one, the whole image."""
    return PROTOCOLS[settings.protocol].parts(height, width, settings.tile, settings.overlap)


def plan_batches(recipe: Recipe, height: int, width: int, settings: UpscaleSettings) -> tuple[TilePlan, int]:
    """The tiles of a part of an image and how many of them are computed at a time."""
    protocol = PROTOCOLS[settings.protocol]
    plan = protocol.plan(height, width, settings.tile, settings.overlap, protocol.multiple(recipe))
    return plan, static_batch_size(plan.grid.num_tiles, settings.tile_batch)


def out_of_memory(error: Exception) -> bool:
    """Whether an error of the device says that its memory ran out."""
    text = str(error)
    return "RESOURCE_EXHAUSTED" in text or "out of memory" in text.lower()
