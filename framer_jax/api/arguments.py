"""Arguments of the Python API: NumPy's and JAX's numbers become Python's, anything else is refused by name."""

from __future__ import annotations

import math
import operator
import os
from collections.abc import Mapping, Sequence
from typing import Any

PathLike = str | os.PathLike[str]


def described(value: Any) -> str:
    """A short description of a value for an error message."""
    if value is None or isinstance(value, bool | int | float | complex | str | bytes):
        text = repr(value)
        return text if len(text) <= 60 else f"{text[:60]}…"
    shape = getattr(value, "shape", None)
    return f"a {type(value).__name__}" + (f" of shape {tuple(shape)}" if isinstance(shape, tuple) else "")


def path_of(value: Any, name: str, instead: str = "") -> PathLike:
    """A path.

    Args:
      value: the argument.
      name: its name.
      instead: what an error says besides.

    Raises:
      TypeError: it is no path.
      ValueError: it is empty.
    """
    hint = f"; {instead}" if instead else ""
    if not isinstance(value, str | os.PathLike):
        raise TypeError(f"{name} is {described(value)}: give a path (str or pathlib.Path){hint}")
    text = os.fspath(value)
    if not isinstance(text, str):
        raise TypeError(f"{name} is a path of bytes: give os.fsdecode(path){hint}")
    if not text:
        raise ValueError(f"{name} is an empty path: give the path of a file{hint}")
    return value


def paths_of(value: Any, name: str) -> list[PathLike]:
    """One path or several.

    Raises:
      TypeError, ValueError: as of `path_of`, or there is none.
    """
    if isinstance(value, str | os.PathLike | bytes) or not hasattr(value, "__iter__"):
        return [path_of(value, name)]
    paths = [path_of(path, f"{name}[{index}]") for index, path in enumerate(value)]
    if not paths:
        raise ValueError(f"{name} is empty: give a path or several")
    return paths


def text_of(value: Any, name: str) -> str:
    """A string.

    Raises:
      TypeError: it is none.
    """
    if not isinstance(value, str):
        raise TypeError(f"{name} is {described(value)}: give a string")
    return value


def whole_number(value: Any, name: str, at_least: int = 0) -> int:
    """A whole number, of Python, NumPy or JAX.

    Raises:
      TypeError: it is none.
      ValueError: it is too small.
    """
    plain = plain_value(value)
    if isinstance(plain, bool) or not hasattr(plain, "__index__"):
        raise TypeError(f"{name} is {described(plain)}: give a whole number of at least {at_least}")
    number = operator.index(plain)
    if number < at_least:
        raise ValueError(f"{name} is {number}: it must be at least {at_least}")
    return number


def real_number(value: Any, name: str) -> float:
    """A finite number, of Python, NumPy or JAX.

    Raises:
      TypeError: it is none.
      ValueError: it is infinite or not a number.
    """
    plain = plain_value(value)
    if isinstance(plain, bool) or not isinstance(plain, int | float):
        raise TypeError(f"{name} is {described(plain)}: give a number")
    if not math.isfinite(plain):
        raise ValueError(f"{name} is {plain}: it must be finite")
    return plain


def plain_value(value: Any) -> Any:
    """The Python number of a NumPy or JAX scalar; anything else as it is."""
    if getattr(value, "shape", None) == () and hasattr(value, "item") and not _is_traced(value):
        return value.item()
    return value


def plain_values(values: Mapping[str, Any]) -> dict[str, Any]:
    """`plain_value` of each entry, also within lists and tuples."""

    def plain(value: Any) -> Any:
        return type(value)(map(plain, value)) if type(value) in (list, tuple) else plain_value(value)

    return {name: plain(value) for name, value in values.items()}


def is_float(array: Any) -> bool:
    """Whether an array holds real floating-point numbers of any width (bfloat16 is none to NumPy)."""
    return str(array.dtype).startswith(("float", "bfloat"))


def check_float_leaves(tree: Any, name: str) -> None:
    """Refuse a tree of weights with anything but arrays of floats.

    Raises:
      TypeError: a leaf is no array.
      ValueError: a leaf holds whole or complex numbers.
    """
    import jax

    for path, leaf in jax.tree_util.tree_leaves_with_path(tree, is_leaf=lambda leaf: leaf is None):
        label = f"{name} {jax.tree_util.keystr(path, simple=True, separator='/')!r}"
        if not hasattr(leaf, "dtype") or not hasattr(leaf, "shape"):
            raise TypeError(f"{label} is {described(leaf)}: give arrays of floats")
        if not is_float(leaf):
            raise ValueError(f"{label} holds {leaf.dtype}: weights are floats, such as float32")


def unknown_names(function: str, names: Sequence[str], known: Sequence[str], elsewhere: Mapping[str, str]) -> str:
    """An error message about keyword arguments that a function does not have; '' if it has all.

    Args:
      function: name of the function.
      names: the keyword arguments.
      known: those that it has.
      elsewhere: those of another function → where they belong.
    """
    from framer_jax.knobs import nearest

    for name in names:
        if name in elsewhere:
            return f"{function} has no setting {name!r}: {elsewhere[name]}"
        if name not in known:
            return f"{function} has no setting {name!r}{nearest(name, known)}"
    return ""


def _is_traced(value: Any) -> bool:
    return "Tracer" in type(value).__name__
