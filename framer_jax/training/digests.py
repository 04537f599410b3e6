"""Digests of the files of a checkpoint: written with it, and compared before it is restored.

Orbax notices files that are missing, but not bits that changed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from framer_jax.paths import AnyPath, files_below

DIGESTS = "digests.json"
"""File name of the digests in a checkpoint."""

THREADS = 4


class DamagedCheckpointError(ValueError):
    """A checkpoint that is incomplete, or whose files are not as they were written."""


def write_digests(folder: AnyPath, items: Iterable[str]) -> None:
    """Write the sizes and SHA-256 digests of all files below some subfolders of a checkpoint to `DIGESTS` in it."""
    sizes = files_below(folder)
    names = sorted(name for name in sizes if name.split("/")[0] in set(items))
    with ThreadPoolExecutor(THREADS) as pool:
        digests = list(pool.map(_sha256, (folder / name for name in names)))
    files = {name: [sizes[name], digest] for name, digest in zip(names, digests, strict=True)}
    (folder / DIGESTS).write_text(json.dumps({"sha256": files}, indent=1), encoding="utf-8")


def damage(folder: AnyPath, part: int = 0, parts: int = 1) -> str:
    """What is wrong with the files of a checkpoint, in a few words; '' if they are as they were written.

    Args:
      folder: the checkpoint, with a file `DIGESTS`.
      part: which of `parts` shares of the files to read, from 0; every host reads its own. Names and sizes of all files
        are compared by each.
      parts: number of shares.
    """
    try:
        files = json.loads((folder / DIGESTS).read_text(encoding="utf-8"))["sha256"]
        expected = {str(name): (int(size), str(digest)) for name, (size, digest) in files.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return f"{DIGESTS} cannot be read"
    sizes = files_below(folder)
    for name, (size, _) in expected.items():
        if name not in sizes:
            return f"{name} is missing"
        if sizes[name] != size:
            return f"{name} has {sizes[name]} bytes instead of {size}"
    mine = sorted(expected)[part::parts]
    with ThreadPoolExecutor(THREADS) as pool:
        digests = list(pool.map(_sha256_or_error, (folder / name for name in mine)))
    for name, digest in zip(mine, digests, strict=True):
        if digest != expected[name][1]:
            return f"{name} differs from what was written"
    return ""


def _sha256(path: AnyPath) -> str:
    with path.open("rb") as file:
        stream: Any = file
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _sha256_or_error(path: AnyPath) -> str:
    try:
        return _sha256(path)
    except OSError as error:  # a bad sector
        return str(error)
