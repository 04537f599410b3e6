"""Models from published weights: those that determine their configuration, those with a name, blends of two."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from framer_jax.checkpoints.networks import log_notes, read_network
from framer_jax.checkpoints.sampling import UNCHANGED, Sampling
from framer_jax.config import default, load_config, to_dict
from framer_jax.inference.model import SHIPPED, Model, load_model
from framer_jax.inference.named_models import MODELS, model_file
from framer_jax.knobs import nearest
from framer_jax.porting.diffusers_folder import find_model, read_files
from framer_jax.porting.files import sha256_of
from framer_jax.porting.maps import fraction_known, key_test
from framer_jax.porting.table import MAPS, model_in
from framer_jax.porting.torch_files import is_torch_file
from framer_jax.porting.weights import is_ours, read_metadata
from framer_jax.recipes.components.networks import network_section
from framer_jax.recipes.method import Method
from framer_jax.recipes.table import METHODS
from framer_jax.trees import check_same_structure

PathLike = str | os.PathLike[str]

DENOISE_STRENGTH = "denoise_strength"
"""The override, in sidecars, of a model that is a blend."""


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


def config_of_weights(path: PathLike | None) -> dict[str, Any] | None:
    """The whole configuration of a published network, such as SwinIR's, from its tensors or from `framer-jax port`.

    Args:
      path: the weights; None for the standard model.

    Returns:
      a plain dict; None if the file states its own configuration, or is of a network that does not determine one.

    Raises:
      ValueError, FileNotFoundError, ImportError: it is a file of PyTorch that cannot be read, or an incomplete network.
    """
    if path is None or not Path(path).is_file():
        return None
    methods = self_describing_methods()
    name = _network_in(Path(path), tuple(methods))
    if not name:
        return None
    section, base = methods[name].networks.section, default(methods[name].name)
    base.recipe[section].name = name
    config = to_dict(base)
    recipe = config["recipe"]
    arguments = dict(read_network(name, path).arguments)
    recipe["scale"] = arguments.pop("scale", recipe["scale"])
    recipe[section][name] |= arguments
    if recipe[section][name].get("image_channels") == 1:
        log_notes(path, "a model of gray images: the colors of an image are lost")
    return config


def _network_in(path: Path, names: Sequence[str]) -> str:
    """The network in a file; '' if the file is of none of them, or no file of weights at all."""
    if is_ours(path):
        model = model_in(read_metadata(path))
        return model if model in names else ""
    if not is_torch_file(path):
        return ""
    tests = [key_test(MAPS[name]) for name in names]
    tensors = read_files(find_model(path), lambda key: any(test(key) for test in tests)).tensors
    # Networks share names of layers (conv_first), so the one that knows most of them is meant.
    fractions = {name: fraction_known(MAPS[name], tensors) for name in names}
    best = max(names, key=lambda name: fractions[name])
    return best if fractions[best] else ""


def open_model(
    weights: PathLike | None,
    config: PathLike | None = None,
    overrides: Sequence[str] = (),
    sampling: Sampling = UNCHANGED,
    denoise_strength: float | None = None,
) -> Model:
    """A model from what a user names.

    Args:
      weights: a weights file, a training run's directory, published weights, or the name of a model; None for the
        starter. A name stands for a file only if nothing of that path exists.
      config: configuration of published weights that do not determine their own.
      overrides: changes of that configuration.
      sampling: overrides of its sampler.
      denoise_strength: see `with_denoise_strength`; None for the weights as they are.

    Raises:
      ValueError, FileNotFoundError, ImportError: as of `model_file`, `config_of_weights`, `load_config`,
        framer_jax.inference.model.load_model and `with_denoise_strength`.
    """
    check_denoise_strength(denoise_strength)
    if is_model_name(weights):
        if config is not None:
            raise ValueError(f"model {weights} has its own configuration: omit {os.fspath(config)}")
        return open_named_model(str(weights), sampling, denoise_strength)
    if isinstance(weights, str) and not Path(weights).suffix and os.sep not in weights and not Path(weights).exists():
        raise FileNotFoundError(f"{weights}: no such weight file, and no model of that name{nearest(weights, MODELS)}")
    named = None if config is None else to_dict(load_config(os.fspath(config), overrides))
    model = load_model(weights, named or config_of_weights(weights), sampling=sampling)
    return with_denoise_strength(model, denoise_strength)


def is_model_name(weights: PathLike | None) -> bool:
    """Whether weights are those of a model by name: a string that is one, and no path to anything."""
    if not isinstance(weights, str) or weights not in MODELS:
        return False
    if Path(weights).exists():
        log_notes(weights, "taken as the path that exists, not as the name of a model (--model)")
        return False
    return True


def open_named_model(name: str, sampling: Sampling = UNCHANGED, denoise_strength: float | None = None) -> Model:
    """A model by name; arguments and errors as of `open_model`.

    Raises:
      ValueError: the file is of another model than the name says.
    """
    path, note = model_file(name)
    log_notes(path, note)
    config = config_of_weights(None if name in SHIPPED else path)
    if config is not None:
        _check_network(name, path, config["recipe"])
    elif name not in SHIPPED:
        raise ValueError(f"model {name}: {path} is not a file of it: download it again")
    return with_denoise_strength(load_model(path, config, sampling=sampling), denoise_strength)


def _check_network(name: str, path: Path, recipe: Mapping[str, Any]) -> None:
    section, network = network_section(recipe)
    actual = {"scale": recipe["scale"], **recipe[section][network]}
    model = MODELS[name]
    if network != model.network:
        raise ValueError(f"model {name}: {path} holds {network}, not {model.network}: download it again")
    for argument, value in model.arguments.items():
        if actual[argument] != value:
            raise ValueError(f"model {name}: {path} is of another model: {argument} is {actual[argument]}, not {value}")


def check_denoise_strength(strength: float | None) -> None:
    """Refuse a denoise strength outside of [0, 1].

    Raises:
      ValueError: it is.
    """
    if strength is not None and not (math.isfinite(strength) and 0 <= strength <= 1):
        raise ValueError(f"denoise strength {strength} must be from 0 (keeps noise) to 1 (the general model alone)")


def with_denoise_strength(model: Model, strength: float | None) -> Model:
    """A general model blended with its weak-denoise twin: each tensor is s · general + (1 - s) · wdn.

    Args:
      model: an SRVGG such as realesr-general-x4v3; its twin lies next to it, with 'wdn' in its name.
      strength: s in [0, 1]; 1, and None, for the model alone.

    Raises:
      ValueError: the model has no twin, or the twin is of another size.
      FileNotFoundError: the twin is missing.
    """
    check_denoise_strength(strength)
    if strength is None:
        return model
    if network_section(model.metadata["config"]["recipe"])[1] != "srvgg" or not _twin_name(model.path.name):
        raise ValueError(
            f"{model.path}: a denoise strength is of realesr-general-x4v3 and its twin with 'wdn' in its name: omit it"
        )
    overrides = {**model.overrides, DENOISE_STRENGTH: strength}
    if strength == 1:
        return model._replace(overrides=overrides)
    path = _twin_of(model.path)
    twin = load_model(path, config_of_weights(path))
    check_same_structure(twin.params, model.params, str(path))
    share = np.float32(strength)
    params = jax.tree.map(
        lambda general, wdn: share * general + (np.float32(1) - share) * wdn, model.params, twin.params
    )
    frozen = {**model.frozen_weights, "wdn": sha256_of(path)}
    return model._replace(params=params, frozen_weights=frozen, overrides=overrides)


def _twin_name(name: str) -> str:
    """Name of the weak-denoise twin of a file: realesr-general-wdn-x4v3.pth; '' if the file cannot have one."""
    twin = re.sub(r"-x(?=\d)", "-wdn-x", name, count=1)
    return "" if "wdn" in name or twin == name else twin


def _twin_of(path: Path) -> Path:
    name = Path(_twin_name(path.name))
    candidates = [path.with_name(name.stem + suffix) for suffix in (name.suffix, ".safetensors", ".pth", ".param")]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    raise FileNotFoundError(
        f"{candidates[0]}: no such file; a denoise strength below 1 needs this twin of {path.name} next to it"
    )
