"""Large results that are written while they are computed, so that no more than a row of tiles is in memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import jax

from framer_jax.images.image_data import ImageData
from framer_jax.inference.computed_tiles import Progress, can_stream
from framer_jax.inference.formats import output_format
from framer_jax.inference.images import encode_strips
from framer_jax.inference.programs import out_of_memory
from framer_jax.inference.result_files import write_encoded
from framer_jax.inference.result_settings import FileSettings, ResultSettings
from framer_jax.inference.settings import UpscaleSettings
from framer_jax.inference.upscaler import Upscaler, reduced_settings
from framer_jax.recipes.base import Params, Recipe


def is_streamed(
    target: Path,
    recipe: Recipe,
    image_size: tuple[int, int],
    settings: UpscaleSettings,
    result: ResultSettings,
    files: FileSettings,
    alpha: bool,
    frames: int,
) -> bool:
    """Whether a result is computed and written in strips.

    It is a large PNG file of one opaque frame, as the network gives it: transparency, another size, edges that meet and
    a share of bicubic upsampling need the whole result. An image in place is replaced by a whole result.

    Args:
      target: name of the result.
      recipe: the recipe.
      image_size: (height, width) of the LR image.
      settings: settings of the upscaling.
      result: size and edges of the result.
      files: settings of its file.
      alpha: whether the image is transparent.
      frames: number of frames.
    """
    plain = result.size(*image_size, recipe.scale) == (image_size[0] * recipe.scale, image_size[1] * recipe.scale)
    plain = plain and not result.wrap and result.strength == 1 and not alpha and frames == 1 and not files.in_place
    return plain and output_format(target).name == "PNG" and can_stream(recipe, *image_size, settings)


def upscale_into_file(
    target: Path,
    upscaler: Upscaler,
    recipe: Recipe,
    params: Params,
    image: ImageData,
    settings: UpscaleSettings,
    files: FileSettings,
    record_of: Callable[[UpscaleSettings], Mapping[str, Any]],
    progress: Progress,
) -> UpscaleSettings:
    """Upscale an image strip by strip into a file, and write its record if `files` has records.

    Where device memory runs out, the file is begun again with smaller tiles.

    Args:
      target: name of the result, for which `is_streamed` is true.
      upscaler: upscaler of the recipe.
      recipe: the recipe.
      params: its parameters.
      image: the LR image.
      settings: the settings to begin with.
      files: settings of the file.
      record_of: the settings in effect → content of the record.
      progress: callback that receives the number of finished tiles.

    Returns:
      the settings in effect.

    Raises:
      OSError, ValueError: the file cannot be written, or the result is not finite; then there is none.
      jax.errors.JaxRuntimeError: device memory runs out with the smallest tiles.
    """
    size = image.pixels.shape[0] * recipe.scale, image.pixels.shape[1] * recipe.scale
    while True:
        strips = upscaler.strips(params, image.pixels, progress, settings)
        encode = partial(encode_strips, path=target, strips=strips, size=size, lr=image, settings=files)
        try:
            write_encoded(target, encode, record_of(settings), files)
            return settings
        except jax.errors.JaxRuntimeError as error:
            smaller = reduced_settings(recipe, settings) if out_of_memory(error) else None
            if smaller is None:
                raise
            settings = smaller
