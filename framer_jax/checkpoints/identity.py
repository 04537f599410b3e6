"""The knobs that trained parameters and precomputed records depend on: full knob name → value."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from framer_jax.recipes.components.networks import NETWORKS, execution_knobs, network_section
from framer_jax.recipes.method import Config, KnobPath, value_at
from framer_jax.recipes.table import method_of


def network_knobs(section: str, name: str, arguments: Mapping[str, Any], scale: Any) -> dict[str, Any]:
    """The scale and the network's arguments by their full knob names."""
    return {"recipe.scale": scale, **{f"recipe.{section}.{name}.{key}": value for key, value in arguments.items()}}


def trained_identity(config: Config) -> dict[str, Any]:
    """The knobs that a recipe's parameters depend on besides their shapes: full knob name → value."""
    section, name = network_section(config)
    hidden = execution_knobs(name) if name in NETWORKS else frozenset()
    arguments = {key: value for key, value in config.get(section, {}).get(name, {}).items() if key not in hidden}
    knobs = {f"recipe.{section}.name": name, **network_knobs(section, name, arguments, config.get("scale"))}
    method = method_of(config)
    files = {file.path for file in method.weight_files}
    for path in method.identity:
        knobs |= {
            ".".join(("recipe", *leaf)): value for leaf, value in _leaves(config, path).items() if leaf not in files
        }
    return knobs


def records_identity(config: Config) -> dict[str, Any] | None:
    """The knobs that a teacher's precomputed outputs depend on besides its weights and the data.

    Returns:
      full knob name → value; None for a configuration without a teacher, which can train on any records of its data.

    Raises:
      ValueError: the method cannot train on such records.
    """
    method = method_of(config)
    if method.records_identity is None:
        raise ValueError(f"recipe.name {method.name} has no teacher whose outputs could be precomputed")
    further = method.records_identity(config)
    if further is None:
        return None
    knobs = {f"recipe.{name}": config.get(name) for name in ("name", "scale")}
    if method.networks.section == "denoiser":  # the teacher has the student's network and process
        return {**knobs, **trained_identity(config), **_sampler_knobs(config), **further}
    if published := value_at(config, ("teacher", "published")):
        published = {**trained_identity(published), **_sampler_knobs(published)}
        further |= {name.replace("recipe.", "recipe.teacher.published.", 1): value for name, value in published.items()}
    return {**knobs, **further}


def _sampler_knobs(config: Config) -> dict[str, Any]:
    return {".".join(("recipe", *path)): value_at(config, path) for path in method_of(config).sampler_knobs}


def _leaves(config: Config, path: KnobPath) -> dict[KnobPath, Any]:
    value = value_at(config, path)
    if isinstance(value, Mapping):
        return {leaf: item for key in value for leaf, item in _leaves(config, (*path, key)).items()}
    return {} if value is None and value_at(config, path[:-1]) is None else {path: value}
