"""A weights file with its recipe: what upscaling, evaluation and fine-tuning start from."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from framer_jax.inference.protocols import PROTOCOLS
from framer_jax.inference.upscaler import UpscaleSettings
from framer_jax.porting.diffusers_folder import CONFIG, model_folder
from framer_jax.porting.weights import save_weights
from framer_jax.recipes.base import Params, Recipe
from framer_jax.recipes.sampling import UNCHANGED, Sampling, changed
from framer_jax.recipes.table import GLOBAL_DENOISERS, open_recipe
from framer_jax.recipes.weights_by_path import STUDENT_FILES, network_of
from framer_jax.version import __version__

STARTER = Path(__file__).parents[1] / "weights" / "starter.safetensors"
"""The model that ships with the package; its card lies beside it."""

LAST, BEST = "weights.safetensors", "best.safetensors"
"""What a training run leaves in its work directory."""


class Model(NamedTuple):
    """A recipe and its parameters.

    Attributes:
      recipe: the method.
      params: the groups of `recipe.exported`.
      metadata: of the file; 'config' is the configuration it was trained with, 'step' its number of steps.
      path: where it was read from.
      frozen_weights: digests of what else the recipe computes with, such as the autoencoder, by their knobs.
      changes: what of 'config' was changed when the file was read: knob → value.
    """

    recipe: Recipe
    params: Params
    metadata: dict[str, Any]
    path: Path
    frozen_weights: Mapping[str, str] = MappingProxyType({})
    changes: Mapping[str, Any] = MappingProxyType({})


def load_model(
    path: str | os.PathLike[str] | None = None,
    config: Mapping[str, Any] | None = None,
    purpose: str = "inference",
    sampling: Sampling = UNCHANGED,
) -> Model:
    """Read a model.

    Args:
      path: a weights file of ours, or a training run's directory (its newest weights), or with a `config` published
        weights, ported or not, of a transformer also its folder in Diffusers' layout, of TSD-SR the folder of its
        LoRAs; None is the starter model.
      config: a whole configuration to use instead of the one in the file, which it must not contradict.
      purpose: of framer_jax.recipes.table.PURPOSES.
      sampling: what to change of the sampler that the configuration describes.

    Raises:
      FileNotFoundError: nothing there, or not the autoencoder that the recipe needs.
      ValueError: not such a file, or one that does not fit the recipe that its configuration describes.
    """
    path = weights_file(path, folders=config is not None)
    found = open_recipe(path, config["recipe"] if config else None, purpose, sampling)
    whole = dict(config or found.metadata["config"])
    metadata = {**found.metadata, "config": {**whole, "recipe": changed(whole["recipe"], found.changes)}}
    changes = {".".join(("recipe", *place)): value for place, value in found.changes.items()}
    return Model(found.recipe, found.params, metadata, path, found.frozen_weights, changes)


def weights_file(path: str | os.PathLike[str] | None, folders: bool = False) -> Path:
    """The file that is meant: of a training run's directory its newest weights, of None the starter model.

    Args:
      path: of the file or the directory.
      folders: whether a transformer's folder in Diffusers' layout, or its pipeline's, or one of TSD-SR's LoRAs may be
        meant; it comes back.

    Raises:
      FileNotFoundError: a directory without weights. ValueError: it is of Diffusers, and may not be.
    """
    path = STARTER if path is None else Path(path)
    if not path.is_dir():
        return path
    if (path / LAST).is_file():
        return path / LAST
    student = (path / STUDENT_FILES[0]).is_file()
    if not student and not (model_folder(path, "transformer") / CONFIG).is_file():
        raise FileNotFoundError(f"{path} holds no {LAST}: give a weights file or the directory of a training run")
    if not folders:
        raise ValueError(
            f"{path} holds published weights, which carry no configuration: name one with --recipe, such as "
            + ("configs/tsd_sr_sd3.py" if student else "configs/dit4sr_sd35.py; training starts from them as its base")
        )
    return path


def settings_for(model: Model, **given: Any) -> UpscaleSettings:
    """Upscaling settings with defaults that suit a model.

    Args:
      model: a denoiser with global attention gets tiles of its training crop's size, any other the usual ones.
      given: fields of UpscaleSettings; None stands for the default. The default overlap fits the tile.

    Raises:
      ValueError, TypeError: as UpscaleSettings.
    """
    given = {name: value for name, value in given.items() if value is not None}
    config = model.metadata["config"]
    protocol = PROTOCOLS.get(given.get("protocol", UpscaleSettings.protocol))
    tile = (protocol.tile(model.recipe.scale) if protocol else None) or UpscaleSettings.tile
    if network_of(config["recipe"])[1] in GLOBAL_DENOISERS and not (protocol and protocol.fixed):
        tile = config["data"]["crop"] // model.recipe.scale
    tile = given.setdefault("tile", tile)
    if isinstance(tile, int) and protocol:  # else UpscaleSettings says so
        most = tile if protocol.fixed else tile - model.recipe.lr_multiple
        given.setdefault("overlap", max(0, min(protocol.overlap(tile), tile // 2, most)))
    return UpscaleSettings(**given)


def save_model(path: str | os.PathLike[str], recipe: Recipe, params: Params, metadata: dict[str, Any]) -> None:
    """Write the exported groups of `params`; nothing that only training needs (FRAMER's heads, critics) goes along."""
    save_weights(
        path, {name: params[name] for name in recipe.exported}, {"framer_jax_version": __version__, **metadata}
    )
