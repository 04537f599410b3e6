"""Folders as Diffusers lays them out: config.json beside safetensors, one file or several with an index."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, NamedTuple

from framer_jax.porting.files import sha256_of
from framer_jax.porting.maps import State
from framer_jax.porting.torch_files import read_state

CONFIG = "config.json"
INDEX = ".safetensors.index.json"

WEIGHTS = "diffusion_pytorch_model"
"""How the files are called without the ending."""


class Folder(NamedTuple):
    """A model in a folder.

    Attributes:
      state: all its tensors.
      config: what config.json holds.
      files: name and SHA-256 of each file that was read.
    """

    state: State
    config: dict[str, Any]
    files: list[dict[str, str]]


def read_folder(path: str | os.PathLike[str], part: str) -> Folder:
    """Read one model of a pipeline.

    Args:
      path: the pipeline's folder, or the model's own in it.
      part: name of the model's folder in the pipeline's, such as 'transformer'.

    Raises:
      FileNotFoundError: config.json, the weights, or a file that the index names is missing.
      ValueError: a file cannot be read, or lacks a tensor that the index says is in it.
    """
    folder = Path(path)
    if not (folder / CONFIG).is_file() and (folder / part).is_dir():
        folder = folder / part
    config = _read_json(folder / CONFIG, f"give the folder of a Diffusers model, or of a pipeline with {part}/ in it")
    shards, names = _shards(folder)
    state: State = {}
    for shard in shards:
        tensors, _ = read_state(shard)
        if absent := sorted(key for key, name in names.items() if name == shard.name and key not in tensors):
            raise ValueError(f"{shard}: lacks {len(absent)} tensors that the index names, such as {absent[0]!r}")
        state |= tensors
    return Folder(
        state, config, [{"file": file.name, "sha256": sha256_of(file)} for file in (folder / CONFIG, *shards)]
    )


def _shards(folder: Path) -> tuple[list[Path], dict[str, str]]:
    """The files with tensors, and which tensor is in which of them by the index, if there is one."""
    index = folder / f"{WEIGHTS}{INDEX}"
    whole = folder / f"{WEIGHTS}.safetensors"
    if not index.is_file():
        if not whole.is_file():
            others = sorted(file.name for file in folder.glob("*.safetensors*"))
            hint = f"; it holds {', '.join(others[:4])}, which may be renamed" if others else ""
            raise FileNotFoundError(f"{folder}: there is neither {whole.name} nor {index.name}{hint}")
        return [whole], {}
    names = _read_json(index, "fetch it again").get("weight_map")
    if not isinstance(names, dict) or not names or any(Path(str(name)).name != name for name in names.values()):
        raise ValueError(f"{index}: no index of safetensors files beside it (weight_map): fetch it again")
    shards = [folder / name for name in sorted(set(names.values()))]
    if missing := [shard.name for shard in shards if not shard.is_file()]:
        raise FileNotFoundError(
            f"{folder}: {len(missing)} of the {len(shards)} files that its index names "
            f"{'is' if len(missing) == 1 else 'are'} missing: {', '.join(missing[:8])}: fetch them too"
        )
    return shards, names


def _read_json(path: Path, remedy: str) -> dict[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such file: {remedy}")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: no JSON ({error}): fetch it again") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path}: holds a {type(content).__name__}, not an object: fetch it again")
    return content
