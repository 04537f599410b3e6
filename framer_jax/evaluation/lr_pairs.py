"""The LR and HR images that a model is measured on: degraded photographs or two folders, and crops of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import jax.numpy as jnp

from framer_jax.data.image_names import examples
from framer_jax.data.photos import HELD_OUT, photo_source
from framer_jax.data.settings import degradation_preset
from framer_jax.data.sources import folder_source
from framer_jax.data.whole_photos import ValidationPair, validation_pairs
from framer_jax.degradations.presets import DegradationPreset
from framer_jax.evaluation.files import read_pixels
from framer_jax.evaluation.pairs import pair_files
from framer_jax.inference.model import Model
from framer_jax.recipes.base import Batch

CROP = 64
"""Largest side of the crops that layers are measured on, LR pixels."""


def model_degradation(model: Model, degradation: str | None = None, geometry: str | None = None) -> DegradationPreset:
    """The degradation of a model's training, or a part of it replaced.

    Args:
      model: the model.
      degradation: name of a preset to take instead, with the training's geometry and knob `sharpen_target`.
      geometry: geometry to take instead.

    Raises:
      ValueError: no such preset or geometry.
    """
    data = dict(model.metadata["config"]["data"])
    if degradation is not None and degradation != data["degradation"]:
        data |= {"degradation": degradation, "second_kernel_sizes": None}
    if geometry is not None:
        data["degradation_geometry"] = geometry
    return degradation_preset(data, model.recipe.scale)


def degraded_pairs(
    photos: str | Path | None, preset: DegradationPreset, seed: int, multiple: int, limit: int | None = None
) -> list[ValidationPair]:
    """Whole photographs with their LR images.

    Args:
      photos: folder of clean photographs; None: the held-out built-in ones.
      preset: the degradation.
      seed: seed of the degradation.
      multiple: sides of the HR images are cropped to multiples of this, itself a multiple of the scale.
      limit: largest number of photographs; None for all.

    Raises:
      ValueError, FileNotFoundError: there is no folder or no photograph in it, or one is too small.
    """
    source = folder_source(photos) if photos else photo_source(HELD_OUT)
    return validation_pairs(source, preset, seed, multiple, limit)


def folder_pairs(
    lr: str | Path, hr: str | Path, scale: int, multiple: int = 1, limit: int | None = None
) -> list[ValidationPair]:
    """Pairs of two folders, by name.

    Args:
      lr: folder of LR images.
      hr: folder of HR images of the same names, `scale` times as large.
      scale: upsampling factor.
      multiple: sides of the LR images are cropped (at the right and the bottom) to multiples of this.
      limit: largest number of pairs, the first ones by name; None for all.

    Raises:
      ValueError, FileNotFoundError: a folder is missing, images have no partner, sizes do not fit the scale, or an
        image cannot be read or is smaller than `multiple`.
    """
    pairing = pair_files(lr, hr, allow_unmatched=True)
    if pairing.unmatched:
        raise ValueError(
            f"{len(pairing.unmatched)} images of {lr} or {hr} have no partner of the same name "
            f"({examples(pairing.unmatched)}): remove them"
        )
    pairs = []
    for pair in pairing.pairs[:limit]:
        assert pair.reference is not None
        low, high = read_pixels(pair.image), read_pixels(pair.reference)
        if high.shape != (low.shape[0] * scale, low.shape[1] * scale, 3):
            raise ValueError(
                f"{pair.name}: the HR image is {high.shape[1]}x{high.shape[0]}, and {scale} times the LR image is "
                f"{low.shape[1] * scale}x{low.shape[0] * scale}: give pairs of the model's scale"
            )
        height, width = (side - side % multiple for side in low.shape[:2])
        if not height or not width:
            raise ValueError(f"{pair.name}: the LR image is smaller than {multiple} pixels: remove it")
        pairs.append(ValidationPair(pair.name, high[: height * scale, : width * scale], low[:height, :width]))
    return pairs


def halves(pairs: Sequence[ValidationPair], scale: int, multiple: int = 1) -> tuple[Batch, Batch]:
    """Crops of one size from the top left and the top right of every photograph: to fit probes, and to measure.

    Args:
      pairs: photographs and their LR versions.
      scale: upsampling factor of the pairs.
      multiple: the crops' sides are multiples of this, in LR pixels.

    Returns:
      Two batches, whose crops do not overlap; their side is `CROP` LR pixels, or what all photographs allow.

    Raises:
      ValueError: a photograph is too small.
    """
    side = min(CROP, *(min(pair.lr.shape[0], pair.lr.shape[1] // 2) for pair in pairs)) // multiple * multiple
    if side == 0:
        raise ValueError(
            f"a photograph is too small for two crops: its sides must be at least {2 * multiple * scale} pixels"
        )

    def crops(right: bool) -> Batch:
        lr, hr = [], []
        for pair in pairs:
            left = pair.lr.shape[1] - side if right else 0
            lr.append(pair.lr[:side, left : left + side])
            hr.append(pair.hr[: side * scale, left * scale : (left + side) * scale])
        return {"hr": jnp.stack(hr), "lr": jnp.stack(lr)}

    return crops(right=False), crops(right=True)
