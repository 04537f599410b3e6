"""What the JSON sidecar of an SR image says about how it was made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import jax

from framer_jax.checkpoints.paths import digest_of
from framer_jax.images.image_data import ImageData
from framer_jax.inference.result_settings import FileSettings, ResultSettings
from framer_jax.inference.settings import UpscaleSettings
from framer_jax.porting.files import sha256_of
from framer_jax.porting.ncnn import is_ncnn
from framer_jax.recipes.base import Recipe
from framer_jax.version import __version__


class Origin(NamedTuple):
    """Origin of the parameters, for the sidecars.

    Attributes:
      checkpoint: weights file or checkpoint folder, or None.
      config: configuration of the model, overrides included, as plain JSON.
      frozen_weights: configuration path → digest of the frozen weights, such as the autoencoder.
      overrides: configuration path → value of what was changed for this use.
    """

    checkpoint: Path | None = None
    config: Mapping[str, Any] | None = None
    frozen_weights: Mapping[str, str] = MappingProxyType({})
    overrides: Mapping[str, Any] = MappingProxyType({})


def origin_entries(origin: Origin, recipe: Recipe) -> dict[str, Any]:
    """The entries of a sidecar that do not depend on the image: versions, device, recipe, and digests of all weights.

    Raises:
      FileNotFoundError: the checkpoint does not exist.
    """
    checkpoint = None
    if origin.checkpoint is not None:
        several = origin.checkpoint.is_dir() or is_ncnn(origin.checkpoint)
        digest = digest_of(origin.checkpoint, "transformer") if several else sha256_of(origin.checkpoint)
        checkpoint = {"path": str(origin.checkpoint), "sha256": digest}
    return {
        "framer_jax": __version__,
        "jax": jax.__version__,
        "device": jax.devices()[0].device_kind,
        "recipe": recipe.name,
        "scale": recipe.scale,
        "checkpoint": checkpoint,
        "weights": dict(origin.frozen_weights),
        "config": None if origin.config is None else dict(origin.config),
        "changes": dict(origin.overrides),
    }


def image_entries(
    source: Path,
    image: ImageData,
    size: tuple[int, int],
    frames: int,
    used: UpscaleSettings,
    requested: UpscaleSettings,
    result: ResultSettings,
    files: FileSettings,
) -> dict[str, Any]:
    """The entries of a sidecar that depend on the image: the settings, what was read and what was made of it.

    `size` is (height, width) of the SR image.
    """
    height, width = image.pixels.shape[:2]
    several = {"frames": frames} if frames > 1 else {}
    return {
        "settings": asdict(used),
        "settings_asked_for": asdict(requested),
        "input": {
            "name": source.name,
            "width": width,
            "height": height,
            "mode": image.mode,
            "bits": image.bits,
            "notes": list(image.notes),
            **several,
        },
        "output": {"width": size[1], "height": size[0]},
        "result": {**asdict(result), **asdict(files)},
    }
