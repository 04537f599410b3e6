"""Trees of parameters: names of their leaves, digests, and comparison of their structures."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

LISTED = 8
"""Number of names that an error message lists."""


def flatten_names(tree: Mapping[str, Any], prefix: str = "") -> tuple[dict[str, Any], list[str]]:
    """Name the leaves of a nested mapping by their paths, joined with '/'.

    Args:
      tree: nested mappings with string keys.
      prefix: prepended to every name.

    Returns:
      (name → leaf, names of empty mappings).

    Raises:
      ValueError: a key is not a string, is empty or contains '/'.
    """
    leaves: dict[str, Any] = {}
    empty: list[str] = []
    for key, value in tree.items():
        if not isinstance(key, str) or not key or "/" in key:
            raise ValueError(f"parameter name {key!r} under {prefix or 'the root'!r}: use a string without '/'")
        if not isinstance(value, Mapping):
            leaves[prefix + key] = value
        elif not value:
            empty.append(prefix + key)
        else:
            inner_leaves, inner_empty = flatten_names(value, f"{prefix}{key}/")
            leaves.update(inner_leaves)
            empty.extend(inner_empty)
    return leaves, empty


def nest_names(leaves: Mapping[str, Any], empty: Iterable[str] = ()) -> dict[str, Any]:
    """The inverse of `flatten_names`.

    Raises:
      ValueError: a name is both that of an array and the beginning of other names.
    """
    tree: dict[str, Any] = {}
    for name, leaf in [*leaves.items(), *((name, {}) for name in empty)]:
        *groups, last = name.split("/")
        node = tree
        for group in groups:
            node = node.setdefault(group, {})
            if not isinstance(node, dict):
                raise ValueError(f"{name!r}: {group!r} is both an array and a group")
        if last in node:
            raise ValueError(f"{name!r} is both an array and a group")
        node[last] = leaf
    return tree


def tree_digest(params: Mapping[str, Any], facts: Mapping[str, Any]) -> str:
    """SHA-256 of the names, shapes and values (as float32) of a parameter tree, and of further facts.

    It does not depend on the files that the parameters come from: folder or shards, widened float16, ported or not.

    Args:
      params: nested mappings of arrays.
      facts: plain JSON.
    """
    digest = hashlib.sha256(json.dumps(dict(facts), sort_keys=True).encode())
    for name, leaf in sorted(flatten_names(params)[0].items()):
        value = np.ascontiguousarray(leaf, np.float32)
        digest.update(f"\n{name} {np.shape(leaf)}\n".encode())
        digest.update(value.data)
    return digest.hexdigest()


def check_finite(leaves: Mapping[str, Any], source: str) -> None:
    """Check that weights hold no NaN and no infinity.

    Args:
      leaves: name → array in host memory; see `flatten_names`.
      source: what they are in the error message, usually a path.

    Raises:
      ValueError: names the arrays that do, in one line.
    """
    wrong = [name for name, leaf in leaves.items() if not _is_finite(leaf)]
    if wrong:
        listed = f"{', '.join(wrong[:LISTED])}{', ...' if len(wrong) > LISTED else ''}"
        raise ValueError(
            f"{source}: NaN or infinity in {len(wrong)} of {len(leaves)} arrays ({listed}): use other weights"
        )


def _is_finite(leaf: Any) -> bool:
    """Whether an array holds finite numbers only; true for what is no array of floating-point numbers."""
    dtype = getattr(leaf, "dtype", None)
    if dtype is None or dtype.kind in "biuUSO" or not isinstance(leaf, np.ndarray):
        return True
    return bool(np.isfinite(leaf).all())


def check_same_structure(
    params: Mapping[str, Any], expected: Mapping[str, Any], source: str = "weights", dtypes: bool = False
) -> None:
    """Compare the names and shapes of two parameter trees, and that both hold floats in the same places.

    Args:
      params: the tree that was read.
      expected: the tree of the model; leaves with a `shape` (arrays or jax.ShapeDtypeStruct).
      source: name of `params` in the error message, usually a path.
      dtypes: whether the widths of dtypes are compared too.

    Raises:
      ValueError: names the parameters that are missing, unexpected, or of another shape or dtype, in one line.
    """
    check_same_descriptions(_describe(params, dtypes), _describe(expected, dtypes), source)


def check_same_descriptions(
    descriptions: Mapping[str, str],
    expected: Mapping[str, str],
    source: str,
    remedy: str = "use the configuration it was made with",
) -> None:
    """`check_same_structure` for trees whose leaves are described by texts.

    Args:
      descriptions: name of a leaf → its shape, or shape and dtype, as a text such as 'float32[3, 3, 64]'.
      expected: those of the model.
      source: name of `descriptions` in the error message.
      remedy: end of the error message: what to do.

    Raises:
      ValueError: see `check_same_structure`.
    """
    differing = [
        f"{name} {descriptions[name]} instead of {expected[name]}"
        for name in sorted(descriptions.keys() & expected.keys())
        if descriptions[name] != expected[name]
    ]
    problems = [
        f"{title} ({len(names)}): {', '.join(names[:LISTED])}{', ...' if len(names) > LISTED else ''}"
        for title, names in (
            ("missing", sorted(expected.keys() - descriptions.keys())),
            ("unexpected", sorted(descriptions.keys() - expected.keys())),
            ("of another shape or dtype", differing),
        )
        if names
    ]
    if problems:
        raise ValueError(f"{source} does not fit this model; {'; '.join(problems)}: {remedy}")


def _describe(tree: Mapping[str, Any], dtypes: bool) -> dict[str, str]:
    """Name of each leaf, and of each empty mapping, → its description."""
    leaves, empty = flatten_names(tree)
    shapes = {name: f"{tuple(leaf.shape)}{_unusual_kind(leaf)}" for name, leaf in leaves.items()}
    if dtypes:
        shapes = {name: f"{leaves[name].dtype}{list(leaves[name].shape)}" for name in leaves}
    return shapes | dict.fromkeys(empty, "an empty group")


def _unusual_kind(leaf: Any) -> str:
    """' of int32' for an array of anything but floats of any width; '' for floats."""
    dtype = str(getattr(leaf, "dtype", "float32"))
    return "" if dtype.startswith(("float", "bfloat")) else f" of {dtype}"
