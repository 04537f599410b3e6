"""The tiles of an image, computed batch by batch; and the result in strips, which needs no whole canvas."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import chain
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from framer_jax.inference.memory import available_memory
from framer_jax.inference.programs import (
    image_parts,
    network_scale,
    place_weights,
    plan_batches,
    preview_steps,
    sampler_program,
)
from framer_jax.inference.protocols import PROTOCOLS
from framer_jax.inference.settings import UpscaleSettings
from framer_jax.inference.tiler import add_tile, pad_image, tile_batches
from framer_jax.recipes.base import Params, Recipe

Progress = Callable[[int, int], None]
"""Called with (tiles done, total tiles); starts again from 0 if the image is restarted with smaller tiles."""

Call = tuple[np.ndarray, tuple[Any, ...]]
"""The indices of a batch of tiles, and the arguments of the program that computes it."""

BATCHES = 4
"""Batches of tiles that a CPU computes at the same time at most."""

STREAMED_PIXELS = 2**25
"""Number of pixels from which a result is computed in strips, if it can be: a canvas of 384 MiB."""


STRIP = 64
"""Rows of the result in a strip at most."""


class NotFiniteError(ValueError):
    """A sampler gave values that are not finite."""


def computed_tiles(
    recipe: Recipe,
    params: Params,
    frozen: Params,
    image: np.ndarray,
    settings: UpscaleSettings,
    progress: Progress | None = None,
    origin: tuple[int, int] = (0, 0),
) -> Iterator[tuple[int, np.ndarray]]:
    """Compute the tiles of an image in row-major order; with several devices, a batch on all of them.

    On a CPU several batches are computed at a time, see `in_order`.

    Args:
      recipe: the recipe.
      params: its parameters.
      frozen: its frozen weights.
      image: [H, W, 3] float32 in [0, 1].
      settings: settings of the upscaling.
      progress: callback that receives the number of finished tiles.
      origin: where the image begins in the whole one, to which noise belongs.

    Yields:
      (index of the tile in its plan, its result [s h, s w, C] float32), without the copies that fill a batch.

    Raises:
      NotFiniteError: a value of a result is not finite.
      ValueError: the recipe gives results of another shape.
    """
    height, width, _ = image.shape
    plan, batch, devices = plan_batches(recipe, height, width, settings)
    scale, program = network_scale(recipe, settings), sampler_program(recipe, settings, devices)
    params, frozen = place_weights(params, devices), place_weights(frozen, devices)
    channels = 3 * (1 + len(preview_steps(recipe, settings)))
    expected = (batch, plan.grid.tile[0] * scale, plan.grid.tile[1] * scale, channels)
    protocol = PROTOCOLS[settings.protocol]
    key, shift = jax.random.key(settings.seed), np.asarray(origin, np.int32)
    total = plan.grid.num_tiles
    if progress is not None:
        progress(0, total)

    def calls() -> Iterator[Call]:
        for indices, tiles, origins in tile_batches(pad_image(image, plan), plan, batch):
            filled = np.pad(indices, (0, batch - len(indices)), mode="edge")
            yield indices, (params, frozen, tiles, *protocol.noise(key, filled, origins + shift))

    several = len(devices) == 1 and devices[0].platform == "cpu" and total > batch
    for indices, output in in_order(program, calls(), several):
        if output.shape != expected:
            raise ValueError(f"recipe {recipe.name!r} gave {output.shape} for tiles, expected {expected}")
        if not np.isfinite(output[: len(indices)]).all():
            raise _not_finite(recipe, params, frozen)
        if protocol.clips:
            output = np.clip(output, 0, 1)
        yield from zip(indices.tolist(), output, strict=False)
        if progress is not None:
            progress(int(indices[-1]) + 1, total)


def in_order(program: Any, calls: Iterator[Call], several: bool) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Call a program for batches of tiles, several at a time if memory allows it, with the same results.

    One batch does not keep all cores of a CPU busy.

    Args:
      program: a jitted function.
      calls: the calls, at least one, all of the same shapes.
      several: whether there are several of them, on a CPU.

    Yields:
      (indices, output [B, s h, s w, C] float32), in the order of the calls.
    """
    if not several:
        for indices, values in calls:
            yield indices, _output(program, values)
        return
    first = next(calls)
    # Threads do not see what this one has set for JAX, such as a precision: they run what is compiled here.
    compiled = program.lower(*first[1]).compile()
    threads, waiting = _batches_at_a_time(compiled), deque[tuple[np.ndarray, Future[np.ndarray]]]()
    with ThreadPoolExecutor(threads) as pool:
        for indices, values in chain((first,), calls):
            if len(waiting) == threads:
                done, output = waiting.popleft()
                yield done, output.result()
            waiting.append((indices, pool.submit(_output, compiled, values)))
        for done, output in waiting:
            yield done, output.result()


def _output(run: Any, values: tuple[Any, ...]) -> np.ndarray:
    return np.asarray(run(*values))


def _batches_at_a_time(compiled: Any) -> int:
    """As many as there are cores, at most `BATCHES`, and no more than fit into an eighth of the free memory."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    available, analysis = available_memory(), compiled.memory_analysis()
    if available is None or analysis is None:
        return 1
    each = analysis.temp_size_in_bytes + analysis.output_size_in_bytes
    return max(1, min(cores, BATCHES, available // 8 // max(each, 1)))


def result_strips(
    recipe: Recipe,
    params: Params,
    frozen: Params,
    image: np.ndarray,
    settings: UpscaleSettings,
    progress: Progress | None = None,
) -> Iterator[np.ndarray]:
    """The result from top to bottom: a row of tiles is all of it that is in memory.

    The values are those of the whole canvas to the last bit. Arguments and errors as of `computed_tiles`.

    Yields:
      [rows, sW, 3] float32 in [0, 1]; all strips together have sH rows.
    """
    height, width, _ = image.shape
    plan, scale = plan_batches(recipe, height, width, settings).plan, network_scale(recipe, settings)
    weights = PROTOCOLS[settings.protocol].weights(plan, scale)
    canvas, top = np.zeros((plan.grid.tile[0] * scale, width * scale, 3), np.float32), 0
    for index, tile in computed_tiles(recipe, params, frozen, image, settings, progress):
        finished = plan.grid.rows[index // len(plan.grid.columns)] * scale - top
        if finished:  # no later tile reaches above its own first row
            yield from _clipped(canvas[:finished])
            for row in range(len(canvas) - finished):  # one after the other: NumPy would copy the canvas
                canvas[row] = canvas[row + finished]
            canvas[-finished:] = 0
            top += finished
        add_tile(canvas, tile, index, plan, weights, top)
    yield from _clipped(canvas[: height * scale - top])


def _clipped(rows: np.ndarray) -> Iterator[np.ndarray]:
    """Copies of `STRIP` rows at a time, so that what encodes them is small."""
    for first in range(0, len(rows), STRIP):
        yield np.clip(rows[first : first + STRIP], 0, 1)


def can_stream(recipe: Recipe, height: int, width: int, settings: UpscaleSettings) -> bool:
    """Whether an image's result is so large that it is computed in strips, and its settings allow that.

    A color fix, previews and protocols that resize the image or compute its parts need the whole canvas.
    """
    scale = network_scale(recipe, settings)
    if height * width * scale**2 < STREAMED_PIXELS or settings.preview or settings.color_fix != "none":
        return False
    protocol = PROTOCOLS[settings.protocol]
    if protocol.sizes is not None or len(image_parts(height, width, settings)) > 1:
        return False
    grid = protocol.plan(height, width, settings.tile, settings.overlap, protocol.multiple(recipe)).grid
    return len(grid.rows) > 1


def _not_finite(recipe: Recipe, params: Params, frozen: Params) -> NotFiniteError:
    leaves = [*jax.tree_util.tree_leaves_with_path(params), *jax.tree_util.tree_leaves_with_path(frozen)]
    names = (jax.tree_util.keystr(path, simple=True, separator="/") for path, leaf in leaves if not _is_finite(leaf))
    weight = next(names, None)
    reason = f"its weights hold such values, the first in {weight}" if weight else "its weights are finite"
    return NotFiniteError(f"recipe {recipe.name!r} gave values that are not finite ({reason}): check its weights")


def _is_finite(leaf: Any) -> bool:
    return not jnp.issubdtype(leaf.dtype, jnp.inexact) or bool(jnp.isfinite(leaf).all())
