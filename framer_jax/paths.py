"""Paths on this machine and in object stores (gs://, s3://), which etils.epath reads and writes through fsspec.

A path on this machine is a `pathlib.Path`, one in a store an `etils.epath.Path`, which has most of the same methods.
An address is never taken for the name of a local folder: what cannot be read or written there is refused.
"""

from __future__ import annotations

import hashlib
import importlib.util
import logging
import os
import re
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from etils import epath

from framer_jax.compile_cache import cache_base

logger = logging.getLogger(__name__)

AnyPath: TypeAlias = Path | epath.Path
"""A path on this machine or in an object store."""

STORES = {"gs": ("gcsfs", "framer_jax[gcs]"), "s3": ("s3fs", "s3fs")}
"""Scheme of a store → the module that fsspec needs for it, and how it is installed."""

ADDRESS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://|(gs|s3|az|hf):/")
"""How an address begins; also those of stores after pathlib has removed a slash."""

LOCAL_REMEDY = (
    "copy it to this machine (such as `gcloud storage cp -r`), or mount the bucket (gcsfuse), and name that path"
)
"""What to do where only local files can be used."""


def is_remote(path: str | os.PathLike[str]) -> bool:
    """Whether a path is an address, of whatever kind, rather than a path on this machine."""
    return ADDRESS.match(os.fspath(path)) is not None


def as_path(path: str | os.PathLike[str]) -> AnyPath:
    """The path of a file or folder on this machine or in an object store.

    Raises:
      ValueError: an address of another kind, or without a bucket.
      ImportError: the package that reads the store is not installed.
    """
    text = os.fspath(path)
    match = ADDRESS.match(text)
    if match is None:
        return Path(path)
    scheme = (match[1] or match[2]).lower()
    if scheme not in STORES:
        raise ValueError(
            f"{text} is an address of a kind that is not read: give a path on this machine, or one that begins with "
            f"{' or '.join(f'{name}://' for name in STORES)}"
        )
    inside = text[match.end() :].lstrip("/")
    if not inside.split("/")[0]:
        raise ValueError(f"{text} names no bucket: write {scheme}://BUCKET/PATH")
    module, package = STORES[scheme]
    if importlib.util.find_spec(module) is None:
        raise ImportError(f"{text} is in an object store, which needs {module}: pip install '{package}'")
    _use_no_listings_cache()
    return epath.Path(f"{scheme}://{inside.rstrip('/')}")


def _use_no_listings_cache() -> None:
    """Checkpoints are written past fsspec, which would go on showing the folders as it has seen them first."""
    import fsspec

    for protocol in ("gcs", "gs", "s3"):
        fsspec.config.conf.setdefault(protocol, {}).setdefault("use_listings_cache", False)


def check_local(path: str | os.PathLike[str], what: str) -> None:
    """Refuse an address where only files on this machine can be used.

    Raises:
      ValueError: the message begins with `what`.
    """
    if is_remote(path):
        raise ValueError(f"{what}: {os.fspath(path)} is an address, and only local files can be used: {LOCAL_REMEDY}")


class RemoteFile(NamedTuple):
    """An object in a store.

    Attributes:
      path: its path.
      bytes: its size.
      version: what changes when it is written again.
    """

    path: epath.Path
    bytes: int
    version: str


VERSION_ENTRIES = ("generation", "ETag", "etag", "md5Hash", "updated", "LastModified", "created", "mtime")
"""Entries of fsspec's descriptions of objects that tell versions apart, by store."""


def remote_files(folder: epath.Path) -> dict[str, RemoteFile]:
    """The objects below a folder of a store: path within the folder → object, from one listing; {} if there are none.

    The address of an object gives that object, with the path ''.

    Raises:
      OSError: the store cannot be reached, or does not allow it.
    """
    root = os.fspath(folder)
    system = _file_system(folder)
    try:
        listed: Mapping[str, Mapping[str, Any]] = system.find(root, detail=True)
    except FileNotFoundError:
        return {}
    except Exception as error:  # each store has its own kinds
        raise OSError(f"{root} cannot be listed ({_first_line(error)})") from error
    prefix = system._strip_protocol(root).rstrip("/")
    files = {}
    for name, entry in sorted(listed.items()):
        inside = system._strip_protocol(name).removeprefix(prefix).lstrip("/")
        version = next((str(entry[key]) for key in VERSION_ENTRIES if entry.get(key) is not None), "")
        files[inside] = RemoteFile(folder / inside if inside else folder, int(entry.get("size") or 0), version)
    return files


def files_below(folder: AnyPath) -> dict[str, int]:
    """Path within a folder → size in bytes, of all files below it."""
    if not isinstance(folder, Path):
        return {name: file.bytes for name, file in remote_files(folder).items()}
    found = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.stat().st_size for path in found}


def remove_folder(folder: AnyPath) -> None:
    """Remove a folder with all that is below it, as far as that is possible."""
    if isinstance(folder, Path):
        shutil.rmtree(folder, ignore_errors=True)
    else:
        folder.rmtree(missing_ok=True)


def _file_system(path: epath.Path) -> Any:
    import fsspec

    return fsspec.filesystem({"gs": "gcs"}.get(scheme := os.fspath(path).split(":")[0], scheme))


def local_copy(path: str | os.PathLike[str]) -> str:
    """A file or folder of a store as files on this machine, kept in the user's cache; a local path is itself.

    A copy is made once for each version of the objects, in $XDG_CACHE_HOME/framer_jax/files.

    Raises:
      FileNotFoundError: there is nothing at the address.
      OSError: it cannot be read, or there is no place for the copy.
    """
    if not is_remote(path):
        return os.fspath(path)
    source, base = as_path(path), cache_base()
    assert isinstance(source, epath.Path)
    if base is None:
        raise OSError(f"{source}: there is no folder to keep a copy in: set XDG_CACHE_HOME to one that can be written")
    files = remote_files(source)
    if not files:
        raise FileNotFoundError(f"{source}: there is no such file or folder")
    versions = "\n".join(f"{name}\0{file.bytes}\0{file.version}" for name, file in files.items())
    key = hashlib.sha256(f"{source}\0{versions}".encode()).hexdigest()[:32]
    target = base / "framer_jax" / "files" / key / source.name
    if target.exists():
        return str(target)
    temporary = target.parent.with_name(f"{key}.{os.getpid()}.part")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        for name, file in files.items():
            place = temporary / source.name / name
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(read_bytes(file.path))
        target.parent.parent.mkdir(parents=True, exist_ok=True)
        if not target.parent.exists():
            os.replace(temporary, target.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    logger.info("%s is copied to %s", source, target)
    return str(target)


def read_bytes(path: AnyPath) -> bytes:
    """The content of a file.

    Raises:
      FileNotFoundError: there is no such file.
      OSError: it cannot be read.
    """
    try:
        return bytes(path.read_bytes())
    except OSError:
        raise
    except Exception as error:
        raise OSError(f"{path} cannot be read ({_first_line(error)})") from error


def write_whole(path: AnyPath, content: bytes) -> None:
    """Write a file that appears complete or not at all, in a folder that is created if it is missing.

    Raises:
      OSError: it cannot be written.
    """
    if not isinstance(path, Path):
        with tempfile.TemporaryDirectory() as folder:
            local = Path(folder, path.name)
            local.write_bytes(content)
            upload(local, path)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.tmp")
    temporary.write_bytes(content)
    temporary.replace(path)


def upload(source: Path, path: epath.Path) -> None:
    """Write a file of this machine to a store, where it appears complete or not at all.

    Raises:
      OSError: it cannot be written.
    """
    try:
        _file_system(path).put_file(os.fspath(source), os.fspath(path))
    except Exception as error:
        raise OSError(
            f"{path} cannot be written ({_first_line(error)}): check the bucket and your permission"
        ) from error


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
