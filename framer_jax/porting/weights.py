"""Weights files of framer_jax: parameter trees in safetensors, with metadata on how they were made."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from framer_jax.paths import as_path
from framer_jax.porting.files import atomic_write
from framer_jax.porting.maps import check_finite
from framer_jax.trees import flatten_names, nest_names

METADATA_KEY = "framer_jax"
"""The only entry of the file's header: our metadata as a JSON string (several entries would be in random order)."""

EMPTY_KEY = "_empty_groups"
"""Reserved key of the metadata: names of groups without any array, which a tensor file cannot hold otherwise."""

LARGEST_HEADER = 100_000_000
"""Bytes; the library refuses larger headers."""

PICKLE_STARTS = (b"PK", b"\x80")
"""First bytes of PyTorch's files: of a zip archive, or of an older pickle."""

OTHER_FILES = {
    b"version https://git-lfs": "a pointer of Git LFS, not the file itself (git lfs pull fetches it)",
    b"GGUF": "a GGUF file of quantised weights",
    b"\x89HDF": "an HDF5 file",
    b"<": "a web page",
    b"{": "a JSON file",
}
"""First bytes of files that people take for weights → what they are."""

DTYPES = ("float64", "float32", "float16", "int64", "int32", "int16", "int8", "uint8", "bool")


def save_weights(path: str | os.PathLike[str], params: Mapping[str, Any], metadata: Mapping[str, Any]) -> None:
    """Write a parameter tree and its metadata as one safetensors file, atomically; an older file is replaced.

    Args:
      path: path that ends in '.safetensors'.
      params: nested mappings of arrays (NumPy or JAX; dtypes of `DTYPES`), names without '/'.
      metadata: anything that JSON can hold: config, seed, steps, scores.

    Raises:
      ValueError: another suffix, no array at all, a leaf that is not an array, an unsupported dtype, or metadata that
        are not JSON.
    """
    path = as_path(path)
    if path.suffix != ".safetensors":
        raise ValueError(f"{path}: weights files must be named *.safetensors")
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
        if arrays[name].shape != leaf.shape:  # np.require turns a scalar into a vector
            arrays[name] = arrays[name].reshape(leaf.shape)
    with atomic_write(path) as temporary:
        save_file(arrays, temporary, metadata={METADATA_KEY: text})


def load_weights(path: str | os.PathLike[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Read a file that `save_weights` wrote.

    Args:
      path: a safetensors file.

    Returns:
      (params: nested dict of NumPy arrays, metadata).

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: it is a folder, not a safetensors file, truncated, written by another program, or holds values that
        are not finite.
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
                    f"{', '.join(repr(name) for name in names[:3])}), without framer_jax's metadata; for published "
                    "weights, name their configuration (--recipe) or convert them with `framer-jax port`"
                )
            leaves = {name: file.get_tensor(name) for name in names}
        for name, leaf in leaves.items():
            check_finite(leaf, f"{path}: {name!r}")
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
    """Whether a file was written by `save_weights`, judging by its header; False if it cannot be read."""
    return bool(_header_text(path))


def read_metadata(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The metadata of a file that `save_weights` wrote, read from its header; {} for any other file."""
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


def is_container(path: Path) -> bool:
    """Whether a file begins as safetensors files do, whatever its name."""
    with open(path, "rb") as file:
        start = file.read(9)
    return start[8:] == b"{" and int.from_bytes(start[:8], "little") <= LARGEST_HEADER


def kind_of_file(start: bytes) -> str:
    """What a file that holds no weights is, judging by its first bytes; '' if unknown."""
    return next((kind for first, kind in OTHER_FILES.items() if start.startswith(first)), "")


def check_container(path: Path) -> None:
    """Check that a file is a complete safetensors file; the errors of the library do not say what is wrong.

    Raises:
      ValueError: it is another kind of file, or truncated.
    """
    size = path.stat().st_size
    with open(path, "rb") as file:
        start = file.read(24)
        length = int.from_bytes(start[:8], "little")
        if not size:
            raise ValueError(f"{path}: an empty file, not a safetensors file; fetch or write it again")
        if start[8:9] != b"{" or length > LARGEST_HEADER:
            if start.startswith(PICKLE_STARTS):
                raise ValueError(
                    f"{path}: looks like a PyTorch pickle, not a safetensors file; for published weights (*.pth), name "
                    "their configuration (--recipe) or convert them with `framer-jax port`"
                )
            but = f" but {kind}" if (kind := kind_of_file(start)) else ""
            raise ValueError(f"{path}: not a safetensors file{but} ({size} bytes)")
        file.seek(8)
        header = file.read(length)
    if size < 8 + length:
        raise ValueError(f"{path}: cut short within its header ({size} bytes); fetch or write it again")
    try:
        entries = json.loads(header)
        needed = 8 + length + max((v["data_offsets"][1] for k, v in entries.items() if k != "__metadata__"), default=0)
    except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        raise ValueError(f"{path}: not a safetensors file (its header cannot be read)") from error
    if size < needed:
        raise ValueError(f"{path}: cut short ({size} of {needed} bytes); fetch or write it again")
