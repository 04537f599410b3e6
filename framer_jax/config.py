"""Configuration files: Python files with a `get_config()` that returns an ml_collections ConfigDict.

Overlays import the documented defaults (`from configs import default`) and change a few knobs. Unknown keys and values
of the wrong type are errors, in files and on the command line.
"""

from __future__ import annotations

import ast
import importlib.util
import inspect
import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict, FieldReference

SECTIONS = ("recipe", "framer", "data", "training", "logging")
"""What every configuration has; configs/default.py documents all that is in them."""


FREE = "training.updates."
"""The section whose keys are the user's own."""


class ConfigError(ValueError):
    """A configuration that cannot be used; the message is one line that says what and what to do."""


def load_config(path: str | Path, changes: Sequence[str] = ()) -> ConfigDict:
    """Read a configuration file and apply `key.path=value` changes.

    Args:
      path: a Python file that defines `get_config()`; with ':VARIANT' behind it, one whose `get_config(VARIANT)` knows
        several.
      changes: such as 'training.steps=500' or 'data.train=my/folder'; values are Python literals or plain strings.

    Raises:
      ConfigError: no such file, no `get_config`, an unknown key, a value of another type, or none where one is needed.
    """
    path, variant = split_variant(path)
    if not path.is_file():
        raise ConfigError(f"no configuration file {str(path)!r}: give the path of a file such as configs/starter.py")
    spec = importlib.util.spec_from_file_location(f"_framer_jax_config_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with _importable(path.resolve().parent.parent):
        try:
            spec.loader.exec_module(module)
            if variant and not inspect.signature(module.get_config).parameters:
                raise ConfigError(f"{path} has no variants: leave ':{variant[0]}' out")
            config = module.get_config(*variant)
        except ConfigError:
            raise
        except (AttributeError, NameError, KeyError, TypeError, ValueError, SyntaxError, ImportError) as error:
            # ml_collections names the unknown key and its neighbours, or the type that it wants
            raise ConfigError(f"{path}: {' '.join(str(error).split())}") from error
    if not isinstance(config, ConfigDict):
        raise ConfigError(f"{path}: get_config() must return a ConfigDict, not {type(config).__name__}")
    if missing := [name for name in SECTIONS if name not in config]:
        raise ConfigError(f"{path}: get_config() gives no {', '.join(missing)}: start from default.get_config()")
    config.lock()
    for change in changes:
        _apply(config, change)
    return config


def split_variant(path: str | Path) -> tuple[Path, tuple[str, ...]]:
    """'a.py:b' → (a.py, ('b',)); without a variant (a.py, ())."""
    file, separator, variant = str(path).partition(".py:")
    return (Path(f"{file}.py"), (variant,)) if separator else (Path(path), ())


@contextmanager
def _importable(folder: Path) -> Iterator[None]:
    """Let overlays write `from configs import default`, wherever the command is run."""
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))


def _apply(config: ConfigDict, change: str) -> None:
    key, separator, text = change.partition("=")
    if not separator:
        raise ConfigError(f"cannot read the change {change!r}: write key=value, such as training.steps=500")
    node: Any = config
    parts = key.split(".")
    for depth, part in enumerate(parts):
        if not isinstance(node, ConfigDict) or part not in node:
            known = ", ".join(sorted(node)) if isinstance(node, ConfigDict) else "nothing"
            where = ".".join(parts[:depth]) or "the configuration"
            raise ConfigError(f"unknown key {key!r}: {where} has {known}")
        if depth < len(parts) - 1:
            node = node[part]
    present = node[parts[-1]]
    if isinstance(present, ConfigDict) and len(present):
        raise ConfigError(f"{key} is a section: set one of its keys, {', '.join(sorted(present))}")
    value: Any = text
    optional = isinstance(dict(node.items(preserve_field_references=True))[parts[-1]], FieldReference)
    if not isinstance(present, str) or (optional and text == "None"):
        try:
            value = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            value = text
    if isinstance(value, bool) and node.get_type(parts[-1]) is not bool:  # ml_collections takes it for a number
        raise ConfigError(f"{key}={text}: it must be of type {node.get_type(parts[-1]).__name__}")
    if value is None and not optional and not key.startswith(FREE):  # which ml_collections takes for anything
        raise ConfigError(f"{key}=None: it needs a value; the knobs that may have none say so in configs/default.py")
    try:
        node[parts[-1]] = value
    except TypeError as error:
        raise ConfigError(f"{key}={text}: {' '.join(str(error).split())}") from error


def to_dict(config: ConfigDict) -> dict[str, Any]:
    """Plain nested dict of JSON types: what checkpoints, weights files and sidecars carry.

    Knobs that follow another one where they are None have its value.
    """
    plain = json.loads(json.dumps(config.to_dict()))
    dtkd = plain["recipe"].get("dtkd", {})
    if dtkd.get("ramp_steps", 0) is None:
        dtkd["ramp_steps"] = plain["training"]["steps"]
    return plain
