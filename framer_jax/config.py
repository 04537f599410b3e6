"""Configurations: Python files with a `get_config()` that returns an ml_collections ConfigDict.

`default(method)` has the sections that all methods share and those of one method, generated from the settings classes
that define the knobs. A configuration file changes some of them:

    from framer_jax.config import default

    def get_config():
        config = default("sinsr")
        config.training.steps = 500
        return config

Unknown knobs and values that are not legal are errors, in files and on the command line.
"""

from __future__ import annotations

import ast
import importlib.util
import inspect
import json
import logging
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict, FieldReference, config_dict

from framer_jax.checkpoints.migration import RENAMED, SCHEMA, present_knob, present_value
from framer_jax.data.settings import DataSettings
from framer_jax.knobs import MISSING, Knob, check_values, knobs_of, nearest
from framer_jax.losses.framer import VARIANTS, FramerSettings
from framer_jax.recipes.components.networks import network_knobs
from framer_jax.recipes.framer import NO_FRAMER
from framer_jax.recipes.method import CommonSettings
from framer_jax.recipes.table import DEFAULT_METHOD, METHODS, method_named
from framer_jax.training.logging import LoggingSettings
from framer_jax.training.settings import TrainingSettings

LOGGER = logging.getLogger(__name__)

SECTIONS = ("schema", "recipe", "framer", "data", "training", "logging")
"""What every configuration has."""

SHARED: Mapping[str, type] = {"data": DataSettings, "training": TrainingSettings, "logging": LoggingSettings}
"""Sections that all methods share → their settings classes."""

FREE = ("training.updates.", "recipe.teacher.published.")
"""Sections whose keys are the user's own."""

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


def default(method: str = DEFAULT_METHOD.name) -> ConfigDict:
    """The default configuration of a method: the shared sections, and the sections of this method only.

    Raises:
      ConfigError: there is no such method; the message names the nearest.
    """
    try:
        record = method_named(method)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    config = ConfigDict({"schema": SCHEMA})
    config.recipe = ConfigDict({"name": record.name})
    for section, knobs in _knob_sections(method):
        node = config
        for part in section.split("."):
            if part not in node:
                node[part] = ConfigDict()
            node = node[part]
        if section == f"recipe.{record.networks.section}":
            node.name = record.networks.names[0]
        for knob in knobs:
            _declare(node, knob)
    return config.lock()


def with_method(config: ConfigDict, method: str) -> ConfigDict:
    """The configuration for another method: shared sections, and sections that both methods have, stay as they are."""
    changed = default(method)
    with changed.unlocked():
        for section in ("framer", *SHARED):
            changed[section] = config[section]
        for name, value in config.recipe.items(preserve_field_references=True):
            if name in changed.recipe and name != "name":
                if name == method_named(method).networks.section:
                    _copy_network(changed.recipe[name], config.recipe[name], method_named(method).networks.names)
                else:
                    changed.recipe[name] = value
    return changed.lock()


def shipped(name: str, *variant: str) -> ConfigDict:
    """A configuration that ships with framer_jax, by the name of its file; for files that build on another one.

    Raises:
      ConfigError: there is none of that name; the message names the nearest.
    """
    return _get_config(config_file(name), variant)


def config_file(name: str) -> Path:
    """The file of a shipped configuration; errors as of `shipped`."""
    names = shipped_names()
    if name not in names:
        raise ConfigError(f"no configuration named {name!r}{nearest(name, names)}; or give the path of a file")
    return _shipped_folder() / f"{name}.py"


def shipped_names() -> list[str]:
    """Names of the configurations that ship."""
    return sorted(path.stem for path in _shipped_folder().glob("*.py") if path.stem != "__init__")


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> ConfigDict:
    """Read a configuration and apply `key.path=value` overrides.

    Args:
      path: name of a shipped configuration, or a Python file that defines `get_config()`; with ':VARIANT' behind it,
        one whose `get_config(VARIANT)` knows several.
      overrides: such as 'training.steps=500' or 'data.train=my/folder'; values are Python literals or plain strings.
        Knob names of the version before are accepted with a note.

    Raises:
      ConfigError: no such file, no `get_config`, an unknown knob, a value of another type or out of its range, or None
        where a value is needed.
    """
    file, variant = split_variant(path)
    if file.suffix != ".py":
        file = config_file(str(file))
    config = _get_config(file, variant)
    if not isinstance(config, ConfigDict):
        raise ConfigError(f"{file}: get_config() must return a ConfigDict, not {type(config).__name__}")
    if missing := [name for name in SECTIONS if name not in config]:
        raise ConfigError(f"{file}: get_config() gives no {', '.join(missing)}: start from framer_jax.config.default()")
    _check_sections(config, file)
    pairs = [_present_override(override) for override in overrides]
    method = dict(pairs).get("recipe.name", config.recipe.name)  # the last one
    if method != config.recipe.name:
        config = with_method(config, method)
    config.lock()
    for key, text in pairs:
        if key != "recipe.name":
            _apply(config, key, text)
    check_config(to_dict(config))
    return config


def is_config(path: str | Path) -> bool:
    """Whether this names a configuration: a Python file, or a shipped one (perhaps with a variant)."""
    file, _ = split_variant(path)
    return file.suffix == ".py" or str(file) in shipped_names()


def split_variant(path: str | Path) -> tuple[Path, tuple[str, ...]]:
    """'a.py:b' → (a.py, ('b',)); 'name:b' → (name, ('b',)); without a variant (a.py, ())."""
    matched = re.fullmatch(r"(.*?(?:\.py|[\w-]+)):([\w.-]+)", str(path))
    if matched and ("/" not in matched[1] or matched[1].endswith(".py")):
        return Path(matched[1]), (matched[2],)
    return Path(path), ()


def knob_table(method: str) -> list[tuple[str, Knob]]:
    """Every knob of a method's configuration: (full name, knob), in the order of its sections."""
    return [
        (f"{section}.{knob.name}" if section else knob.name, knob)
        for section, knobs in _knob_sections(method)
        for knob in knobs
    ]


def check_config(config: Mapping[str, Any]) -> None:
    """Check every knob of a plain configuration.

    Raises:
      ConfigError: a value that is not legal; the message names the knob and its legal values.
    """
    try:
        for section, knobs in _knob_sections(config["recipe"]["name"]):
            names = {knob.name for knob in knobs}
            values = {name: value for name, value in _at(config, section.split(".")).items() if name in names}
            check_values(knobs, values, section)
    except ValueError as error:
        raise ConfigError(str(error)) from error


def to_dict(config: ConfigDict) -> dict[str, Any]:
    """Plain nested dict of JSON types, as checkpoints, weights files and sidecars hold it.

    Knobs that follow another one where they are None have its value; of the networks, only the chosen one is kept.
    """
    plain: dict[str, Any] = json.loads(json.dumps(config.to_dict()))
    for name, knob in knob_table(plain["recipe"]["name"]):
        if knob.follows:
            *sections, last = name.split(".")
            section = _at(plain, sections)
            if section and section.get(last, 0) is None:
                *followed, followed_last = knob.follows.split(".")
                section[last] = _at(plain, followed)[followed_last]
    _keep_chosen_network(plain["recipe"])
    return plain


def _knob_sections(method: str) -> Iterator[tuple[str, tuple[Knob, ...]]]:
    """(section, its knobs) of a method's configuration."""
    record = method_named(method)
    yield "recipe", knobs_of(CommonSettings)
    section = record.networks.section
    yield f"recipe.{section}", ()
    for network in record.networks.names:
        yield f"recipe.{section}.{network}", network_knobs(network)
    for name, settings in record.sections.items():
        yield f"recipe.{name}", knobs_of(settings)
    yield "framer", (VARIANT, *(_unset(knob) for knob in knobs_of(FramerSettings)))
    for name, settings in SHARED.items():
        yield name, knobs_of(settings)


def _unset(knob: Knob) -> Knob:
    """A knob of FRAMER, which is None in a configuration: the variant decides."""
    return replace(knob, optional=True, default=None)


def _declare(node: ConfigDict, knob: Knob) -> None:
    if knob.default is MISSING:
        raise AssertionError(f"the knob {knob.name} has no default")
    if knob.type is dict:
        node[knob.name] = ConfigDict(_nested(knob.default))
    elif knob.optional:
        node[knob.name] = config_dict.placeholder(knob.type)
        if knob.default is not None:
            node[knob.name] = knob.default
    else:
        node[knob.name] = knob.default


def _nested(value: Mapping[str, Any]) -> dict[str, Any]:
    return {key: _nested(item) if isinstance(item, Mapping) else item for key, item in value.items()}


def _copy_network(target: ConfigDict, source: ConfigDict, names: Sequence[str]) -> None:
    if source.name in names:
        target.name = source.name
    for name in names:
        if name in source and name in target:
            target[name] = source[name]


def _keep_chosen_network(recipe: dict[str, Any]) -> None:
    for section in ("denoiser", "student"):
        if section in recipe:
            name = recipe[section]["name"]
            recipe[section] = {key: value for key, value in recipe[section].items() if key in ("name", name)}
    if published := recipe.get("teacher", {}).get("published"):
        _keep_chosen_network(published)


def _at(tree: Mapping[str, Any], parts: Sequence[str]) -> Any:
    node: Any = tree
    for part in parts:
        node = node.get(part, {})
    return node


def _shipped_folder() -> Path:
    """The folder of shipped configurations: of the installed package, or of a clone."""
    installed = Path(__file__).parent / "configs"
    return installed if installed.is_dir() else Path(__file__).parents[1] / "configs"


def _get_config(path: Path, variant: Sequence[str]) -> ConfigDict:
    if not path.is_file():
        raise ConfigError(f"no configuration file {str(path)!r}: give the name of a shipped one, or the path of a file")
    spec = importlib.util.spec_from_file_location(f"_framer_jax_config_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(path.resolve().parents[1]))  # former files say `from configs import default`
    try:
        spec.loader.exec_module(module)
        if variant and not inspect.signature(module.get_config).parameters:
            raise ConfigError(f"{path} has no variants: omit ':{variant[0]}'")
        config: ConfigDict = module.get_config(*variant)
    except ConfigError:
        raise
    except (AttributeError, NameError, KeyError, TypeError, ValueError, SyntaxError, ImportError) as error:
        raise ConfigError(f"{path}: {_explained(error)}") from error
    finally:
        sys.path.pop(0)
    return config


def _explained(error: Exception) -> str:
    """An error of a configuration file in one line, with the remedy where a knob or a section does not exist."""
    text = " ".join(str(error).split())
    if isinstance(error, ModuleNotFoundError) and error.name == "configs":
        return f"{text}: write `from framer_jax.config import default, shipped` instead"
    if not isinstance(error, KeyError | AttributeError):
        return text  # ml_collections names the type that it expects
    matched = re.search(r'Key "(\w+)" does not exist', text) or re.match(r"\W*(\w+)\W*(?:$|n?Did you mean)", text)
    return f"unknown knob or section {matched[1]!r}{_remedy(matched[1])}" if matched else text


def _remedy(key: str) -> str:
    """What to write instead of a knob or section, given by its last name, that a configuration does not have."""
    tables = [RENAMED, *({f"recipe.{a}": f"recipe.{b}" for a, b in m.renamed_knobs.items()} for m in METHODS)]
    renamed = {old: new for table in tables for old, new in table.items() if old.rsplit(".", 1)[-1] == key}
    remedies = [f"{old} is now {new}" for old, new in renamed.items()]
    if any(key in (*method.sections, method.networks.section) for method in METHODS):
        remedies.append(
            "for the section of another method, start from framer_jax.config.default(METHOD), or use "
            "with_method(config, METHOD)"
        )
    if remedies:
        return f": {'; '.join(remedies)}"
    return nearest(key, {part for method in METHODS for name, _ in knob_table(method.name) for part in name.split(".")})


def _check_sections(config: ConfigDict, file: Path) -> None:
    """Refuse a configuration whose `recipe` section has the sections of another method than the one it names."""
    name = str(config.recipe.get("name"))
    try:
        sections = set(default(name).recipe)
    except ConfigError as error:
        raise ConfigError(f"{file}: {error}") from error
    if set(config.recipe) != sections:
        raise ConfigError(
            f"{file}: recipe.name is {name!r}, and the sections are those of another method: start from "
            f"framer_jax.config.default({name!r}), or use with_method(config, {name!r})"
        )


def _present_override(override: str) -> tuple[str, str]:
    """(knob, text of its value) of a 'key.path=value' override, in present names."""
    key, separator, text = override.partition("=")
    if not separator:
        raise ConfigError(f"cannot read the override {override!r}: write key=value, such as training.steps=500")
    present = present_knob(key)
    if present != key:
        LOGGER.warning("%s is now %s; the old name is accepted in this version only", key, present)
    return present, str(present_value(present, text))


def _apply(config: ConfigDict, key: str, text: str) -> None:
    node: Any = config
    *sections, last = key.split(".")
    for depth, part in enumerate((*sections, last)):
        if not isinstance(node, ConfigDict) or part not in node:
            raise ConfigError(f"unknown knob {key!r}{_nearest_knob(config, key)}")
        if depth < len(sections):
            node = node[part]
    present = node[last]
    if isinstance(present, ConfigDict) and len(present):
        raise ConfigError(f"{key} is a section: set one of its knobs, {', '.join(sorted(present))}")
    if key == "schema":
        raise ConfigError("schema is the version of the configuration's layout: it cannot be set")
    value: Any = text
    optional = isinstance(dict(node.items(preserve_field_references=True))[last], FieldReference)
    if not isinstance(present, str) or (optional and text == "None"):
        try:
            value = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            value = text
    if isinstance(value, bool) and node.get_type(last) is not bool:  # ml_collections takes it for a number
        raise ConfigError(f"{key}={text}: it must be of type {node.get_type(last).__name__}")
    if value is None and not optional and not key.startswith(FREE):  # which ml_collections accepts for any type
        raise ConfigError(
            f"{key}=None: it needs a value; `framer-jax info METHOD --knobs` says which knobs may be None"
        )
    try:
        node[last] = value
    except TypeError as error:
        raise ConfigError(f"{key}={text}: {' '.join(str(error).split())}") from error


def _nearest_knob(config: ConfigDict, key: str) -> str:
    """The known knob nearest to an unknown one."""
    known = [name for name, _ in knob_table(config.recipe.name)]
    hint = nearest(key, known)
    if hint.startswith(": known"):
        section = key.rpartition(".")[0]
        siblings = ", ".join(sorted(name for name in known if name.startswith(f"{section}.")))
        return f": {section} has {siblings}" if siblings else ": see `framer-jax info METHOD --knobs`"
    return hint
