"""Knobs: fields of settings classes that state their type, default, unit, legal values and meaning in one place.

A settings class is a frozen dataclass (or a flax module, which is one too) whose configurable fields are made by
`knob`. Configurations, `framer-jax info METHOD --knobs`, the documentation and the checks are all derived from it.
"""

from __future__ import annotations

import copy
import dataclasses
import difflib
import functools
import math
import re
import types
import typing
import warnings
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

MISSING = dataclasses.MISSING

_METADATA_KEY = "framer_jax.knob"

_ACCEPTED: Mapping[type, Any] = {float: int | float, tuple: list | tuple, dict: Mapping}
"""Type of a knob → types of its values, where that is not the same type."""

LARGEST_INT = 2**31 - 1
"""The largest whole number of a knob without a smaller bound: steps, seeds and sizes are int32 where they are used."""

SMALLEST_FLOAT, LARGEST_FLOAT = float(np.finfo(np.float32).tiny), float(np.finfo(np.float32).max)
"""The range of the magnitudes of float32, in which numbers are used."""

MAX_WEIGHT = 1e6
"""The largest weight of a term of a loss."""

PlainType = type
"""The type of a value, by a name that no attribute of `Knob` hides."""

SHOWN = 60
"""Characters of a refused value that a message shows."""


@dataclasses.dataclass(frozen=True)
class Knob:
    """One configurable value.

    Attributes:
      name: name of the field.
      type: `int`, `float`, `str`, `bool`, `tuple` or `dict`.
      optional: whether None is a legal value.
      default: the default; `MISSING` where a value must be given.
      meaning: one sentence of documentation.
      unit: unit of a number, '' where it has none.
      choices: the legal values, () where a range decides.
      at_least, above, at_most, below: the range of a number, None where it is open.
      item: type of the values of a tuple, None where they are not plain; choices and range are those of the values.
      length: number of values of a tuple, None for any number.
      empty: whether the empty string, or an empty tuple, is a legal value.
      regex: whether a string, or each value of a tuple, must be a regular expression.
      follows: configuration path of the knob whose value this one takes when it is None.
      execution: the knob decides how the same numbers are computed, so trained weights do not depend on it.
    """

    name: str
    type: type
    optional: bool
    default: Any
    meaning: str
    unit: str = ""
    choices: tuple[Any, ...] = ()
    at_least: float | None = None
    above: float | None = None
    at_most: float | None = None
    below: float | None = None
    item: PlainType | None = None
    length: int | None = None
    empty: bool = False
    regex: bool = False
    follows: str = ""
    execution: bool = False


def knob(
    default: Any,
    meaning: str,
    *,
    unit: str = "",
    choices: Iterable[Any] = (),
    at_least: float | None = None,
    above: float | None = None,
    at_most: float | None = None,
    below: float | None = None,
    empty: bool = False,
    regex: bool = False,
    follows: str = "",
    execution: bool = False,
) -> Any:
    """A dataclass field with documentation; see `Knob` for the arguments."""
    facts = {
        "meaning": meaning,
        "unit": unit,
        "choices": tuple(choices),
        "at_least": at_least,
        "above": above,
        "at_most": at_most,
        "below": below,
        "empty": empty,
        "regex": regex,
        "follows": follows,
        "execution": execution,
    }
    metadata = {_METADATA_KEY: facts}
    if isinstance(default, dict):  # every settings object gets its own
        return dataclasses.field(default_factory=lambda: copy.deepcopy(default), metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def inherited_knob(base: type, name: str, default: Any) -> Any:
    """The knob `name` of a base class with another default."""
    fields = {field.name: field for field in dataclasses.fields(base)}
    return dataclasses.field(default=default, metadata=fields[name].metadata)


def knobs_of(settings: type) -> tuple[Knob, ...]:
    """The knobs of a settings class or flax module, in the order of its fields."""
    resolved: Any = settings
    return _knobs_of(resolved)


@functools.cache  # resolving annotations takes a millisecond, and modules are built many times in a trace
def _knobs_of(settings: Any) -> tuple[Knob, ...]:
    annotations = typing.get_type_hints(settings)
    knobs = []
    for field in dataclasses.fields(settings):
        if _METADATA_KEY in field.metadata:
            plain, optional, (item, length) = _plain_type(annotations[field.name])
            default = field.default if field.default_factory is MISSING else field.default_factory()
            facts = field.metadata[_METADATA_KEY]
            knobs.append(Knob(field.name, plain, optional, default, item=item, length=length, **facts))
    return tuple(knobs)


def legal_values(knob: Knob) -> str:
    """The legal values in words, such as 'one of sum, mean' or 'a number from 0 to 1'."""
    if knob.type is tuple:
        words = _list_in_words(knob)
    elif knob.choices:
        words = f"one of {', '.join(map(_shown, knob.choices))}"
    elif knob.type in (int, float):
        kind = "a whole number" if knob.type is int else "a number"
        words = " ".join(part for part in (kind, _range(knob)) if part)
    elif knob.type is str:
        words = f"{'a regular expression' if knob.regex else 'a string'}{'' if knob.empty else ' that is not empty'}"
    else:
        words = {bool: "True or False", dict: "a section"}[knob.type]
    return f"{words}, or None" if knob.optional else words


def _list_in_words(knob: Knob) -> str:
    count = "a list of" if knob.length is None else f"a list of {knob.length}"
    kinds = {int: "whole numbers", float: "numbers", str: "regular expressions" if knob.regex else "strings"}
    values = kinds.get(knob.item, "values") if knob.item else "values"
    if knob.choices:
        values = f"{values} among {', '.join(map(_shown, knob.choices))}"
    words = " ".join(part for part in (count, values, _range(knob)) if part)
    return words if knob.empty or knob.length else f"{words} that is not empty"


def _range(knob: Knob) -> str:
    """The range of a number in words, '' if it is open on both sides."""
    if knob.at_least is not None and knob.at_most is not None:
        return f"from {knob.at_least:.10g} to {knob.at_most:.10g}"
    bounds = {
        "of at least": knob.at_least,
        "above": knob.above,
        "at most": knob.at_most,
        "below": knob.below,
    }
    return " and ".join(f"{words} {bound:g}" for words, bound in bounds.items() if bound is not None)


def _refusal(knob: Knob, value: Any) -> str:
    """What is wrong with a value, in words that follow the knob's name; '' for a legal value."""
    if _is_legal(knob, value):
        return ""
    words = f"is {shown(value)}: it must be {legal_values(knob)}"
    if value is None:
        return f"{words}; leave it empty in place of None" if knob.type is str and knob.empty else words
    if _is_legal(dataclasses.replace(knob, regex=False), value):
        words += f" ({regex_error(value)})"
    elif isinstance(value, str) and "\0" in value:
        words += " without a null character"
    elif _beyond_machine(knob, value):
        words += f" as {'an int32' if (knob.item or knob.type) is int else 'a float32'}"
    return words


def shown(value: Any) -> str:
    """A value as a message shows it: its `repr`, on one line and shortened."""
    try:
        text = repr(value)
    except ValueError:  # Python refuses to print whole numbers of thousands of digits
        text = "a number of thousands of digits"
    return text if len(text) <= SHOWN else f"{text[: SHOWN - 1]}…"


def check_values(knobs: Iterable[Knob], values: Mapping[str, Any], section: str) -> None:
    """Check values by name against knobs.

    Raises:
      ValueError: an unknown knob (the message names the nearest known one), or a value that is not legal.
    """
    known = {knob.name: knob for knob in knobs}
    for name, value in values.items():
        if name not in known:
            raise ValueError(f"unknown knob {section}.{name}{nearest(name, known)}")
        if refusal := _refusal(known[name], value):
            raise ValueError(f"{section}.{name} {refusal}")


def check_same_values(stored: Mapping[str, Any], present: Mapping[str, Any], source: str) -> None:
    """Compare the knobs that both sides have; lists and tuples of the same values are equal.

    Args:
      stored: knobs that weights were made with, full name → value.
      present: knobs of the present configuration.
      source: what the error calls the weights.

    Raises:
      ValueError: they differ; the message names the knobs.
    """
    differing = [
        f"{name} {value!r}, not {present[name]!r}"
        for name, value in stored.items()
        if name in present and as_tuple(value) != as_tuple(present[name])
    ]
    if differing:
        raise ValueError(f"{source} was made with {'; '.join(differing[:4])}: use the configuration that belongs to it")


def check_knobs(settings: Any) -> None:
    """Check every knob of a settings object; its `__post_init__` calls this. NumPy scalars become Python's.

    Raises:
      ValueError: a value of another type, outside its range or not among its choices, in one line that starts with the
        name of the knob.
    """
    for knob in knobs_of(type(settings)):
        value = getattr(settings, knob.name)
        if hasattr(value, "dtype") and getattr(value, "shape", None) == ():  # a NumPy scalar
            value = value.item()
            object.__setattr__(settings, knob.name, value)
        if refusal := _refusal(knob, value):
            raise ValueError(f"{knob.name} {refusal}")


def settings_from(settings: type, values: Mapping[str, Any], section: str) -> Any:
    """A settings object from a section of a configuration, where lists (from JSON) become tuples.

    Args:
      settings: the settings class.
      values: the section.
      section: its configuration path, such as 'recipe.space', which starts every error message.

    Raises:
      ValueError: an unknown knob (the message names the nearest known one), or a value that the class refuses.
    """
    known = [field.name for field in dataclasses.fields(settings) if field.init]
    for name in values:
        if name not in known:
            raise ValueError(f"unknown knob {section}.{name}{nearest(name, known)}")
    try:
        return settings(**{name: as_tuple(value) for name, value in values.items()})
    except ValueError as error:
        raise ValueError(f"{section}.{error}") from error


def nearest(name: str, known: Iterable[str]) -> str:
    """': did you mean X?' for the known name nearest to `name`, or ': known are …' where none is near."""
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f": did you mean {close[0]!r}?" if close else f": known are {', '.join(known) or 'none'}"


def as_tuple(value: Any) -> Any:
    """Lists become tuples, at every depth; anything else stays as it is."""
    return tuple(map(as_tuple, value)) if isinstance(value, list | tuple) else value


Items = tuple[type | None, int | None]
"""Type of the values of a tuple, None where they are not plain, and their number, None where it is open."""


def _plain_type(annotation: Any) -> tuple[type, bool, Items]:
    """(the plain type, whether None is allowed, the values of a tuple) of an annotation such as `int | None`."""
    optional = False
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        inner = [part for part in typing.get_args(annotation) if part is not type(None)]
        optional = len(inner) < len(typing.get_args(annotation))
        annotation = inner[0]
    plain = typing.get_origin(annotation) or annotation
    items: Items = None, None
    if plain is tuple:
        first, *others = typing.get_args(annotation)
        items = first if first in (int, float, str) else None, None if Ellipsis in others else 1 + len(others)
    return dict if plain is Mapping else plain, optional, items


def _is_legal(knob: Knob, value: Any) -> bool:
    if value is None:
        return knob.optional
    if knob.type is not tuple:
        return _is_legal_scalar(knob, knob.type, value)
    if not isinstance(value, list | tuple) or (knob.length is not None and len(value) != knob.length):
        return False
    if not value and not knob.empty:
        return False
    return knob.item is None or all(_is_legal_scalar(knob, knob.item, part) for part in value)


def _is_legal_scalar(knob: Knob, kind: type, value: Any) -> bool:
    if not isinstance(value, _ACCEPTED.get(kind, kind)):
        return False
    if isinstance(value, bool) and kind is not bool:  # Python's bool is an int
        return False
    if knob.choices:
        return value in knob.choices
    if isinstance(value, str):
        return bool(value or knob.empty) and "\0" not in value and not (knob.regex and regex_error(value))
    if kind not in (int, float):
        return True
    used = _as_used(knob, kind, value)
    return math.isfinite(used) and _in_range(knob, value, used)


def _in_range(knob: Knob, value: float, used: float) -> bool:
    """Whether a number is in the knob's range; bounds that are excluded are compared with what it is used as."""
    return (
        (knob.at_least is None or value >= knob.at_least)
        and (knob.above is None or used > knob.above)
        and (knob.at_most is None or value <= knob.at_most)
        and (knob.below is None or used < knob.below)
    )


def _as_used(knob: Knob, kind: type, value: float) -> float:
    """A number as programs compute with it, int32 or float32: infinite if it is too large, 0 if it is too small."""
    if kind is int:  # a larger bound of its own is that of a uint32
        return value if abs(value) <= max(LARGEST_INT, knob.at_most or 0) else math.inf
    if not abs(value) <= LARGEST_FLOAT:  # NaN too
        return math.inf
    return 0.0 if abs(value) < SMALLEST_FLOAT else float(np.float32(value))


def _beyond_machine(knob: Knob, value: Any) -> bool:
    """Whether a refused number, or one of a refused list, is finite and in range but for what it is computed with."""
    kind = knob.item or knob.type
    parts = value if isinstance(value, list | tuple) else (value,)
    if kind not in (int, float) or not all(isinstance(part, _ACCEPTED.get(kind, kind)) for part in parts):
        return False
    if not all(_in_range(knob, part, part) for part in parts):
        return False
    used = [_as_used(knob, kind, part) for part in parts]
    return any(part in (knob.above, knob.below) or math.isinf(part) for part in used) and used != list(parts)


def regex_error(value: Any) -> str:
    """Why a pattern, or one of several, is no regular expression; '' if it is one."""
    for pattern in (value,) if isinstance(value, str) else value:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # a set within a set means the same in this version of Python
                re.compile(pattern)
        except (re.error, OverflowError, RecursionError) as error:
            return str(error)
    return ""


def _shown(choice: Any) -> str:
    return choice if isinstance(choice, str) and choice else repr(choice)


def changed_repr(settings: Any) -> str:
    """The `repr` of a settings object: its class, and the fields that differ from their defaults."""
    changes = []
    for field in dataclasses.fields(settings):
        default = field.default if field.default_factory is MISSING else field.default_factory()
        value = getattr(settings, field.name)
        if field.repr and (default is MISSING or as_tuple(value) != as_tuple(default)):
            changes.append(f"{field.name}={value!r}")
    return f"{type(settings).__name__}({', '.join(changes)})"
