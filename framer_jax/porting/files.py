"""Atomic writes and digests of files."""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

RAW_NAMES = "surrogateescape"
"""How names of files that are not UTF-8 are written and digested: as the bytes that they are."""


@contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path next to `path`; it is renamed to `path` when the block ends without an error.

    Readers see the old file or the new one, never a partial one. A missing folder is created.

    Args:
      path: path of the finished file.

    Yields:
      the path to write to, in the same folder, so that the rename is atomic.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name[:100]}.{secrets.token_hex(4)}.part")
    try:
        temporary.touch()
        mode = temporary.stat().st_mode  # of the user's umask; safetensors would make the file private
        yield temporary
        temporary.chmod(mode)
        with open(temporary, "r+b") as written:  # Windows syncs writable files only
            os.fsync(written.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def sha256_of(path: str | os.PathLike[str]) -> str:
    """SHA-256 of a file, or of a folder's files with their relative names in sorted order, as hexadecimal digits.

    Raises:
      FileNotFoundError: `path` does not exist.
    """
    path = Path(path)
    if path.is_file():
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    if not path.is_dir():
        raise FileNotFoundError(f"{path}: no such file or folder")
    digest = hashlib.sha256()
    for file_path in sorted(path.rglob("*"), key=lambda entry: entry.relative_to(path).as_posix()):
        if file_path.is_file():
            digest.update(
                f"{file_path.relative_to(path).as_posix()}\0{sha256_of(file_path)}\n".encode(errors=RAW_NAMES)
            )
    return digest.hexdigest()
