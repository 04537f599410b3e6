"""Atomic writes and digests of files, and the check that outputs replace neither one another nor an input."""

from __future__ import annotations

import hashlib
import os
import secrets
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from framer_jax.paths import as_path, upload

PathLike = str | os.PathLike[str]

RAW_NAMES = "surrogateescape"
"""How names of files that are not UTF-8 are written and digested: as the bytes that they are."""


@contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path next to `path`; it is renamed to `path` when the block ends without an error.

    Readers see the old file or the new one, never a partial one. A missing folder is created. A file that is replaced
    keeps its permissions.

    Args:
      path: path of the finished file, on this machine or in an object store.

    Yields:
      the path to write to, in the same folder, so that the rename is atomic; for a store a local one, which is
      uploaded.

    Raises:
      OSError: it cannot be written.
    """
    path = as_path(path)
    if not isinstance(path, Path):
        with tempfile.TemporaryDirectory() as folder:
            local = Path(folder, path.name)
            local.touch()
            yield local
            upload(local, path)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    start = os.fsencode(path.name)[:100].decode("utf-8", "ignore")  # the name may be as long as the system allows
    temporary = path.with_name(f".{start}.{secrets.token_hex(4)}.part")
    try:
        temporary.touch()
        # That of the file which is replaced, or of the user's umask; safetensors would make the file private.
        mode = (path if path.is_file() else temporary).stat().st_mode
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


def check_outputs(
    outputs: Mapping[str, PathLike | None],
    inputs: Mapping[str, Iterable[PathLike]],
    remedy: str = "name another file",
) -> None:
    """Refuse files that would replace one another or an input of the same command, before anything is computed.

    Args:
      outputs: what an error calls a file, such as its option → the file that will be written; None for none.
      inputs: what an error calls the inputs → files, and folders whose files are inputs.
      remedy: what an error advises.

    Raises:
      ValueError: an empty name, a folder, or a file that is another output or an input.
    """
    sources = {Path(path).resolve(): f"{what} {path}" for what, paths in inputs.items() for path in paths}
    labels: dict[Path, str] = {}
    for label, output in outputs.items():
        if output is None:
            continue
        if not os.fspath(output):
            raise ValueError(f"{label} is an empty name: {remedy}")
        if Path(output).is_dir():
            raise ValueError(f"{label}: {output} is a folder: {remedy}")
        target = Path(output).resolve()
        if target in labels:
            raise ValueError(f"{labels[target]} and {label} would both be written to {output}: {remedy}")
        labels[target] = label
        replaced = next((folder for folder in (target, *target.parents) if folder in sources), None)
        if replaced == target or (replaced and target.exists()):
            raise ValueError(f"{label}: {output} would replace {sources[replaced]}: {remedy}")


def check_writable(path: PathLike, label: str) -> None:
    """Refuse a file that could not be written, before anything is computed.

    Args:
      path: the file; folders on the way to it may be missing.
      label: what an error calls it, such as its option.

    Raises:
      ValueError: its folder is a file, or cannot be written.
    """
    target = Path(path)
    folder = next(parent for parent in target.absolute().parents if parent.exists())
    if not folder.is_dir():
        raise ValueError(f"{label} {path}: {folder} is a file: name another folder")
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ValueError(f"{label} {path}: cannot be written ({error.strerror}): name another folder") from error


def check_output_folder(
    label: str, folder: PathLike, inputs: Mapping[str, Iterable[PathLike]], replaced: bool = False
) -> None:
    """Refuse an output folder that is an input.

    Args:
      label: what an error calls the folder, such as its option.
      folder: the folder that will be written.
      inputs: what an error calls the inputs → files and folders.
      replaced: whether the whole folder is replaced, so that it must not contain an input either.

    Raises:
      ValueError: an empty name, a file, or a folder that is an input.
    """
    if not os.fspath(folder):
        raise ValueError(f"{label} is an empty name: name a folder")
    if Path(folder).is_file():
        raise ValueError(f"{label} {folder} is a file: name a folder")
    target = Path(folder).resolve()
    for what, paths in inputs.items():
        for path in paths:
            source = Path(path).resolve()
            if source == target or (replaced and source.is_relative_to(target)):
                raise ValueError(f"{label} {folder} would replace {what} {path}: name another folder")
