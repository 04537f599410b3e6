"""Configurations and knob names of earlier versions, brought to the present schema.

A stored configuration has a schema version; one without it is of version 1, when every configuration had the sections
of all methods. The renamed knobs of a method are in its record (`Method.renamed_knobs`), those of a network in
framer_jax.porting.table, as ported files have them too, and those of the shared sections here. Former knob names are
accepted on the command line for one version.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from framer_jax.knobs import knobs_of
from framer_jax.porting.table import RENAMED_ARGUMENTS, RENAMED_MODELS
from framer_jax.recipes.method import CommonSettings
from framer_jax.recipes.table import METHODS, method_named

SCHEMA = 2
"""Version of the configuration's layout; the key `schema` of every configuration."""

RENAMED = {
    "framer.reading": "framer.variant",
    "framer.adaptive_weight": "framer.faw",
    "framer.adaptive_modulation": "framer.fam",
    "data.null_ratio": "data.caption_dropout",
    "data.framing": "data.crop_mode",
    "data.turns": "data.flip_and_rotate",
    "training.accumulate": "training.gradient_accumulation_steps",
}
"""Former knob → present knob, of the sections that all methods share."""

Config = Mapping[str, Any]


class SchemaError(ValueError):
    """A configuration of a schema that this version does not know."""


@lru_cache(maxsize=1)
def renamed_knobs() -> dict[str, str]:
    """Former full knob name, or beginning of one, → the present one."""
    table = dict(RENAMED)
    for method in METHODS:
        table |= {f"recipe.{old}": f"recipe.{new}" for old, new in method.renamed_knobs.items()}
        for name in method.networks.names:
            present = f"recipe.{method.networks.section}.{name}"
            former = [f"recipe.{method.networks.section}.{old}" for old, new in RENAMED_MODELS.items() if new == name]
            table |= dict.fromkeys(former, present)
            for old, new in RENAMED_ARGUMENTS.get(name, {}).items():
                table |= dict.fromkeys((f"{network}.{old}" for network in (present, *former)), f"{present}.{new}")
    return table


def present_knob(name: str) -> str:
    """The present full name of a knob, such as 'recipe.space.checkpoint' for 'recipe.space.weights'."""
    if name.startswith("recipe.teacher.published."):
        return f"recipe.teacher.published.{present_knob('recipe.' + name.split('.', 3)[3])[len('recipe.') :]}"
    parts = name.split(".")
    for length in range(len(parts), 0, -1):  # the longest beginning that was renamed
        if (new := renamed_knobs().get(".".join(parts[:length]))) is not None:
            return ".".join((new, *parts[length:]))
    return name


def present_value(knob: str, value: Any) -> Any:
    """The present value of a knob whose values are names: methods and networks that were renamed."""
    if knob.endswith("recipe.name") or knob == "recipe.teacher.published.name":
        former = {old: method.name for method in METHODS for old in method.former_names}
    elif knob.endswith(("denoiser.name", "student.name")):
        former = RENAMED_MODELS
    else:
        return value
    return former.get(value, value)


def present_knobs(values: Mapping[str, Any]) -> dict[str, Any]:
    """Full knob name → value with present names and values, such as of a manifest of precomputed records."""
    return {new: present_value(new, value) for knob, value in values.items() for new in [present_knob(knob)]}


def migrate(config: Config) -> dict[str, Any]:
    """A stored configuration in the present schema, with the sections of its own method only.

    Raises:
      SchemaError: it was written by a newer version, or is damaged.
    """
    try:
        schema = config.get("schema", 1)
        if schema == SCHEMA:
            return dict(config)
        if schema == 1:
            return _from_schema_1(config)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise SchemaError(
            f"the configuration is of another version or damaged ({type(error).__name__}: {error})"
        ) from error
    raise SchemaError(
        f"the configuration has schema {schema!r}, and this version of framer_jax knows schemas 1 to {SCHEMA}: "
        "install the version that wrote it"
    )


def _from_schema_1(config: Config) -> dict[str, Any]:
    migrated: dict[str, Any] = {"schema": SCHEMA, "recipe": migrate_recipe(config["recipe"])}
    for section, values in config.items():
        if section in ("framer", "data", "training"):
            knobs = present_knobs({f"{section}.{knob}": value for knob, value in values.items()})
            migrated[section] = {knob.split(".", 1)[1]: value for knob, value in knobs.items()}
        elif section == "weights":  # digests by full knob names, which checkpoints store with the configuration
            migrated[section] = present_knobs(values)
        elif section not in ("recipe", "schema"):
            migrated[section] = values
    return migrated


def migrate_recipe(recipe: Config) -> dict[str, Any]:
    """The `recipe` section of schema 1 in the present schema."""
    flat = present_knobs(_flat(recipe, "recipe"))
    method = method_named(str(flat.get("recipe.name")))
    section = method.networks.section
    network = flat.get(f"recipe.{section}.name", method.networks.names[0])
    migrated: dict[str, Any] = {"name": method.name}
    for common in knobs_of(CommonSettings):
        migrated[common.name] = flat.get(f"recipe.{common.name}", common.default)
    migrated[section] = {"name": network, network: _section(flat, f"recipe.{section}.{network}")}
    for name, settings in method.sections.items():
        defaults = {knob.name: knob.default for knob in knobs_of(settings)}
        migrated[name] = {**defaults, **_section(flat, f"recipe.{name}")}
    published = recipe.get("teacher", {}).get("published")
    if published and "teacher" in migrated:
        migrated["teacher"]["published"] = migrate_recipe(published)
    return migrated


def _section(flat: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """The knobs directly below a section."""
    names = {name: name.removeprefix(f"{prefix}.") for name in flat if name.startswith(f"{prefix}.")}
    return {short: flat[name] for name, short in names.items() if "." not in short}


def _flat(tree: Any, prefix: str) -> dict[str, Any]:
    """Full knob name → value; the configuration of a published teacher stays one value."""
    if not isinstance(tree, Mapping) or prefix == "recipe.teacher.published":
        return {prefix: tree}
    return {name: value for key, item in tree.items() for name, value in _flat(item, f"{prefix}.{key}").items()}
