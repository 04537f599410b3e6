"""Configurations that published weights determine by themselves."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from framer_jax.checkpoints.networks import log_notes, read_network
from framer_jax.config import default, to_dict
from framer_jax.porting.diffusers_folder import find_model, read_files
from framer_jax.porting.maps import fraction_known, key_test
from framer_jax.porting.table import MAPS, Ported, model_in
from framer_jax.porting.torch_files import is_torch_file
from framer_jax.porting.weights import is_ours, read_metadata
from framer_jax.recipes.method import Method
from framer_jax.recipes.table import METHODS


def self_describing_methods() -> dict[str, Method]:
    """Network → the method whose whole configuration a published file of that network determines.

    These networks map the LR image to the result in one pass, and the method needs no other weights.
    """
    return {
        name: method
        for method in METHODS
        if method.published_network and method.networks.section == "student" and not method.weight_files
        for name in method.networks.names
        if name in MAPS
    }


def config_of_weights(path: str | os.PathLike[str] | None) -> dict[str, Any] | None:
    """The whole configuration of a published network, such as SwinIR's, from its tensors or from `framer-jax port`.

    Args:
      path: the weights; None for the starter model.

    Returns:
      a plain dict; None if the file states its own configuration, or is of a network that does not determine one.

    Raises:
      ValueError, FileNotFoundError, ImportError: it is a file of PyTorch that cannot be read, or an incomplete network.
    """
    if path is None or not Path(path).is_file():
        return None
    for name, method in self_describing_methods().items():
        network = _read(name, Path(path))
        if network is None:
            continue
        config = to_dict(default(method.name))
        recipe, section = config["recipe"], method.networks.section
        arguments = dict(network.arguments)
        recipe["scale"] = arguments.pop("scale", recipe["scale"])
        recipe[section]["name"] = name
        recipe[section][name] |= arguments
        if recipe[section][name].get("image_channels") == 1:
            log_notes(path, "a model of gray images: the colors of an image are lost")
        return config
    return None


def _read(name: str, path: Path) -> Ported | None:
    """The network in a file; None if the file is of another one, or no file of weights at all."""
    if is_ours(path):
        return read_network(name, path) if model_in(read_metadata(path)) == name else None
    if not is_torch_file(path):
        return None
    tensors = read_files(find_model(path), key_test(MAPS[name])).tensors
    return read_network(name, path) if fraction_known(MAPS[name], tensors) else None
