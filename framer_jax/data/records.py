"""Precomputed records: ArrayRecord files with a manifest, written atomically and read as a Grain source.

A record is a flat dict of arrays, serialised with flax's msgpack. The manifest states what the records were computed
from; a training run compares it with its own configuration.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, SupportsIndex

import numpy as np
from flax import serialization

from framer_jax.data.contents import file_digests
from framer_jax.paths import as_path, check_local, is_remote
from framer_jax.porting.files import RAW_NAMES, atomic_write, sha256_of

MANIFEST = "records.json"
"""File name of the manifest in a folder of records."""

NAMES = "names.json"
"""File name of the optional list of names that records refer to by index, next to the manifest."""

RECORD = "record"
"""Entry of loaded records and batches: the record's number."""

Record = Mapping[str, np.ndarray]


def is_records(folder: str | os.PathLike[str]) -> bool:
    """Whether a folder holds precomputed records.

    Raises:
      ValueError: it does, in an object store, where array_record cannot read them.
    """
    if not is_remote(folder):
        return (Path(folder) / MANIFEST).is_file()
    if (as_path(folder) / MANIFEST).exists():
        check_local(folder, "precomputed records")
    return False


def file_name(number: int) -> str:
    """Name of the file with this number in a folder of records."""
    return f"records-{number:05d}.array_record"


def write_manifest(folder: str | os.PathLike[str], manifest: Mapping[str, Any], overwrite: bool = False) -> None:
    """Write what a folder's records are computed from, before the first record is written.

    Args:
      folder: created if it is missing.
      manifest: plain JSON; 'samples' is the total number of records, 'per_file' the number in a file.
      overwrite: remove existing records of another manifest.

    Raises:
      ValueError: the folder holds records of another manifest; the message names the entries that differ.
    """
    check_local(folder, "precomputed records")
    folder = Path(folder)
    _check_name(folder)
    text = json.dumps(manifest, indent=1, sort_keys=True) + "\n"
    if is_records(folder):
        existing, new = read_manifest(folder), json.loads(text)
        if existing == new:
            return
        if not overwrite:
            differing = sorted(name for name in {*existing, *new} if existing.get(name) != new.get(name))
            raise ValueError(
                f"{folder} holds records that were made otherwise ({', '.join(differing)}): name another folder, or "
                "use --overwrite"
            )
        for path in folder.glob(file_name(0).replace("00000", "*")):
            path.unlink()
    with atomic_write(folder / MANIFEST) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _check_name(folder: Path) -> None:
    """Refuse a folder that array_record cannot open, before records are computed for it."""
    try:
        str(folder.absolute()).encode()
    except UnicodeEncodeError:
        raise ValueError(f"the name of the folder of records {str(folder)!a} is not UTF-8: rename it") from None


def write_names(
    folder: str | os.PathLike[str], manifest: Mapping[str, Any], names: Sequence[str], overwrite: bool = False
) -> None:
    """Write a manifest with the digest of a list of photograph names, and the list next to it.

    Raises:
      ValueError: see `write_manifest`.
    """
    text = json.dumps(list(names), indent=0, ensure_ascii=False) + "\n"
    content = text.encode(errors="backslashreplace")  # a name that is no text has surrogates; JSON escapes them so
    digest = hashlib.sha256(content).hexdigest()
    write_manifest(folder, {**manifest, "names": digest}, overwrite)
    with atomic_write(Path(folder) / NAMES) as temporary:
        temporary.write_bytes(content)


def read_names(folder: str | os.PathLike[str]) -> list[str]:
    """Read the list that `write_names` wrote.

    Raises:
      ValueError: the list is missing or does not match the manifest.
    """
    path = Path(folder) / NAMES
    if not path.is_file() or sha256_of(path) != read_manifest(folder).get("names"):
        raise ValueError(f"{path} is missing or damaged: run its `framer-jax precompute` command once more")
    return list(json.loads(path.read_text(encoding="utf-8", errors=RAW_NAMES)))


def read_manifest(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """Read the manifest that `write_manifest` wrote.

    Raises:
      ValueError: the manifest is damaged.
    """
    path = Path(folder) / MANIFEST
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        if min(manifest["samples"], manifest["per_file"]) < 1:
            raise ValueError("samples and per_file must be at least 1")
        return dict(manifest)
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is damaged ({error}): make the records again") from error


def write_records(path: str | os.PathLike[str], records: Iterable[Record]) -> None:
    """Write one file of records; the file appears complete or not at all.

    Raises:
      ImportError: array_record has no build for this platform.
    """
    module = _array_record()
    with atomic_write(path) as temporary:
        writer = module.ArrayRecordWriter(str(temporary), "group_size:1")
        try:
            for record in records:
                arrays = {name: np.asarray(value) for name, value in record.items()}
                writer.write(serialization.msgpack_serialize(arrays))
        finally:
            writer.close()


def _array_record() -> Any:
    try:
        from array_record.python import array_record_module
    except ImportError as error:
        message = f"precomputed records need the package array_record ({error}): pip install array_record"
        raise ImportError(message) from error
    return array_record_module


def check_kind(manifest: Mapping[str, Any], kind: str, folder: str | os.PathLike[str]) -> None:
    """Check that records are of the given kind.

    Raises:
      ValueError: they are of another kind.
    """
    if manifest.get("kind") != kind:
        raise ValueError(
            f"{folder} holds records of {manifest.get('kind')!r}, not {kind!r}: give a folder that `framer-jax "
            f"precompute {kind}` wrote"
        )


class RecordFiles:
    """A folder of records by number, with Grain's random-access protocol.

    Attributes:
      manifest: what the records were computed from.
      names: names of the records in logs.
      kind: the kind of records that the manifest states, such as 'teacher'.
      batch_entries: the entries of prepared batches, which are those of the records.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        """Open the files.

        Raises:
          ValueError: files are missing (the message says how many) or damaged.
          ImportError: array_record has no build for this platform.
        """
        _array_record()
        import grain

        folder = Path(folder)
        _check_name(folder)
        self.manifest = read_manifest(folder)
        self.kind = str(self.manifest.get("kind", ""))
        samples, per_file = self.manifest["samples"], self.manifest["per_file"]
        paths = [folder / file_name(number) for number in range(-(-samples // per_file))]
        missing = [path.name for path in paths if not path.is_file()]
        if missing:
            raise ValueError(
                f"{folder} lacks {len(missing)} of {len(paths)} files of records ({missing[0]}, …): run the "
                "`framer-jax precompute` command that makes them once more; it continues where it stopped"
            )
        self._paths = paths
        try:
            self._source = grain.sources.ArrayRecordDataSource([str(path) for path in paths])
            count = len(self._source)
        except (RuntimeError, ValueError) as error:
            raise ValueError(f"the records in {folder} are damaged ({error}): make them again") from error
        if count != samples:
            raise ValueError(f"{folder} holds {count} records, not the {samples} of its manifest: make them again")
        digest = sha256_of(folder / MANIFEST)[:12]
        self.names = [f"record {number} of {digest}" for number in range(samples)]

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: SupportsIndex) -> dict[str, np.ndarray]:
        record = serialization.msgpack_restore(self._source[int(index)])
        return {**record, RECORD: np.int32(int(index))}

    def __repr__(self) -> str:
        return f"RecordFiles({len(self)} records)"

    @property
    def batch_entries(self) -> tuple[str, ...]:
        """The entries of prepared batches."""
        return tuple(name for name in self[0] if name != RECORD)

    def digests(self) -> dict[str, str]:
        """Name of every file → digest of its content (framer_jax.data.contents)."""
        return file_digests({path.name: path for path in self._paths})

    def damage(self) -> str:
        """Always empty: damaged records raise an error, whereas `ImageFiles` skips damaged images."""
        return ""
