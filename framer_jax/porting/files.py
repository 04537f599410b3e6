"""Files that appear whole or not at all, and their digests."""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a temporary path beside `path`; it takes the name `path` when the block ends without an error.

    A reader sees the old file or the new one, never a half-written one; the folder is made where it is missing.

    Args:
      path: where the finished file shall be.

    Yields:
      the path to write to (another name in the same folder, so that the rename is atomic).
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name[:100]}.{secrets.token_hex(4)}.part")
    try:
        temporary.touch()
        mode = temporary.stat().st_mode  # as the user's umask has it; safetensors would make the file private
        yield temporary
        temporary.chmod(mode)
        with open(temporary, "r+b") as written:  # Windows syncs writable files only
            os.fsync(written.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def sha256_of(path: str | os.PathLike[str]) -> str:
    """The SHA-256 of a file, or of a folder's files with their relative names in sorted order (hex digits).

    Raises:
      FileNotFoundError: `path` does not exist.
    """
    path = Path(path)
    if path.is_file():
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    if not path.is_dir():
        raise FileNotFoundError(f"{path}: no such file or folder")
    whole = hashlib.sha256()
    for file_path in sorted(path.rglob("*"), key=lambda found: found.relative_to(path).as_posix()):
        if file_path.is_file():
            whole.update(f"{file_path.relative_to(path).as_posix()}\0{sha256_of(file_path)}\n".encode())
    return whole.hexdigest()
