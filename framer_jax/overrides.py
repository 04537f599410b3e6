"""Overrides of a configuration, such as `training.steps=500`, as `--set` gives them on the command line."""

from __future__ import annotations

import ast
import logging
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from framer_jax.checkpoints.migration import present_knob, present_value
from framer_jax.knobs import Knob, as_tuple, check_values, nearest, shown

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


def apply_override(config: ConfigDict, key: str, text: str, knobs: Mapping[str, Knob]) -> None:
    """Set one knob of a configuration; `recipe.name` is for framer_jax.config.with_method.

    Args:
      config: the configuration.
      key: full name of the knob.
      text: its value, a Python literal or a plain string.
      knobs: the configuration's knobs by their full names.

    Raises:
      ValueError: an unknown knob, or a value that is not legal.
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
    knob = knobs.get(key)
    if knob is not None and knob.type is not dict:
        with node.ignore_type():  # the knob's type was checked, and its default may be of a narrower one
            node[last] = _legal_value(knob, key, text)
        return
    # Values of the user's own sections, and sizes of mesh axes: their types are those of the present values.
    value = text if isinstance(present, str) else literal(text)
    if knob is not None:
        check_values((knob,), {last: value}, ".".join(sections))
    if isinstance(value, bool) and node.get_type(last) is not bool:  # ml_collections takes it for a number
        raise ValueError(f"{key} is {shown(text)}: it must be of type {node.get_type(last).__name__}")
    if value is None and not key.startswith(FREE):  # which ml_collections accepts for any type
        raise ValueError(f"{key} is None: it needs a value; `framer-jax info METHOD --knobs` says which may be None")
    try:
        node[last] = value
    except (TypeError, ValueError) as error:
        raise ValueError(f"{key} is {shown(text)}: {' '.join(str(error).split())}") from error


def _legal_value(knob: Knob, key: str, text: str) -> Any:
    """The value of a knob that a text gives; a ValueError names the knob and its legal values."""
    # Where a string may be None, or empty to the same end, 'None' is not the name of a file or of a project.
    is_plain_text = knob.type is str and not (text == "None" and (knob.optional or knob.empty))
    value = text if is_plain_text else literal(text)
    section, _, last = key.rpartition(".")
    check_values((knob,), {last: value}, section)
    return float(value) if knob.type is float and value is not None else as_tuple(value)


def literal(text: str) -> Any:
    """The value of a Python literal, or the text itself if it is none."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
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
