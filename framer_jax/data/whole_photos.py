"""Degradation of whole photographs of any size, for validation, for scoring and for making data sets."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import NamedTuple

import jax
import numpy as np
import numpy.typing as npt

from framer_jax.data.sources import ImageFiles, Pixels
from framer_jax.degradations.draw import DegradationParameters, draw, stack
from framer_jax.degradations.pipeline import apply, training_target
from framer_jax.degradations.presets import DegradationPreset

CANVAS_MULTIPLE = 256
"""Photographs are padded to sides that are multiples of this, so that few programs are compiled."""


class ValidationPair(NamedTuple):
    """A whole photograph and its degradation.

    Attributes:
      name: name of the photograph.
      hr: [H, W, 3] float32 in [0, 1].
      lr: [H / scale, W / scale, 3] float32 in [0, 1], multiples of 1 / 255.
    """

    name: str
    hr: npt.NDArray[np.float32]
    lr: npt.NDArray[np.float32]


def photo_generator(seed: int, name: str) -> np.random.Generator:
    """The random generator of a photograph's degradation, which depends on the seed and the photograph's name only."""
    return np.random.default_rng([seed, zlib.crc32(name.encode(errors="surrogateescape"))])


def canvas_size(height: int, width: int, scale: int) -> tuple[int, int]:
    """(height, width) of a photograph's padded canvas, multiples of `CANVAS_MULTIPLE` and of the scale."""
    multiple = int(np.lcm(CANVAS_MULTIPLE, scale))
    return -(-height // multiple) * multiple, -(-width // multiple) * multiple


@lru_cache(maxsize=8)
def _program(preset: DegradationPreset) -> Callable[..., tuple[jax.Array, jax.Array]]:
    """(parameters, hr uint8, size) → target and LR image; compiled once for each batch size and canvas size."""

    def run(parameters: DegradationParameters, hr: jax.Array, size: jax.Array) -> tuple[jax.Array, jax.Array]:
        target = training_target(hr.astype(np.float32) / 255.0, preset, size)
        return target, apply(parameters, target, preset, size=size)

    return jax.jit(run)


def degrade_photos(
    photos: Sequence[Pixels], parameters: Sequence[DegradationParameters], preset: DegradationPreset, batch: int = 1
) -> list[tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]]:
    """Degrade photographs that share a canvas size; each result depends on its own photograph and parameters only.

    Args:
      photos: at most `batch` arrays uint8 [H, W, 3], whose sides are multiples of the preset's scale, and whose
        `canvas_size` is the same.
      parameters: degradation parameters, one for each photograph.
      preset: the preset that they were drawn from.
      batch: batch size of the compiled program; the last photograph is repeated to fill it.

    Returns:
      (target [H, W, 3], LR [H / scale, W / scale, 3]) for each photograph, float32 in [0, 1]; the target is the
      photograph, sharpened if the preset says so.

    Raises:
      ValueError: no photograph or more than `batch`, or different canvas sizes.
    """
    canvases = {canvas_size(photo.shape[0], photo.shape[1], preset.scale) for photo in photos}
    if not 1 <= len(photos) <= batch or len(canvases) != 1:
        raise ValueError(
            f"degrading takes 1 to {batch} photographs of one canvas size; got {len(photos)} of {canvases}"
        )
    filled = [*photos, *[photos[-1]] * (batch - len(photos))]
    hr = np.zeros((batch, *canvases.pop(), 3), np.uint8)
    for index, photo in enumerate(filled):
        hr[index, : photo.shape[0], : photo.shape[1]] = photo
    size = np.array([photo.shape[:2] for photo in filled], np.int32)
    batched_parameters = stack([*parameters, *[parameters[-1]] * (batch - len(photos))])
    targets, lrs = (np.asarray(images) for images in _program(preset)(batched_parameters, hr, size))
    pairs = []
    for index, photo in enumerate(photos):
        height, width = photo.shape[:2]
        lr = lrs[index, : height // preset.scale, : width // preset.scale]
        pairs.append((targets[index, :height, :width], lr))
    return pairs


def validation_pairs(
    source: ImageFiles, preset: DegradationPreset, seed: int = 0, multiple: int = 8, limit: int | None = None
) -> list[ValidationPair]:
    """Degrade whole photographs; a result depends on the seed and the photograph's name, not on other photographs.

    Args:
      source: photographs.
      preset: the distribution of the degradations.
      seed: seed of the degradations.
      multiple: sides are cropped (at the right and the bottom) to multiples of this, itself a multiple of the scale.
      limit: largest number of photographs; None for all.

    Raises:
      ValueError: `multiple` is not a multiple of the scale, or a photograph is smaller than it.
    """
    if multiple < 1 or multiple % preset.scale:
        raise ValueError(f"'multiple' must be a multiple of the scale {preset.scale}; got {multiple}")
    pairs: list[ValidationPair] = []
    seen = set()
    for index in range(len(source)):
        if len(pairs) == limit:
            break
        photo = source[index]
        if photo.record in seen:
            continue  # the replacement of a damaged file
        seen.add(photo.record)
        name = source.names[photo.record]
        height, width = (side - side % multiple for side in photo.size)
        if not height or not width:
            raise ValueError(f"{name} is smaller than {multiple} pixels: remove it from the validation images")
        hr = photo.crop(0, 0, height, width)
        ((target, lr),) = degrade_photos([hr], [draw(photo_generator(seed, name), preset)], preset)
        pairs.append(ValidationPair(name, target, lr))
    return pairs
