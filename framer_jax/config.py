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

import copy
import importlib.util
import inspect
import json
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict, config_dict

from framer_jax.checkpoints.migration import SCHEMA, renamed_knobs
from framer_jax.data.settings import DataSettings
from framer_jax.knobs import MISSING, Knob, check_values, knobs_of, nearest
from framer_jax.losses.framer import VARIANTS, FramerSettings
from framer_jax.overrides import apply_override, parse_override
from framer_jax.recipes.components.networks import network_knobs
from framer_jax.recipes.framer import NO_FRAMER
from framer_jax.recipes.method import CommonSettings
from framer_jax.recipes.table import DEFAULT_METHOD, METHODS, method_named
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
        for knob in knobs:
            _declare(node, knob)
    return config.lock()


def with_method(config: ConfigDict, method: str) -> ConfigDict:
    """A copy of the configuration for another method: sections that both methods have stay as they are."""
    config, changed = copy.deepcopy(config), default(method)
    networks = method_named(method).networks
    with changed.unlocked():
        for section in ("framer", *SHARED):
            changed[section] = config[section]
        for name, value in config.recipe.items(preserve_field_references=True):
            if name == networks.section:
                _copy_network(changed.recipe[name], value, networks.names)
            elif name in changed.recipe and name != "name":
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
        _check_suffix(path, file)
        file = config_file(str(file))
    config = _get_config(file, variant)
    if not isinstance(config, ConfigDict):
        raise ConfigError(f"{file}: get_config() must return a ConfigDict, not {type(config).__name__}")
    if missing := [name for name in SECTIONS if name not in config]:
        raise ConfigError(f"{file}: get_config() gives no {', '.join(missing)}: start from framer_jax.config.default()")
    try:
        _check_section_names(config.recipe)
    except ConfigError as error:
        raise ConfigError(f"{file}: {error}") from error
    try:
        pairs = [parse_override(override) for override in overrides]
        method = dict(pairs).get("recipe.name", config.recipe.name)  # the last one
        if method != config.recipe.name:
            config = with_method(config, method)
        config.lock()
        for key, text in pairs:
            if key != "recipe.name":
                apply_override(config, key, text)
        check_config(to_dict(config))
    except ValueError as error:
        raise ConfigError(str(error)) from error
    return config


def _check_suffix(path: str | Path, file: Path) -> None:
    """Refuse a path without '.py', in words that are nearer to it than the list of shipped configurations."""
    if str(file) in shipped_names():
        return
    python = file.with_name(f"{file.name}.py") if file.name else file
    if python.is_file():
        raise ConfigError(f"no configuration named {str(path)!r}: did you mean the file {str(python)!r}?")
    if file.exists():
        kind = "a folder" if file.is_dir() else "a file whose name does not end in .py"
        raise ConfigError(f"{str(path)!r} is {kind}: give the name of a shipped configuration, or a Python file")


def is_config(path: str | Path) -> bool:
    """Whether this names a configuration: a Python file or, unless it exists as a file or folder, a shipped one."""
    file, _ = split_variant(path)
    return file.suffix == ".py" or (not Path(path).exists() and str(file) in shipped_names())


def split_variant(path: str | Path) -> tuple[Path, tuple[str, ...]]:
    """'a.py:b' → (a.py, ('b',)); 'name:b' → (name, ('b',)); without a variant (a.py, ())."""
    text = str(path)
    file, separator, variant = text.partition(".py:")
    if separator:
        return Path(f"{file}.py"), (variant,)
    name, separator, variant = text.partition(":")
    if separator and "/" not in text and not text.endswith(".py"):
        return Path(name), (variant,)
    return Path(path), ()


def knob_table(method: str) -> list[tuple[str, Knob]]:
    """Every knob of a method's configuration: (full name, knob), in the order of its sections."""
    return [(f"{section}.{knob.name}", knob) for section, knobs in _knob_sections(method) for knob in knobs]


def check_config(config: Mapping[str, Any]) -> None:
    """Check every knob of a plain configuration, and of the published teacher in it.

    Raises:
      ConfigError: a value that is not legal; the message names the knob and its legal values. Or the published teacher
        has the sections of another method than the one it names.
    """
    published = config["recipe"].get("teacher", {}).get("published")
    try:
        _check_knobs(config, config["recipe"]["name"])
        if published:
            _check_section_names(published, PUBLISHED)
            _check_knobs({"recipe": published}, published["name"], PUBLISHED)
    except ValueError as error:
        raise ConfigError(str(error)) from error


def _check_knobs(config: Mapping[str, Any], method: str, prefix: str = "recipe") -> None:
    for section, knobs in _knob_sections(method):
        names = {knob.name for knob in knobs}
        values = {name: value for name, value in _at(config, section.split(".")).items() if name in names}
        check_values(knobs, values, section.replace("recipe", prefix, 1))


def _check_section_names(recipe: Mapping[str, Any], section: str = "recipe") -> None:
    """Refuse a `recipe` section with the sections of another method than the one it names."""
    name = str(recipe.get("name"))
    if set(recipe) != set(default(name).recipe):
        raise ConfigError(
            f"{section}.name is {name!r}, and the sections are those of another method: start from "
            f"framer_jax.config.default({name!r}), or use with_method(config, {name!r})"
        )


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


def unusual_settings(config: Mapping[str, Any], most: int = 12) -> str:
    """Numbers of a plain configuration that differ from the defaults of its method, in words, at most `most` of them.

    Such settings are the first suspects where the first step of a run gives no finite numbers.
    """
    defaults = to_dict(default(config["recipe"]["name"]))
    changed = [
        f"{name}={value}"
        for name, knob in knob_table(config["recipe"]["name"])
        for *sections, last in [name.split(".")]
        for value in [_at(config, sections).get(last)]
        if knob.type in (float, int) and not knob.execution and value != _at(defaults, sections).get(last, value)
    ]
    more = f" and {len(changed) - most} more" if len(changed) > most else ""
    return f"{', '.join(changed[:most])}{more}"


def _knob_sections(method: str) -> Iterator[tuple[str, tuple[Knob, ...]]]:
    """(section, its knobs) of a method's configuration."""
    record = method_named(method)
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


def _unset(knob: Knob) -> Knob:
    """A knob of FRAMER, which is None in a configuration: the variant decides."""
    return replace(knob, optional=True, default=None)


def _declare(node: ConfigDict, knob: Knob) -> None:
    if knob.default is MISSING:
        raise AssertionError(f"the knob {knob.name} has no default")
    if knob.type is dict:
        node[knob.name] = ConfigDict(knob.default)
    elif knob.optional:
        node[knob.name] = config_dict.placeholder(knob.type)
        if knob.default is not None:
            node[knob.name] = knob.default
    else:
        node[knob.name] = knob.default


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
    folder = str(path.resolve().parent.parent)  # former files say `from configs import default`
    sys.path.insert(0, folder)
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
        sys.path.remove(folder)
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
    """The remedy for a knob or section, given by its last name, that a configuration does not have."""
    remedies = [f"{old} is now {new}" for old, new in renamed_knobs().items() if old.rsplit(".", 1)[-1] == key]
    if any(key in (*method.sections, method.networks.section) for method in METHODS):
        remedies.append(
            "for the section of another method, start from framer_jax.config.default(METHOD), or use "
            "with_method(config, METHOD)"
        )
    if remedies:
        return f": {'; '.join(remedies)}"
    return nearest(key, {part for method in METHODS for name, _ in knob_table(method.name) for part in name.split(".")})
