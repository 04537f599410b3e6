"""The sections of a whole configuration: their knobs, and the one place where all of them are checked."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from ml_collections import ConfigDict

from framer_jax.data.settings import DataSettings
from framer_jax.knobs import Knob, check_values, knobs_of, settings_from, shown
from framer_jax.losses.framer import VARIANTS, FramerSettings
from framer_jax.recipes.components.networks import configured_network, network_knobs
from framer_jax.recipes.components.perceptual import check_microbatch
from framer_jax.recipes.framer import NO_FRAMER, check_taps, framer_settings
from framer_jax.recipes.method import CommonSettings, Method
from framer_jax.recipes.table import METHODS, method_named, method_of
from framer_jax.training.logging import LoggingSettings
from framer_jax.training.settings import TrainingSettings

SECTIONS = ("schema", "recipe", "framer", "data", "training", "logging")
"""The entries of every configuration."""

SHARED: Mapping[str, type] = {"data": DataSettings, "training": TrainingSettings, "logging": LoggingSettings}
"""Sections that all methods share → their settings classes."""

PUBLISHED = "recipe.teacher.published"
"""The `recipe` section of a published teacher, within that of its student."""

VARIANT = Knob(
    "variant",
    str,
    False,
    NO_FRAMER,
    "FRAMER on top of the method: none, paper (as the paper describes it) or released (as its code computes it). Knobs "
    "of this section that are None keep the variant's own value.",
    choices=(NO_FRAMER, *VARIANTS),
)


class ConfigError(ValueError):
    """A configuration that cannot be used; the message is one line that says what is wrong and what to do."""


@functools.cache  # every override asks for it
def knob_sections(method: str) -> tuple[tuple[str, tuple[Knob, ...]], ...]:
    """(section, its knobs) of a method's configuration."""
    return tuple(_sections_of(method_named(method)))


def _sections_of(record: Method) -> Iterator[tuple[str, tuple[Knob, ...]]]:
    yield "recipe", knobs_of(CommonSettings)
    section, networks = record.networks
    yield f"recipe.{section}", (Knob("name", str, False, networks[0], "Network that is trained.", choices=networks),)
    for network in networks:
        yield f"recipe.{section}.{network}", network_knobs(network)
    for name, settings in record.sections.items():
        yield f"recipe.{name}", knobs_of(settings)
    yield "framer", (VARIANT, *(_unset(knob) for knob in knobs_of(FramerSettings)))
    for name, settings in SHARED.items():
        yield name, knobs_of(settings)


def knobs_by_name(recipe: ConfigDict) -> dict[str, Knob]:
    """Every knob by its full name, those of a published teacher included."""
    knobs = dict(knob_table(recipe.name))
    if "teacher" in recipe and (published := recipe.teacher.published):
        of_teacher = knob_table(published.name)
        knobs |= {name.replace("recipe", PUBLISHED, 1): knob for name, knob in of_teacher if name.startswith("recipe.")}
    return knobs


def _unset(knob: Knob) -> Knob:
    """A knob of FRAMER, which is None in a configuration: the variant decides."""
    return replace(knob, optional=True, default=None)


def knob_table(method: str) -> list[tuple[str, Knob]]:
    """Every knob of a method's configuration: (full name, knob), in the order of its sections."""
    return [(f"{section}.{knob.name}", knob) for section, knobs in knob_sections(method) for knob in knobs]


def check_config(config: Mapping[str, Any]) -> None:
    """Check a plain configuration before anything is read or computed: every knob, and values that must fit together.

    What only weights, photographs or devices can tell is checked where these are opened.

    Raises:
      ConfigError: a section is missing or is none; a value that is not legal, in one line with the knob and its legal
        values; values that do not fit together; or a published teacher with the sections of another method.
    """
    for section in SECTIONS[1:]:
        if not isinstance(config.get(section), Mapping):
            raise ConfigError(f"{section} is {shown(config.get(section))}: it must be a section of the configuration")
    try:
        method = method_of(config["recipe"])
        _check_knobs(config, method.name)
        _check_together(config, method)
        if published := config["recipe"].get("teacher", {}).get("published"):
            check_section_names(published, PUBLISHED)
            _check_knobs({"recipe": published}, published["name"], PUBLISHED)
    except ValueError as error:
        raise ConfigError(str(error)) from error


def _check_knobs(config: Mapping[str, Any], method: str, prefix: str = "recipe") -> None:
    for section, knobs in knob_sections(method):
        if section.startswith("recipe") or section in config:  # of a published teacher there is the recipe alone
            names = {knob.name for knob in knobs}
            path = section.replace("recipe", prefix, 1)
            values = _section_at(config, section, path)
            check_values(knobs, {name: value for name, value in values.items() if name in names}, path)


def _check_together(config: Mapping[str, Any], method: Method) -> None:
    """Check knobs that must fit together: those of a section, of the network and FRAMER, and of the run's length."""
    recipe, training = config["recipe"], config["training"]
    for name, settings in method.sections.items():
        settings_from(settings, recipe[name], f"recipe.{name}")
    for name, settings in SHARED.items():
        settings_from(settings, config[name], name)
    network, framer = configured_network(recipe), framer_settings(config["framer"])
    if framer is not None:
        check_taps(framer, network.tap_count)
        if framer.start_step >= training["steps"]:
            raise ValueError(
                f"framer.start_step is {framer.start_step}: FRAMER would never start, for training.steps is "
                f"{training['steps']}; use an earlier step, or framer.variant=none"
            )
    method.check_crop(recipe, config["data"]["crop"])
    # A batch with fewer examples than microbatches is refused elsewhere, in its own words.
    check_microbatch(recipe, max(1, training["global_batch"] // training["gradient_accumulation_steps"]))


def _section_at(config: Mapping[str, Any], section: str, path: str) -> Mapping[str, Any]:
    """The section, {} for a network's that the configuration does not have; `path` is its name in the error."""
    node: Any = config
    for part in section.split("."):
        node = node.get(part, {})
        if not isinstance(node, Mapping):
            raise ValueError(f"{path} is {shown(node)}: it must be a section of the configuration")
    return node


def check_section_names(recipe: Mapping[str, Any], section: str = "recipe") -> None:
    """Refuse a `recipe` section with the sections of another method than the one it names."""
    name = str(recipe.get("name"))
    if section != "recipe" and name not in {method.name for method in METHODS}:
        raise ConfigError(f"{section}.name is {name!r}: it must be one of {', '.join(one.name for one in METHODS)}")
    try:
        method = method_named(name)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    names = {"name", *(knob.name for knob in knobs_of(CommonSettings)), method.networks.section, *method.sections}
    if set(recipe) != names:
        raise ConfigError(
            f"{section}.name is {name!r}, and the sections are those of another method: start from "
            f"framer_jax.config.default({name!r}), or use with_method(config, {name!r})"
        )
