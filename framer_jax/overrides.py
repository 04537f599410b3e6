"""Overrides of a configuration, such as `training.steps=500`, as `--set` gives them on the command line."""

from __future__ import annotations

import ast
import logging
from typing import Any

from ml_collections import ConfigDict, FieldReference

from framer_jax.checkpoints.migration import present_knob, present_value
from framer_jax.knobs import nearest

LOGGER = logging.getLogger(__name__)

FREE = "training.updates."
"""Beginning of the knobs whose names and types are the user's own."""


def parse_override(override: str) -> tuple[str, str]:
    """(knob, text of its value) of a 'key.path=value' override, in present names; former names are logged.

    Raises:
      ValueError: there is no '='.
    """
    key, separator, text = override.partition("=")
    if not separator:
        raise ValueError(f"cannot read the override {override!r}: write key=value, such as training.steps=500")
    present = present_knob(key)
    if present != key:
        LOGGER.warning("%s is now %s; the old name is accepted in this version only", key, present)
    return present, str(present_value(present, text))


def apply_override(config: ConfigDict, key: str, text: str) -> None:
    """Set one knob of a configuration; `recipe.name` is for framer_jax.config.with_method.

    Args:
      config: the configuration.
      key: full name of the knob.
      text: its value, a Python literal or a plain string.

    Raises:
      ValueError: an unknown knob, a value of another type, or None where a value is needed.
    """
    node: Any = config
    *sections, last = key.split(".")
    for depth, part in enumerate((*sections, last)):
        if not isinstance(node, ConfigDict) or part not in node:
            raise ValueError(f"unknown knob {key!r}{_nearest_knob(config, key)}")
        if depth < len(sections):
            node = node[part]
    present = node[last]
    if isinstance(present, ConfigDict) and len(present):
        raise ValueError(f"{key} is a section: set one of its knobs, {', '.join(sorted(present))}")
    if key == "schema":
        raise ValueError("schema is the version of the configuration's layout: it cannot be set")
    optional = isinstance(dict(node.items(preserve_field_references=True))[last], FieldReference)
    is_text = isinstance(present, str) and not (optional and text == "None")
    value = text if is_text else literal(text)
    if isinstance(value, bool) and node.get_type(last) is not bool:  # ml_collections takes it for a number
        raise ValueError(f"{key}={text}: it must be of type {node.get_type(last).__name__}")
    if value is None and not optional and not key.startswith(FREE):  # which ml_collections accepts for any type
        raise ValueError(f"{key}=None: it needs a value; `framer-jax info METHOD --knobs` says which knobs may be None")
    try:
        node[last] = value
    except TypeError as error:
        raise ValueError(f"{key}={text}: {' '.join(str(error).split())}") from error


def literal(text: str) -> Any:
    """The value of a Python literal, or the text itself if it is none."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def _nearest_knob(config: ConfigDict, key: str) -> str:
    """A hint at the known knob nearest to an unknown one, or at the knobs of its section."""
    known = _leaf_names(config)
    hint = nearest(key, known)
    if hint.startswith(": known"):
        section = key.rpartition(".")[0]
        siblings = ", ".join(sorted(name for name in known if name.startswith(f"{section}.")))
        return f": {section} has {siblings}" if siblings else ": see `framer-jax info METHOD --knobs`"
    return hint


def _leaf_names(config: ConfigDict, prefix: str = "") -> list[str]:
    """Full names of all knobs of a configuration, those of the user's own sections included."""
    names: list[str] = []
    for name, value in config.items():
        names += _leaf_names(value, f"{prefix}{name}.") if isinstance(value, ConfigDict) and value else [prefix + name]
    return names
