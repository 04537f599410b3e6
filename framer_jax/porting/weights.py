"""Parameter trees in safetensors files of our own, with what made them written inside."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from framer_jax.porting.files import replacing

METADATA_KEY = "framer_jax"
"""The one entry of the file's header, our metadata as a JSON string (several would come in random order)."""

EMPTY_KEY = "_empty_groups"
"""Reserved in the metadata: lists groups without any array, which a tensor file cannot hold otherwise."""

DTYPES = ("float64", "float32", "float16", "int64", "int32", "int16", "int8", "uint8", "bool")


def flatten_names(tree: Mapping[str, Any], prefix: str = "") -> tuple[dict[str, Any], list[str]]:
    """Name the leaves of a nested dict by their path, joined with '/'.

    Args:
      tree: nested mappings with string keys.
      prefix: what comes before every name.

    Returns:
      (name to leaf, names of mappings that hold nothing).

    Raises:
      ValueError: a key is not a string, is empty or holds a '/'.
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
            below, empty_below = flatten_names(value, f"{prefix}{key}/")
            leaves.update(below)
            empty.extend(empty_below)
    return leaves, empty


def nest_names(leaves: Mapping[str, Any], empty: Iterable[str] = ()) -> dict[str, Any]:
    """The inverse of `flatten_names`.

    Raises:
      ValueError: one name is both an array and the beginning of other names.
    """
    tree: dict[str, Any] = {}
    for name, leaf in [*leaves.items(), *((name, {}) for name in empty)]:
        *groups, last = name.split("/")
        node = tree
        for group in groups:
            node = node.setdefault(group, {})
            if not isinstance(node, dict):
                raise ValueError(f"{name!r}: {group!r} is an array and a group at once")
        if last in node:
            raise ValueError(f"{name!r} is an array and a group at once")
        node[last] = leaf
    return tree


def save_weights(path: str | os.PathLike[str], params: Mapping[str, Any], metadata: Mapping[str, Any]) -> None:
    """Write a parameter tree and its metadata as one safetensors file, atomically; an older file is replaced.

    Args:
      path: a name that ends in '.safetensors'.
      params: nested mappings of arrays (NumPy or JAX; dtypes of `DTYPES`), names without '/'.
      metadata: anything JSON can hold: config, seed, steps, scores.

    Raises:
      ValueError: wrong suffix, no array at all, a leaf that is no array, an unsupported dtype, or metadata that is
        not JSON.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise ValueError(f"{path}: name weight files *.safetensors")
    leaves, empty = flatten_names(params)
    if not leaves:
        raise ValueError(f"{path}: there is no array to save")
    try:
        text = json.dumps(dict(metadata) | ({EMPTY_KEY: empty} if empty else {}), sort_keys=True, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: metadata must be plain JSON ({error})") from error
    arrays = {}
    for name, leaf in leaves.items():
        if not isinstance(leaf, np.ndarray | np.generic | jax.Array):
            raise ValueError(f"{path}: {name!r} is a {type(leaf).__name__}, not an array")
        if str(leaf.dtype) not in DTYPES:
            raise ValueError(f"{path}: {name!r} has dtype {leaf.dtype}; cast it to one of {', '.join(DTYPES)}")
        arrays[name] = np.require(leaf, requirements=["C"])
        if arrays[name].shape != leaf.shape:  # np.require makes a scalar a vector
            arrays[name] = arrays[name].reshape(leaf.shape)
    with replacing(path) as temporary:
        save_file(arrays, temporary, metadata={METADATA_KEY: text})


def load_weights(path: str | os.PathLike[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Read a file that `save_weights` wrote.

    Args:
      path: a safetensors file.

    Returns:
      (params: nested dict of NumPy arrays, metadata).

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: the file is a folder, no safetensors file, cut short, or was written by another program.
    """
    path = Path(path)
    if path.is_dir():
        raise ValueError(f"{path} is a folder: give a .safetensors file in it")
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such weight file")
    check_container(path)
    try:
        with safe_open(path, framework="numpy") as file:
            header = file.metadata() or {}
            names = list(file.keys())
            if METADATA_KEY not in header:
                raise ValueError(
                    f"{path}: a safetensors file of another program ({len(names)} tensors such as "
                    f"{', '.join(repr(name) for name in names[:3])}), without framer_jax's metadata; published "
                    "weights go with the configuration they belong to (--recipe), or through `framer-jax port`"
                )
            leaves = {name: file.get_tensor(name) for name in names}
    except SafetensorError as error:
        raise ValueError(f"{path}: damaged safetensors file ({error}); fetch or write it again") from error
    except KeyError as error:
        raise ValueError(f"{path}: holds tensors of dtype {error}; supported are {', '.join(DTYPES)}") from error
    try:
        metadata = json.loads(header[METADATA_KEY])
        empty = metadata.pop(EMPTY_KEY, ())
    except (json.JSONDecodeError, AttributeError) as error:
        raise ValueError(f"{path}: its metadata is not a JSON object ({error}); write the file again") from error
    return nest_names(leaves, empty), metadata


def is_ours(path: str | os.PathLike[str]) -> bool:
    """Whether a file is one that `save_weights` wrote, as far as its header says; False if it cannot be read."""
    return bool(_header_text(path))


def read_metadata(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The metadata of a file that `save_weights` wrote, from its header alone; {} for any other file."""
    try:
        return dict(json.loads(_header_text(path) or "{}"))
    except (ValueError, TypeError):
        return {}


def _header_text(path: str | os.PathLike[str]) -> str:
    try:
        with safe_open(path, framework="numpy") as file:
            return str((file.metadata() or {}).get(METADATA_KEY, ""))
    except (SafetensorError, OSError):
        return ""


def tree_digest(params: Mapping[str, Any], facts: Mapping[str, Any]) -> str:
    """SHA-256 of a parameter tree's names, shapes and numbers (as float32), and of facts beside them.

    The same for a model whatever files it came in: folder, shards, float16 widened, ported or not.

    Args:
      params: nested mappings of arrays.
      facts: plain JSON.
    """
    whole = hashlib.sha256(json.dumps(dict(facts), sort_keys=True).encode())
    for name, leaf in sorted(flatten_names(params)[0].items()):
        value = np.ascontiguousarray(leaf, np.float32)
        whole.update(f"\n{name} {np.shape(leaf)}\n".encode())
        whole.update(value.data)
    return whole.hexdigest()


def check_same_structure(params: Mapping[str, Any], expected: Mapping[str, Any], source: str = "weights") -> None:
    """Compare names and shapes of two parameter trees.

    Args:
      params: the tree that was read.
      expected: the tree that the model wants; leaves with a `shape` (arrays or jax.ShapeDtypeStruct).
      source: what the error calls `params`, usually a path.

    Raises:
      ValueError: names the parameters that are missing, unexpected, or of another shape.
    """
    found, found_empty = flatten_names(params)
    wanted, wanted_empty = flatten_names(expected)
    missing = sorted((wanted.keys() - found.keys()) | (set(wanted_empty) - set(found_empty)))
    unexpected = sorted((found.keys() - wanted.keys()) | (set(found_empty) - set(wanted_empty)))
    reshaped = [
        f"{name} {tuple(found[name].shape)} instead of {tuple(wanted[name].shape)}"
        for name in sorted(found.keys() & wanted.keys())
        if tuple(found[name].shape) != tuple(wanted[name].shape)
    ]
    faults = [
        f"{title} ({len(names)}): {', '.join(names[:8])}{', ...' if len(names) > 8 else ''}"
        for title, names in (("missing", missing), ("unexpected", unexpected), ("of another shape", reshaped))
        if names
    ]
    if faults:
        raise ValueError(f"{source} does not fit this model; {'; '.join(faults)}. Use the config it was made with.")


def check_container(path: Path) -> None:
    """Tell a file that is no safetensors file from one that was cut short; the library's errors do not.

    Raises:
      ValueError: the one or the other.
    """
    size = path.stat().st_size
    with open(path, "rb") as file:
        start = file.read(9)
        length = int.from_bytes(start[:8], "little")
        if start[8:] != b"{" or length > 100_000_000:
            if start[:2] == b"PK" or start[:1] == b"\x80":
                raise ValueError(
                    f"{path}: looks like a PyTorch pickle, not a safetensors file; published weights (*.pth) go "
                    "with the configuration they belong to (--recipe), or through `framer-jax port`"
                )
            raise ValueError(f"{path}: not a safetensors file ({size} bytes)")
        header = file.read(length - 1)
    if size < 8 + length:
        raise ValueError(f"{path}: cut short within its header ({size} bytes); fetch or write it again")
    try:
        entries = json.loads(b"{" + header)
        needed = 8 + length + max((v["data_offsets"][1] for k, v in entries.items() if k != "__metadata__"), default=0)
    except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        raise ValueError(f"{path}: not a safetensors file (its header cannot be read)") from error
    if size < needed:
        raise ValueError(f"{path}: cut short ({size} of {needed} bytes); fetch or write it again")
