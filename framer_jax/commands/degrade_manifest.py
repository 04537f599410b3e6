"""The manifest of `framer-jax degrade`: JSON lines that precede their results, one file for each shard."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from threading import Lock
from types import MappingProxyType
from typing import Any, NamedTuple

from framer_jax.commands.degrade_results import Job, manifest_record, result_paths
from framer_jax.data.whole_photos import photo_generator
from framer_jax.degradations.draw import draw
from framer_jax.degradations.presets import DegradationPreset
from framer_jax.porting.files import atomic_write
from framer_jax.porting.shard_files import shard_files

Line = Mapping[str, Any]
"""What a manifest says of one photograph."""


class Earlier(NamedTuple):
    """What earlier runs of the same command did.

    Attributes:
      lines: name of a photograph → its line.
      kept: names of those whose results exist; the results of the others are missing, or some of them.
    """

    lines: Mapping[str, Line]
    kept: frozenset[str]


NOTHING = Earlier(MappingProxyType({}), frozenset())


class Manifest:
    """A manifest that is written while results are.

    A line is written before the results that it describes: after a sudden end, every result has its line.
    """

    def __init__(self, path: Path, lines: Mapping[str, Line]):
        """A manifest that begins with lines of earlier runs; it is written with the first further line."""
        self.lines = dict(lines)
        self._path = path
        self._is_begun = False
        self._lock = Lock()

    def add(self, name: str, line: Line) -> None:
        """Write the line of a photograph; threads may do so at the same time."""
        with self._lock:
            self.lines[name] = line
            if self._is_begun:
                with self._path.open("a", encoding="utf-8") as file:
                    file.write(_text([line]))
            else:
                _write(self._path, list(self.lines.values()))
                self._is_begun = True

    def finish(self, names: Sequence[str]) -> None:
        """Write the lines in the order of the names, unless there is none."""
        if self.lines:
            _write(self._path, [self.lines[name] for name in names if name in self.lines])


def earlier_results(
    jobs: Sequence[Job], preset: DegradationPreset, seed: int, manifest: Path, names: Collection[str]
) -> Earlier:
    """What earlier runs of the same command, or their shards, did for the jobs; they are continued.

    A result is kept if it exists and the photograph, by its digest, is still the same.

    Args:
      jobs: those of this run or shard.
      preset: distributions of the degradation parameters.
      seed: seed of all draws.
      manifest: that of all shards, next to which those of the shards lie.
      names: of all photographs.

    Raises:
      FileExistsError: a manifest is another one: of other photographs, settings or versions, or damaged.
    """
    present = {job.name: job for job in jobs}
    lines, kept = {}, set()
    for path in (*((manifest,) if manifest.is_file() else ()), *shard_files(manifest)):
        try:
            for line in _read(path):
                if line["name"] not in present and line["name"] in names:
                    continue  # of another shard
                job = present[line["name"]]
                new = manifest_record(job, draw(photo_generator(seed, job.name), preset), preset, seed, manifest.parent)
                if line != json.loads(json.dumps(new)):
                    raise ValueError
                lines[job.name] = line
                if all(file.is_file() for file in result_paths(job)):
                    kept.add(job.name)
        except (ValueError, KeyError, TypeError):  # another program's, or another command's
            raise FileExistsError(
                f"{path} exists, of other photographs or settings: choose another folder or add --overwrite"
            ) from None
    return Earlier(lines, frozenset(kept))


def join_manifests(names: Sequence[str], manifest: Path) -> None:
    """Put the lines of all shards into one manifest, in the order of the names, and remove those of the shards."""
    parts = shard_files(manifest)
    if not parts:
        return
    lines = {line["name"]: line for path in (manifest, *parts) if path.is_file() for line in _read(path)}
    if lines:
        _write(manifest, [lines[name] for name in names if name in lines])
    for path in parts:
        path.unlink()


def _read(path: Path) -> list[Any]:
    """The lines of a manifest, without a last one that is not complete: it is being written, or its process ended."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n")[:-1]]


def _write(path: Path, lines: Sequence[Line]) -> None:
    with atomic_write(path) as temporary:
        temporary.write_text(_text(lines), encoding="utf-8")


def _text(lines: Sequence[Line]) -> str:
    return "".join(json.dumps(line) + "\n" for line in lines)
