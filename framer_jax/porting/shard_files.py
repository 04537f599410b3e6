"""Names of files that the shards of one command write next to the file of all."""

from __future__ import annotations

import re
from pathlib import Path


def shard_file(path: Path, shard: tuple[int, int]) -> Path:
    """The file of a shard: scores.json for a single shard, scores-2-of-4.json for one of several."""
    return path if shard[1] == 1 else path.with_name(f"{path.stem}-{shard[0]}-of-{shard[1]}{path.suffix}")


def shard_files(path: Path) -> list[Path]:
    """The existing files of shards, sorted by name; without the file of all."""
    if not path.parent.is_dir():
        return []
    name = re.compile(rf"{re.escape(path.stem)}-\d+-of-\d+{re.escape(path.suffix)}")
    return sorted(file for file in path.parent.iterdir() if name.fullmatch(file.name))
