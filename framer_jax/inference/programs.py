"""The compiled samplers that upscaling runs, and the tiles that they run on."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from framer_jax.diffusion.noise import NoiseField
from framer_jax.inference.protocols import PROTOCOLS
from framer_jax.inference.settings import UpscaleSettings
from framer_jax.inference.tiler import ImagePart, TilePlan, static_batch_size
from framer_jax.recipes.base import Params, Recipe, Tiling


def tile_devices(settings: UpscaleSettings, tiles: int) -> tuple[jax.Device, ...]:
    """The devices that compute tiles at the same time: one for an image of fewer tiles than devices.

    Raises:
      ValueError: the settings ask for more devices than this process has.
    """
    local = jax.local_devices()
    if settings.devices > len(local):
        raise ValueError(f"devices is {settings.devices}: this process has {len(local)}")
    count = settings.devices or (1 if local[0].platform == "cpu" else len(local))
    return tuple(local[: count if tiles >= count else 1])


def sampler_program(recipe: Recipe, settings: UpscaleSettings, devices: tuple[jax.Device, ...] = ()) -> Any:
    """The jitted sampler that the settings select, see `_jitted`; recipes' samplers share their programs."""
    protocol = PROTOCOLS[settings.protocol]
    if settings.preview and recipe.stepwise is not None:
        return _jitted(recipe.stepwise.sample, devices, settings.preview)
    samplers: dict[str, Any] = {"sample": recipe.sample, "mean": recipe.mean, "tiled": recipe.sample_tiled}
    if protocol.sizes is None:
        return _jitted(samplers[settings.mode], devices)
    side, overlap = settings.tile * recipe.scale, settings.overlap * recipe.scale
    return _jitted(samplers["tiled"], devices, Tiling(side, overlap, settings.tile_batch, *protocol.autoencoder))


@lru_cache(maxsize=16)  # samplers are pure functions, so their programs may outlive an upscaler
def _jitted(sampler: Any, devices: tuple[jax.Device, ...], *static: Tiling | int) -> Any:
    """The jitted sampler: (params, frozen, tiles [B, h, w, 3], keys [B], origins [B, 2]) → [B, s h, s w, C] float32.

    C is 3 times the number of `preview_steps`, and of the result. Of several devices, each computes B / n tiles.
    """

    def run(params: Params, frozen: Params, tiles: jax.Array, keys: jax.Array, origins: jax.Array) -> jax.Array:
        return sampler(params, frozen, tiles, NoiseField(keys, origins), *static).astype(jnp.float32)

    if len(devices) < 2:
        return jax.jit(run)
    mesh = _mesh(devices)
    part, whole = PartitionSpec(mesh.axis_names), PartitionSpec()
    # Whether a carried value differs between devices is of no concern: none is shared.
    split = jax.shard_map(run, mesh=mesh, in_specs=(whole, whole, part, part, part), out_specs=part, check_vma=False)
    return jax.jit(split)


def place_weights(weights: Params, devices: tuple[jax.Device, ...]) -> Params:
    """Weights on each of the devices; those that are there already are not copied."""
    placed: Params = jax.device_put(
        weights, NamedSharding(_mesh(devices), PartitionSpec()) if len(devices) > 1 else None
    )
    return placed


def _mesh(devices: tuple[jax.Device, ...]) -> Mesh:
    return Mesh(np.array(devices), ("tiles",))


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


class Batches(NamedTuple):
    """The tiles of a part of an image, how many are computed at a time on all devices together, and these devices."""

    plan: TilePlan
    size: int
    devices: tuple[jax.Device, ...]


def plan_batches(recipe: Recipe, height: int, width: int, settings: UpscaleSettings) -> Batches:
    """How the tiles of a part of an image are computed.

    Raises:
      ValueError: as of `tile_devices`, or tiles that do not suit the recipe.
    """
    protocol = PROTOCOLS[settings.protocol]
    plan = protocol.plan(height, width, settings.tile, settings.overlap, protocol.multiple(recipe))
    devices = tile_devices(settings, plan.grid.num_tiles)
    each = static_batch_size(-(-plan.grid.num_tiles // len(devices)), settings.tile_batch)
    return Batches(plan, each * len(devices), devices)


def out_of_memory(error: Exception) -> bool:
    """Whether an error of the device says that its memory ran out."""
    text = str(error)
    return "RESOURCE_EXHAUSTED" in text or "out of memory" in text.lower()
