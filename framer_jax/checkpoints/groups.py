"""The exported groups of a recipe from a weights file: of a training run of framer_jax, or a published network."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from framer_jax.checkpoints.identity import network_knobs, trained_identity
from framer_jax.checkpoints.migration import SchemaError, migrate, present_knobs
from framer_jax.checkpoints.networks import log_notes, read_network
from framer_jax.knobs import check_same_values
from framer_jax.models.mmdit import JointTransformer, block_structure, match_block_layout
from framer_jax.porting.stated import Statement
from framer_jax.porting.table import MAPS
from framer_jax.porting.weights import is_ours, load_weights
from framer_jax.recipes.base import Params
from framer_jax.recipes.components.networks import NETWORKS, network_section
from framer_jax.recipes.method import Config
from framer_jax.recipes.table import method_of


class Groups(NamedTuple):
    """Parameters of a recipe, from a file.

    Attributes:
      params: group name to nested NumPy arrays.
      metadata: metadata of the file if a training run wrote it, with its 'config' in the present schema; otherwise {}.
    """

    params: Params
    metadata: dict[str, Any]


def present_metadata(metadata: Mapping[str, Any], path: str | os.PathLike[str]) -> dict[str, Any]:
    """The metadata of a weights file with its configuration and its knob names in the present schema.

    Raises:
      SchemaError: the configuration is of a newer schema or damaged; the message names the file at `path`.
    """
    present = dict(metadata)
    if "config" in metadata:
        try:
            present["config"] = migrate(metadata["config"])
        except SchemaError as error:
            version = metadata.get("framer_jax_version", "of unknown version")
            raise SchemaError(f"{path}: {error}; it was written by framer_jax {version}") from error
    if isinstance(metadata.get("weights"), Mapping):
        present["weights"] = present_knobs(metadata["weights"])
    return present


def read_groups(path: str | os.PathLike[str], config: Config | None, same_process: bool = True) -> Groups:
    """Parameters for a recipe: of a trained model, or a published network, ported or in PyTorch's format.

    Args:
      path: the file.
      config: the `recipe` section of the recipe; None for any trained model.
      same_process: False lets a training run start from the weights of another diffusion process.

    Raises:
      ValueError: the file belongs to another diffusion process, another latent space or another network; or it is a
        published network and there is no `config`; or the recipe scans blocks that differ.
      FileNotFoundError, ImportError: it cannot be read.
    """
    if is_ours(path) or not Path(path).is_file():  # `load_weights` raises the error for a missing file
        params, metadata = load_weights(path)
        if not is_network(metadata):
            metadata = present_metadata(metadata, path)
            if config is not None and same_process and "config" in metadata:
                trained = trained_identity(metadata["config"]["recipe"])
                check_same_values(trained, trained_identity(config), str(path))
            return Groups(params if config is None else _with_block_layout(params, config), metadata)
    if config is None:
        if not is_ours(path):
            load_weights(path)  # raises an error that describes the file
        if (model := metadata.get("model")) not in NETWORKS:
            raise ValueError(
                f"{path} holds weights of {model}, which upscales nothing: they are for a knob of another model's "
                "training"
            )
        raise ValueError(
            f"{path}: published weights carry no configuration, so their recipe is unknown: name one with --recipe"
        )
    return Groups(_published_network(path, config, same_process), {})


def is_network(metadata: Mapping[str, Any]) -> bool:
    """Whether the metadata are those of a ported network, not of a training run."""
    return "config" not in metadata and "model" in metadata


def _published_network(path: str | os.PathLike[str], config: Config, same_process: bool) -> Params:
    section, name = network_section(config)
    method = method_of(config)
    if name not in MAPS or not method.published_network:
        if method.published and name in MAPS and method.published.initialize is None:
            base = next(file for file in method.weight_files if file.role == "base model")
            raise ValueError(
                f"{path} is a whole transformer, from which training starts as {base.knob}: set that to its path"
            )
        raise ValueError(
            f"{path} is not a file of a framer_jax run, and published weights do not fit recipe.name {method.name!r} "
            f"with recipe.{section}.name {name!r}: use a configuration such as resshift_v1"
        )
    configured = {"scale": config.get("scale"), **config[section][name]}
    network = read_network(name, path, statements=[Statement("the configuration", configured)])
    if not is_ours(path):
        log_notes(path, *network.source["notes"])
    description = MAPS[name].describe(network.arguments)
    check_same_values(
        network_knobs(section, name, network.arguments, network.arguments.get("scale", config.get("scale"))),
        network_knobs(section, name, config[section][name], config.get("scale")),
        f"{path}, a checkpoint of {description}," if description else str(path),
    )
    if same_process and method.check_file_name:
        for file in network.source.get("files", ()):
            method.check_file_name(file["file"], config)
    return {section: network.params}


def _with_block_layout(params: Params, config: Config) -> Params:
    """Groups whose blocks are stacked if the recipe scans them, whichever layout the run that wrote them had."""
    section, name = network_section(config)
    arguments = config.get(section, {}).get(name, {})
    if "scan" not in arguments:
        return params
    model = JointTransformer(**block_structure(arguments), scan=arguments["scan"])
    return {name: match_block_layout(group, model) for name, group in params.items()}
