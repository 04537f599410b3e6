"""Digests of the contents of data files, by which a resumed run notices that files of the same names were replaced."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from framer_jax.paths import AnyPath, read_bytes
from framer_jax.porting.files import RAW_NAMES

SAMPLE = 4096
"""Bytes that are read at the beginning, in the middle and at the end of a file."""

THREADS = 8

UNREADABLE = "unreadable"
"""The digest of a file that cannot be read."""


def file_digests(files: Mapping[str, AnyPath]) -> dict[str, str]:
    """Name of each file → digest of its size and of a sample of its content.

    The whole of a large data set would take hours to read; a photograph that was replaced, encoded again or edited
    differs in its size or in the sample.

    Args:
      files: name → path; a file that cannot be read counts as one of its own content.
    """
    with ThreadPoolExecutor(THREADS) as pool:
        return dict(zip(files, pool.map(content_digest, files.values()), strict=True))


def joint_digest(digests: Mapping[str, str]) -> str:
    """One digest of all files and their names, from those of `file_digests`."""
    lines = "".join(f"{name}\0{digest}\n" for name, digest in sorted(digests.items()))
    return hashlib.sha256(lines.encode(errors=RAW_NAMES)).hexdigest()


def content_digest(path: AnyPath) -> str:
    """The digest of one file, see `file_digests`."""
    if not isinstance(path, Path):
        return _digest_of_bytes(path)
    try:
        size = path.stat().st_size
        digest = hashlib.sha256(str(size).encode())
        with open(path, "rb") as file:
            for start in sorted({0, max(size - SAMPLE, 0) // 2, max(size - SAMPLE, 0)}):
                file.seek(start)
                digest.update(file.read(SAMPLE))
    except OSError:
        return UNREADABLE
    return digest.hexdigest()


def _digest_of_bytes(path: AnyPath) -> str:
    """The same digest, of a file that is read as a whole."""
    try:
        content = read_bytes(path)
    except OSError:
        return UNREADABLE
    digest = hashlib.sha256(str(len(content)).encode())
    for start in sorted({0, max(len(content) - SAMPLE, 0) // 2, max(len(content) - SAMPLE, 0)}):
        digest.update(content[start : start + SAMPLE])
    return digest.hexdigest()
