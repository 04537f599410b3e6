"""Records that were computed beforehand: ArrayRecord files with a manifest, written whole and read as a Grain source.

A record is a flat dict of arrays, packed by flax's msgpack. The manifest says what the records were made of; a training
run compares it with its own configuration.
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

from framer_jax.porting.files import replacing, sha256_of

MANIFEST = "records.json"
"""Name of the manifest in a folder of records."""

NAMES = "names.json"
"""Name of the list that records point into, beside the manifest, where there is one."""

Record = Mapping[str, np.ndarray]


def is_records(folder: str | os.PathLike[str]) -> bool:
    """Whether a folder holds precomputed records."""
    return (Path(folder) / MANIFEST).is_file()


def file_name(number: int) -> str:
    """Name of file `number` of a folder of records."""
    return f"records-{number:05d}.array_record"


def write_manifest(folder: str | os.PathLike[str], manifest: Mapping[str, Any], overwrite: bool = False) -> None:
    """Say what a folder's records are made of, before the first of them is written.

    Args:
      folder: made where it is missing.
      manifest: plain JSON; 'samples' and 'per_file' are the numbers of records in all, and in a file.
      overwrite: remove the records of another manifest, if there are any.

    Raises:
      ValueError: the folder holds records of another manifest; the message names the first entry that differs.
    """
    folder = Path(folder)
    text = json.dumps(manifest, indent=1, sort_keys=True) + "\n"
    if is_records(folder):
        found = read_manifest(folder)
        if found == json.loads(text):
            return
        if not overwrite:
            plain = json.loads(text)
            differing = sorted(name for name in {*found, *plain} if found.get(name) != plain.get(name))
            raise ValueError(
                f"{folder} holds records that were made otherwise ({', '.join(differing)}): name another folder, or "
                "use --overwrite"
            )
        for path in folder.glob(file_name(0).replace("00000", "*")):
            path.unlink()
    with replacing(folder / MANIFEST) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_names(
    folder: str | os.PathLike[str], manifest: Mapping[str, Any], names: Sequence[str], overwrite: bool = False
) -> None:
    """As `write_manifest`, with a list of names (of photographs) beside it; the manifest has its digest.

    Raises:
      ValueError: as `write_manifest`.
    """
    text = json.dumps(list(names), indent=0, ensure_ascii=False) + "\n"
    digest = hashlib.sha256(text.encode()).hexdigest()
    write_manifest(folder, {**manifest, "names": digest}, overwrite)
    with replacing(Path(folder) / NAMES) as temporary:
        temporary.write_bytes(text.encode())


def read_names(folder: str | os.PathLike[str]) -> list[str]:
    """The list that `write_names` wrote.

    Raises:
      ValueError: it is missing, or not that of the manifest.
    """
    path = Path(folder) / NAMES
    if not path.is_file() or sha256_of(path) != read_manifest(folder).get("names"):
        raise ValueError(f"{path} is missing or damaged: give the `framer-jax precompute` that made it once more")
    return list(json.loads(path.read_text(encoding="utf-8")))


def read_manifest(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """What `write_manifest` wrote.

    Raises:
      ValueError: it is damaged.
    """
    path = Path(folder) / MANIFEST
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        if min(manifest["samples"], manifest["per_file"]) < 1:
            raise ValueError("its numbers of records make no sense")
        return dict(manifest)
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is damaged ({error}): make the records again") from error


def write_records(path: str | os.PathLike[str], records: Iterable[Record]) -> None:
    """One file of records, which appears whole or not at all.

    Raises:
      ImportError: array_record has no build for this platform.
    """
    module = _array_record()
    with replacing(path) as temporary:
        writer = module.ArrayRecordWriter(str(temporary), "group_size:1")
        try:
            for record in records:
                plain = {name: np.asarray(value) for name, value in record.items()}
                writer.write(serialization.msgpack_serialize(plain))
        finally:
            writer.close()


def _array_record() -> Any:
    try:
        from array_record.python import array_record_module
    except ImportError as error:
        text = f"precomputed records need the package array_record ({error}): pip install array_record"
        raise ImportError(text) from error
    return array_record_module


def check_kind(manifest: Mapping[str, Any], kind: str, folder: str | os.PathLike[str]) -> None:
    """Refuse records of another kind.

    Raises:
      ValueError: as said.
    """
    if manifest.get("kind") != kind:
        raise ValueError(
            f"{folder} holds records of {manifest.get('kind')!r}, not {kind!r}: give a folder that `framer-jax "
            f"precompute {kind}` wrote"
        )


class RecordFiles:
    """A folder of records by number, as Grain's random-access protocol wants it.

    Attributes:
      manifest: what the records were made of.
      names: what to call them in logs.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        """Open the files.

        Raises:
          ValueError: some are missing (the message says how many), or are damaged.
          ImportError: array_record has no build for this platform.
        """
        _array_record()
        import grain

        folder = Path(folder)
        self.manifest = read_manifest(folder)
        samples, per_file = self.manifest["samples"], self.manifest["per_file"]
        paths = [folder / file_name(number) for number in range(-(-samples // per_file))]
        missing = [path.name for path in paths if not path.is_file()]
        if missing:
            raise ValueError(
                f"{folder} lacks {len(missing)} of {len(paths)} files of records ({missing[0]}, …): give the "
                "`framer-jax precompute` that makes them once more; it goes on where it stopped"
            )
        try:
            self._source = grain.sources.ArrayRecordDataSource([str(path) for path in paths])
            found = len(self._source)
        except (RuntimeError, ValueError) as error:
            raise ValueError(f"the records in {folder} are damaged ({error}): make them again") from error
        if found != samples:
            raise ValueError(f"{folder} holds {found} records, not the {samples} of its manifest: make them again")
        digest = sha256_of(folder / MANIFEST)[:12]
        self.names = [f"record {number} of {digest}" for number in range(samples)]

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: SupportsIndex) -> dict[str, np.ndarray]:
        record = serialization.msgpack_restore(self._source[int(index)])
        return {**record, "record": np.int32(int(index))}

    def __repr__(self) -> str:
        return f"RecordFiles({len(self)} records)"

    def damage(self) -> str:
        """As of framer_jax.data.sources.ImageFiles; damaged records are an error, not skipped."""
        return ""
