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
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict, config_dict

from framer_jax.checkpoints.migration import SCHEMA, renamed_knobs
from framer_jax.knobs import MISSING, Knob, legal_values, nearest, shown
from framer_jax.overrides import apply_override, parse_override
from framer_jax.recipes.table import DEFAULT_METHOD, METHODS, method_named
from framer_jax.sections import (
    SECTIONS,
    SHARED,
    ConfigError,
    check_config,
    check_section_names,
    knob_sections,
    knob_table,
    knobs_by_name,
)

__all__ = [
    "ConfigError",
    "call_file",
    "check_config",
    "config_file",
    "declare_knob",
    "default",
    "is_config",
    "knob_table",
    "load_config",
    "override_config",
    "shipped",
    "shipped_folder",
    "shipped_names",
    "split_variant",
    "to_dict",
    "with_later_knobs",
    "with_method",
]


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
    for section, knobs in knob_sections(method):
        node = config
        for part in section.split("."):
            if part not in node:
                node[part] = ConfigDict()
            node = node[part]
        for knob in knobs:
            declare_knob(node, knob)
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
    config: ConfigDict = call_file(config_file(name), "get_config", variant)
    return config


def config_file(name: str) -> Path:
    """The file of a shipped configuration; errors as of `shipped`."""
    names = shipped_names()
    if name not in names:
        raise ConfigError(f"no configuration named {name!r}{nearest(name, names)}; or give the path of a file")
    return shipped_folder() / f"{name}.py"


def shipped_names() -> list[str]:
    """Names of the configurations that ship."""
    return sorted(path.stem for path in shipped_folder().glob("*.py") if path.stem != "__init__")


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
    config = call_file(file, "get_config", variant)
    if not isinstance(config, ConfigDict):
        raise ConfigError(f"{file}: get_config() must return a ConfigDict, not {type(config).__name__}")
    if missing := [name for name in SECTIONS if name not in config]:
        raise ConfigError(f"{file}: get_config() gives no {', '.join(missing)}: start from framer_jax.config.default()")
    try:
        check_section_names(config.recipe)
    except ConfigError as error:
        raise ConfigError(f"{file}: {error}") from error
    try:
        return override_config(config, overrides)
    except ConfigError as error:
        if overrides:  # which may be the cause
            raise
        raise ConfigError(f"{file}: {error}") from error


def override_config(config: ConfigDict, overrides: Sequence[str]) -> ConfigDict:
    """Apply `key.path=value` overrides to a configuration, in place unless they choose another method, and check it.

    Raises:
      ConfigError: an unknown knob, a value that is not legal, or values that do not fit together.
    """
    try:
        pairs = [parse_override(override) for override in overrides]
        method = dict(pairs).get("recipe.name", config.recipe.name)  # the last one
        if method != config.recipe.name:
            config = with_method(config, method)
        config.lock()
        for key, text in pairs:
            if key != "recipe.name":
                apply_override(config, key, text, knobs_by_name(config.recipe))
        check_config(config.to_dict())
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


def with_later_knobs(config: Mapping[str, Any]) -> dict[str, Any]:
    """A stored configuration of the present schema with the knobs that were added since, at their defaults.

    The default of an added knob keeps the behavior from before it existed.
    """
    filled: dict[str, Any] = json.loads(json.dumps(config))
    method = filled["recipe"]["name"]
    networks = f"recipe.{method_named(method).networks.section}."
    for section, knobs in knob_sections(method):
        node = filled
        for part in section.split("."):
            # Of the networks, a stored configuration has the chosen one only.
            node = node.get(part, {}) if section.startswith(networks) else node.setdefault(part, {})
        for knob in knobs:
            if knob.name not in node:
                value = _at(filled, knob.follows.split(".")) if knob.follows else knob.default
                node[knob.name] = json.loads(json.dumps(value))
    teacher = filled["recipe"].get("teacher", {})
    if published := teacher.get("published"):
        teacher["published"] = with_later_knobs({"recipe": published})["recipe"]
    return filled


def declare_knob(node: ConfigDict, knob: Knob) -> None:
    """Add a knob with its default to a section."""
    if knob.default is MISSING:
        raise AssertionError(f"the knob {knob.name} has no default")
    if knob.type is dict:
        node[knob.name] = ConfigDict(knob.default)
    elif knob.optional:
        node[knob.name] = config_dict.placeholder(knob.type)
        if knob.default is not None:
            node[knob.name] = knob.default
    else:  # a float's type decides what files may set
        node[knob.name] = float(knob.default) if knob.type is float else knob.default


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


def shipped_folder() -> Path:
    """The folder of shipped configurations: of the installed package, or of a clone."""
    installed = Path(__file__).parent / "configs"
    return installed if installed.is_dir() else Path(__file__).parents[1] / "configs"


def call_file(path: Path, function: str, variant: Sequence[str]) -> Any:
    """What a function of a user's Python file returns.

    Args:
      path: the file.
      function: name of the function, such as 'get_config'.
      variant: its argument, or () for none.

    Raises:
      ConfigError: there is no such file or function, or running it failed; one line that names the file.
    """
    if not path.is_file():
        raise ConfigError(f"no configuration file {str(path)!r}: give the name of a shipped one, or the path of a file")
    spec = importlib.util.spec_from_file_location(f"_framer_jax_config_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    folder = str(path.resolve().parent.parent)  # former files say `from configs import default`
    sys.path.insert(0, folder)
    try:
        spec.loader.exec_module(module)
        called = getattr(module, function)
        if variant and not inspect.signature(called).parameters:
            raise ConfigError(f"{path} has no variants: omit ':{variant[0]}'")
        return called(*variant)
    except ConfigError:
        raise
    except Exception as error:  # whatever a user's file does wrong
        raise ConfigError(f"{path}: {_explained(error)}") from error
    finally:
        sys.path.remove(folder)


def _explained(error: Exception) -> str:
    """An error of a configuration file in one line, with the remedy where a knob or a section does not exist."""
    text = " ".join(str(error).split())
    if isinstance(error, ModuleNotFoundError) and error.name == "configs":
        return f"{text}: write `from framer_jax.config import default, shipped` instead"
    if isinstance(error, ArithmeticError | OSError | AssertionError | RecursionError) or not text:
        return f"{type(error).__name__} {text}".strip()
    if not isinstance(error, KeyError | AttributeError):
        refused = re.match(r"Could not override field '(\w+)' \(reference\)\. (.*) is of original type", text)
        return _refused(*refused.groups()) if refused else text
    matched = re.search(r'Key "(\w+)" does not exist', text) or re.match(r"\W*(\w+)\W*(?:$|n?Did you mean)", text)
    return f"unknown knob or section {matched[1]!r}{_remedy(matched[1])}" if matched else text


def _refused(name: str, value: str) -> str:
    """A value that ml_collections refused for its type, given by the knob's last name, with the legal values."""
    knobs = {path: knob for method in METHODS for path, knob in knob_table(method.name) if path.endswith(f".{name}")}
    words = [f"{path} must be {legal_values(knob)}" for path, knob in knobs.items()]
    return f"{name} is {shown(value)}: {'; '.join(words[:4]) or 'it is a section, so set one of its knobs'}"


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
