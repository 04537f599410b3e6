"""A weights file with the recipe that it belongs to, and the recipe of a configuration with its weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from framer_jax.checkpoints.groups import read_groups
from framer_jax.checkpoints.paths import (
    digests,
    is_trained,
    named_files,
    required_path,
    weight_path,
    with_dependencies,
)
from framer_jax.checkpoints.reader import NetworkReader
from framer_jax.checkpoints.sampling import UNCHANGED, Sampling, knob_names, sampling_values
from framer_jax.errors import KINDS, with_message
from framer_jax.recipes import table
from framer_jax.recipes.base import Params, Recipe, expected_params
from framer_jax.recipes.method import PHOTOS, Config, KnobPath, with_values
from framer_jax.trees import check_same_structure


class OpenedModel(NamedTuple):
    """A recipe and its parameters, from a file.

    Attributes:
      recipe: the recipe.
      params: the groups of `recipe.exported`.
      metadata: metadata of the file; 'config' is the configuration it was trained with, in the present schema.
      frozen_weights: full knob name → digest of the other files that the recipe computes with, such as the autoencoder.
      overrides: knobs of the configuration that were overridden for this use → their values.
    """

    recipe: Recipe
    params: Params
    metadata: dict[str, Any]
    frozen_weights: dict[str, str]
    overrides: dict[KnobPath, Any]


class Reader(NetworkReader):
    """All functions of framer_jax.recipes.method.WeightReader."""

    def teacher(self, knob_name: str, path: str, what: str, published: Config) -> tuple[Recipe, Params]:
        """A trained model with the recipe it belongs to; `published` describes weights without a configuration."""
        path = required_path(path, knob_name, what, "MODEL")
        trained = is_trained(path)
        if not trained and not published:
            raise ValueError(
                f"{knob_name} {path}: published weights carry no configuration: give recipe.teacher.published the "
                "`recipe` section that they belong to, as configs/dtkd_swinir_small.py does"
            )
        try:
            opened = open_recipe(Path(path), None if trained else published)
        except KINDS as error:
            suffix = "" if trained else " (recipe.teacher.published)"
            raise with_message(error, f"{knob_name}: {error}{suffix}") from error
        return opened.recipe, opened.params


READER = Reader()


def build_recipe(config: Config, purpose: str = "training", data: str = PHOTOS) -> Recipe:
    """The recipe of a configuration's `recipe` section, with the weights that it names.

    Args, Raises: as of framer_jax.recipes.table.build_recipe.
    """
    return table.build_recipe(config, READER, purpose, data)


def open_recipe(
    path: Path, config: Config | None = None, purpose: str = "inference", sampling: Sampling = UNCHANGED
) -> OpenedModel:
    """Read a weights file and build the recipe that it belongs to.

    Args:
      path: a trained model of framer_jax, or with a `config` published weights, ported or not.
      config: a `recipe` section to use instead of the one in the file, which it must not contradict.
      purpose: one of framer_jax.recipes.method.PURPOSES.
      sampling: overrides of the sampler.

    Raises:
      FileNotFoundError: there is no such file, or a file that the recipe needs, such as the autoencoder, is missing.
      ValueError: not such a file, or one that does not fit the recipe that its configuration describes.
    """
    if config is not None:
        published = table.method_of(config).published
        if published and published.matches(path, config):
            overrides = sampling_values(config, sampling)
            overridden = with_values(config, overrides)
            recipe, params = published.open(path, overridden, purpose, READER)
            named = {file.path: weight_path(overridden, file) for file in named_files(overridden, "inference")}
            itself = {knob: "" for knob, name in named.items() if Path(name).resolve() == path.resolve()}
            frozen = digests(with_values(overridden, itself), "inference")
            return OpenedModel(recipe, params, {}, frozen, overrides)
    params, metadata = read_groups(path, config)
    if config is None and "config" not in metadata:
        raise ValueError(f"{path}: the weights carry no configuration, so their recipe is unknown; export them again")
    recorded = metadata.get("weights", {})
    try:
        original = metadata["config"]["recipe"] if config is None else config
        overrides = sampling_values(original, sampling)
        overridden = with_values(original, overrides)
        if config is None and purpose == "inference":
            needed = [file for file in named_files(overridden, "inference") if file.path not in overrides]
            overridden = with_dependencies(overridden, path, recorded, needed)
        recipe = build_recipe(overridden, purpose)
    except (KeyError, TypeError) as error:
        raise ValueError(
            f"{path}: its configuration is of another version or damaged ({type(error).__name__}: {error}); "
            f"it was written by framer_jax {metadata.get('framer_jax_version', 'of unknown version')}"
        ) from error
    check_same_structure(params, expected_params(recipe), source=str(path))
    frozen = digests(overridden, "inference") if purpose == "inference" else {}
    overridden_names = knob_names(overrides)
    for knob, digest in frozen.items():
        if knob not in overridden_names and recorded.get(knob, digest) != digest:
            raise ValueError(f"{path} was trained with other weights than those of {knob}: name the ones it belongs to")
    return OpenedModel(recipe, params, metadata, frozen, overrides)
