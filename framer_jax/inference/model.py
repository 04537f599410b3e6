"""A weights file with its recipe: what upscaling, evaluation and fine-tuning start from."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import numpy as np

from framer_jax.checkpoints.open import open_recipe
from framer_jax.checkpoints.sampling import UNCHANGED, Sampling, knob_names
from framer_jax.inference.protocols import PROTOCOLS
from framer_jax.inference.upscaler import UpscaleSettings
from framer_jax.porting.weights import save_weights
from framer_jax.recipes.base import Params, Recipe
from framer_jax.recipes.components.networks import NETWORKS, network_section
from framer_jax.recipes.method import with_values
from framer_jax.recipes.table import METHODS
from framer_jax.version import __version__

SHIPPED = {
    name: Path(__file__).parents[1] / "weights" / f"{name}.safetensors" for name in ("standard", "diffusion", "starter")
}
"""Models that ship with the package: name → file. Their cards lie next to them."""

DEFAULT = "standard"
"""The shipped model that upscales where none is named."""

LAST, BEST = "weights.safetensors", "best.safetensors"
"""The weights files that a training run writes into its work directory."""


class Model(NamedTuple):
    """A recipe and its parameters.

    Attributes:
      recipe: the recipe.
      params: the groups of `recipe.exported`.
      metadata: metadata of the file; 'config' is the configuration it was trained with, 'step' its number of steps.
      path: where it was read from.
      frozen_weights: digests of what else the recipe computes with, such as the autoencoder, by their knobs.
      overrides: knobs of 'config' that were overridden when the file was read → their values.
    """

    recipe: Recipe
    params: Params
    metadata: dict[str, Any]
    path: Path
    frozen_weights: Mapping[str, str] = MappingProxyType({})
    overrides: Mapping[str, Any] = MappingProxyType({})

    def __repr__(self) -> str:
        sizes = [int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(self.params)]
        return f"<Model {self.recipe.name} x{self.recipe.scale}, {sum(sizes):,} parameters, {self.path}>"


def load_model(
    path: str | os.PathLike[str] | None = None,
    config: Mapping[str, Any] | None = None,
    purpose: str = "inference",
    sampling: Sampling = UNCHANGED,
) -> Model:
    """Read a model.

    Args:
      path: a weights file of framer_jax, or a training run's directory (its newest weights), or with a `config`
        published weights, ported or not, also a folder that a method's authors publish; None is the `DEFAULT` model.
      config: a whole configuration to use instead of the one in the file, which it must not contradict.
      purpose: one of framer_jax.recipes.method.PURPOSES.
      sampling: overrides of the sampler that the configuration describes.

    Raises:
      FileNotFoundError: there is nothing, or not the autoencoder that the recipe needs.
      ValueError: not such a file, or one that does not fit the recipe that its configuration describes.
    """
    path = weights_file(path, folders=config is not None)
    opened = open_recipe(path, config["recipe"] if config else None, purpose, sampling)
    config = dict(config or opened.metadata["config"])
    recipe_section = with_values(config["recipe"], opened.overrides)
    metadata = {**opened.metadata, "config": {**config, "recipe": recipe_section}}
    overrides = knob_names(opened.overrides)
    return Model(opened.recipe, opened.params, metadata, path, opened.frozen_weights, overrides)


def weights_file(path: str | os.PathLike[str] | None, folders: bool = False) -> Path:
    """The file that is meant: the newest weights of a training run's directory, the `DEFAULT` model for None.

    Args:
      path: the file or the directory.
      folders: whether a folder of published weights may be meant; it is returned as it is.

    Raises:
      FileNotFoundError: a directory without weights.
      ValueError: a folder of published weights, which may not be meant.
    """
    path = SHIPPED[DEFAULT] if path is None else Path(path)
    if not path.is_dir():
        return path
    if (path / LAST).is_file():
        return path / LAST
    layouts = [method.published for method in METHODS if method.published and method.published.in_folder(path)]
    if not layouts:
        raise FileNotFoundError(f"{path} holds no {LAST}: give a weights file or the directory of a training run")
    if not folders:
        examples = " or ".join(layout.example for layout in layouts)
        base = "; training starts from a whole transformer as base_checkpoint" if not layouts[0].initialize else ""
        raise ValueError(
            f"{path} holds published weights, which carry no configuration: name one with --recipe, such as "
            f"{examples}{base}"
        )
    return path


def check_mode(model: Model, mode: str) -> None:
    """Raise ValueError if settings of the sampler were asked for, and the mode does not use it."""
    unused = [name for name in model.overrides if name.rpartition(".")[2] in ("sampling_steps", "mean_share")]
    if mode == "mean" and unused:
        raise ValueError(
            f"mode 'mean' is one call of the network, which {' and '.join(unused)} do not change: omit them"
        )


def settings_for(model: Model, **settings: Any) -> UpscaleSettings:
    """Upscaling settings with defaults that suit a model.

    Args:
      model: a denoiser with global attention gets tiles of its training crop's size, any other the usual ones.
      settings: fields of UpscaleSettings; None stands for the default. The default overlap fits the tile.

    Raises:
      ValueError, TypeError: as of UpscaleSettings and `check_mode`.
    """
    settings = {name: value for name, value in settings.items() if value is not None}
    check_mode(model, settings.get("mode", UpscaleSettings.mode))
    config = model.metadata["config"]
    protocol = PROTOCOLS.get(settings.get("protocol", UpscaleSettings.protocol))
    tile = (protocol.tile(model.recipe.scale) if protocol else None) or UpscaleSettings.tile
    network = NETWORKS[network_section(config["recipe"])[1]]
    if network.global_attention and not (protocol and protocol.fixed):
        tile = config["data"]["crop"] // model.recipe.scale
    tile = settings.setdefault("tile", tile)
    if isinstance(tile, int) and protocol:  # UpscaleSettings refuses others
        largest = tile - 1 if protocol.fixed else min(tile // 2, tile - model.recipe.lr_multiple)
        settings.setdefault("overlap", max(0, min(protocol.overlap(tile), largest)))
    return UpscaleSettings(**settings)


def save_model(path: str | os.PathLike[str], recipe: Recipe, params: Params, metadata: dict[str, Any]) -> None:
    """Write the exported groups of `params`; what only training needs (FRAMER's heads, discriminators) is left out."""
    save_weights(
        path, {name: params[name] for name in recipe.exported}, {"framer_jax_version": __version__, **metadata}
    )
