"""The memory that upscaling an image needs, and its refusal where there is less."""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from framer_jax.inference.memory import check_memory, host_bytes
from framer_jax.inference.programs import (
    image_parts,
    input_sizes,
    network_scale,
    out_of_memory,
    place_weights,
    plan_batches,
    preview_steps,
    sampler_program,
)
from framer_jax.inference.protocols import DEFAULT_PROTOCOL
from framer_jax.inference.settings import UpscaleSettings
from framer_jax.recipes.base import Params, Recipe


class MemoryEstimate(NamedTuple):
    """Memory that one image needs, in bytes.

    Attributes:
      device: accelerator memory while a batch of tiles runs: weights, temporaries, input and output. None if the
        backend does not report it.
      host: approximate size of the arrays in main memory (canvas, color fix, image).
      tiles: number of tiles.
      batch: number of tiles computed at a time.
      tile: (height, width) of a tile, LR pixels.
      temporary: the part of `device` that is taken while an image is computed, which the weights are not; or None.
      devices: number of devices that compute tiles at the same time.
      streamed: whether the result is computed and written in strips.
    """

    device: int | None
    host: int
    tiles: int
    batch: int
    tile: tuple[int, int]
    temporary: int | None = None
    devices: int = 1
    streamed: bool = False

    def __str__(self) -> str:
        device = "unknown" if self.device is None else f"{self.device / 2**20:,.0f} MiB"
        where = "the device" if self.devices == 1 else f"each of {self.devices} devices"
        tiles = "1 tile" if self.tiles == 1 else f"{self.tiles} tiles"
        return (
            f"{tiles} of {self.tile[0]}x{self.tile[1]}, {self.batch} at a time: "
            f"{device} on {where}, about {self.host / 2**20:,.0f} MiB in main memory"
            + (" (the result is written in strips)" if self.streamed else "")
        )


def check_host_memory(
    recipe: Recipe,
    height: int,
    width: int,
    settings: UpscaleSettings,
    alpha: bool = False,
    device: int = 0,
    streamed: bool = False,
) -> None:
    """Refuse an LR image that needs more main memory than there is.

    Args:
      recipe: the recipe.
      height: height of the LR image.
      width: its width.
      settings: settings of the upscaling.
      alpha: whether it is transparent.
      device: bytes of the compiled program, where the device computes in main memory.
      streamed: whether the result is computed and written in strips.

    Raises:
      MemoryError: it needs more; the message says how much.
    """
    sizes = input_sizes(recipe, (height, width), settings)
    what, remedy = f"upscaling {width}x{height} by {recipe.scale}", "cut the image into parts"
    if settings.protocol != DEFAULT_PROTOCOL and sizes[-1] != (height, width):
        what += f" with protocol {settings.protocol!r}, which first resizes it to {sizes[-1][1]}x{sizes[-1][0]},"
        remedy += f", or use protocol {DEFAULT_PROTOCOL!r}"
    host = _streamed_bytes if streamed else _host_bytes
    check_memory(host(recipe, (height, width), settings, alpha) + device, what, remedy)


def estimate_memory(
    recipe: Recipe,
    params: Params,
    frozen: Params,
    image_size: tuple[int, int],
    settings: UpscaleSettings,
    streamed: bool = False,
) -> MemoryEstimate:
    """The memory that an image of this size needs; it compiles the program that upscaling then uses."""
    parts = image_parts(*input_sizes(recipe, image_size, settings)[-1], settings)
    largest = max((part.size for part in parts), key=math.prod)
    plan, batch, devices = plan_batches(recipe, *largest, settings)
    params, frozen = place_weights(params, devices), place_weights(frozen, devices)
    tiles, origins = np.zeros((batch, *plan.grid.tile, 3), np.float32), np.zeros((batch, 2), np.int32)
    device = None
    try:
        keys = jnp.broadcast_to(jax.random.key(settings.seed), (batch,))
        lowered = sampler_program(recipe, settings, devices).lower(params, frozen, tiles, keys, origins)
        if (memory := lowered.compile().memory_analysis()) is not None:
            device = (
                memory.argument_size_in_bytes
                + memory.output_size_in_bytes
                + memory.temp_size_in_bytes
                - memory.alias_size_in_bytes
            )
    except jax.errors.JaxRuntimeError as error:
        if not out_of_memory(error):  # some compilers reject a program that is too large; `run` then reduces it
            raise
    host = (_streamed_bytes if streamed else _host_bytes)(recipe, image_size, settings, alpha=False)
    weights = sum(leaf.nbytes for leaf in jax.tree.leaves((params, frozen)) if hasattr(leaf, "nbytes"))
    temporary = None if device is None else max(0, device - weights)
    tiles_in_all = plan.grid.num_tiles * len(parts)
    return MemoryEstimate(device, host, tiles_in_all, batch, plan.grid.tile, temporary, len(devices), streamed)


def _streamed_bytes(recipe: Recipe, image_size: tuple[int, int], settings: UpscaleSettings, alpha: bool) -> int:
    """As `_host_bytes`, with a canvas for one row of tiles, a strip that is written and its encoded copies."""
    plan, batch, _ = plan_batches(recipe, *image_size, settings)
    height, width = (side * network_scale(recipe, settings) for side in plan.grid.tile)
    strip = height * image_size[1] * network_scale(recipe, settings)
    return host_bytes(2 * math.prod(image_size) + batch * height * width, 2 * strip)


def _host_bytes(recipe: Recipe, image_size: tuple[int, int], settings: UpscaleSettings, alpha: bool) -> int:
    sizes = input_sizes(recipe, image_size, settings)
    pixels = [height * width for height, width in sizes]
    images = 1 + len(preview_steps(recipe, settings))
    canvas = images * pixels[-1] * network_scale(recipe, settings) ** 2
    resized = sum(pixels) + canvas if sizes[-1] != image_size else 0  # and the result, to the size that was asked for
    return host_bytes(image_size[0] * image_size[1], canvas, resized, settings.color_fix != "none", alpha)
