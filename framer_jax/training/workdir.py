"""The work directory of a run: which names the libraries that write into it can take, and the lock on it."""

from __future__ import annotations

import errno
import json
import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import IO

from etils import epath

from framer_jax.paths import AnyPath, read_bytes, remote_files, write_whole

LOGGER = logging.getLogger(__name__)

LOCK = ".lock"
"""File name of the lock in a work directory; it exists while a training runs."""

PATTERN_CHARACTERS = "*?[" + ("" if os.sep == "\\" else "\\")
"""Characters with a meaning in file name patterns: Orbax searches its folders with unescaped patterns."""

BUCKET = "gs:/"
"""Where a path contains this, Orbax inserts a slash, as in the address of a bucket."""

LONGEST_BELOW = 300
"""Upper bound of the length of paths below a work directory, in bytes."""

UNSUPPORTED = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL)
"""Errors of file systems without locks."""


def check_name(workdir: AnyPath) -> None:
    """Refuse a path that Orbax, which writes the checkpoints, would misread.

    Raises:
      ValueError: it is a file or below one, or the path contains characters of patterns, is not UTF-8, looks like the
        address of a bucket, or is too long; or it is in a store other than gs://.
    """
    if not isinstance(workdir, Path):
        _check_address(os.fspath(workdir))
        return
    path = str(workdir.absolute())
    if file := next((each for each in (workdir.absolute(), *workdir.absolute().parents) if each.is_file()), None):
        raise ValueError(f"the work directory {path} cannot be made, because {file} is a file: name a folder")
    hint = "name another one, or a link to it with a plain name"
    if characters := sorted({character for character in path if character in PATTERN_CHARACTERS}):
        raise ValueError(
            f"the work directory {path} contains {' '.join(characters)}, with which checkpoints cannot be read again: "
            f"{hint}"
        )
    try:
        path.encode()
    except UnicodeEncodeError:
        raise ValueError(f"the name of the work directory {path!a} is not UTF-8: {hint}") from None
    if os.sep == "/" and (os.fspath(epath.Path(path)) != path or BUCKET in f"{path}/"):
        raise ValueError(f"the work directory {path} would be taken for the address of a bucket: {hint}")
    if hasattr(os, "pathconf") and len(os.fsencode(path)) + LONGEST_BELOW > os.pathconf("/", "PC_PATH_MAX"):
        raise ValueError(
            f"the path of the work directory has {len(os.fsencode(path))} bytes, which is too long: {hint}"
        )


def _check_address(address: str) -> None:
    if not address.startswith("gs://"):
        raise ValueError(
            f"the work directory {address} is in a store that checkpoints are not written to: name a folder on this "
            "machine, or one in gs://BUCKET/"
        )
    if characters := sorted({character for character in address if character in PATTERN_CHARACTERS}):
        raise ValueError(
            f"the work directory {address} contains {' '.join(characters)}, with which checkpoints cannot be read "
            "again: name another one"
        )


def check_unlocked(workdir: AnyPath) -> None:
    """Refuse a work directory that another training is writing into; nothing is created.

    Raises:
      ValueError: the message says who holds the lock.
      OSError: the work directory is in an object store that cannot be reached.
    """
    if not isinstance(workdir, Path):
        _holder_of_address(workdir)
        return
    if not (workdir / LOCK).is_file():
        return
    with open(workdir / LOCK, "r+", encoding="utf-8") as file:
        if not _lock(file):
            raise ValueError(_held(workdir, file))


@contextmanager
def locked(workdir: AnyPath) -> Iterator[None]:
    """Hold the lock of a work directory, which is created if it is missing, and removed again if it stays empty.

    The operating system releases the lock of a process that ends in any way, so that one that was killed blocks nobody.
    Object stores have no locks: the file only says who began a run there, and a warning names another one.

    Raises:
      ValueError: another training holds it; the message says which.
      OSError: the directory cannot be written.
    """
    if not isinstance(workdir, Path):
        with _marked(workdir):
            yield
        return
    created = not workdir.exists()
    path = workdir / LOCK
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        file = _acquired(workdir, path)
    except OSError as error:
        raise OSError(
            f"the work directory {workdir} cannot be written ({error.strerror or error}): name another --workdir"
        ) from error
    try:
        file.seek(0)
        file.truncate()
        file.write(_this_process())
        file.flush()
        yield
    finally:
        path.unlink(missing_ok=True)
        file.close()
        if created and not any(workdir.iterdir()):
            workdir.rmdir()


def _this_process() -> str:
    """What the lock says of its holder, as JSON."""
    since = datetime.now().astimezone().isoformat(" ", "seconds")
    return json.dumps({"process": os.getpid(), "host": socket.gethostname(), "since": since})


@contextmanager
def _marked(workdir: epath.Path) -> Iterator[None]:
    """The file of the lock in an object store; writing it also shows that the bucket is writable."""
    if holder := _holder_of_address(workdir):
        LOGGER.warning(
            "%s exists: %s began a run in this work directory; if it still runs, stop one of the two (object stores "
            "have no locks)",
            workdir / LOCK,
            _described(holder),
        )
    write_whole(workdir / LOCK, _this_process().encode())
    try:
        yield
    finally:
        (workdir / LOCK).unlink(missing_ok=True)


def _holder_of_address(workdir: epath.Path) -> str:
    """The content of the lock in an object store; '' if there is none."""
    if LOCK not in remote_files(workdir):
        return ""
    return read_bytes(workdir / LOCK).decode(errors="replace")


def _acquired(workdir: Path, path: Path) -> IO[str]:
    """The open and locked file."""
    while True:
        file = open(path, "a+", encoding="utf-8")  # noqa: SIM115 (the lock lasts as long as it is open)
        if not _lock(file):
            with file:
                raise ValueError(_held(workdir, file))
        if path.exists() and os.path.samestat(os.fstat(file.fileno()), path.stat()):
            return file
        file.close()  # its former holder removed it between the opening and the locking


def _lock(file: IO[str]) -> bool:
    """Try to lock an open file; true if it worked, or if the file system has no locks."""
    try:
        import fcntl
    except ImportError:  # Windows, where nobody can remove a file that is open
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno in UNSUPPORTED
    return True


def _held(workdir: Path, file: IO[str]) -> str:
    try:
        file.seek(0)
        content = file.read()
    except OSError:
        content = ""
    return (
        f"the work directory {workdir} is in use by a training ({_described(content)}): wait for its end, stop it, or "
        "name another work directory"
    )


def _described(content: str) -> str:
    """The holder of a lock in words, from the content of its file."""
    try:
        holder = json.loads(content)
        return f"process {holder['process']} on {holder['host']}, since {holder['since']}"
    except (ValueError, KeyError, TypeError):
        return "another process"
