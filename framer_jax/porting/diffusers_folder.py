"""Model folders of diffusers and transformers: config.json and weights, in one file or in shards.

`vae/`, `transformer/`, `unet/` and `text_encoder/` of a published pipeline are such folders. Weights are read from
safetensors if there are any, and through PyTorch's safe loader otherwise. An index file names the shard of each tensor.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from framer_jax.porting.maps import StateDict
from framer_jax.porting.torch_files import read_state, write_state

CONFIG = "config.json"

STEMS = ("diffusion_pytorch_model", "model", "pytorch_model")
"""Stems of weights files, in diffusers and in transformers."""

SUFFIXES = (".safetensors", ".bin")

INDEX = ".index.json"
"""Appended to the name of a weights file for the name of its index."""

SHARD_BYTES = 5_000_000_000


def read_folder(path: str | os.PathLike[str], variant: str = "") -> tuple[dict[str, Any], StateDict]:
    """Read a model's folder.

    Args:
      path: the folder.
      variant: variant of the weights, such as 'fp16' for `diffusion_pytorch_model.fp16.safetensors`, or ''.

    Returns:
      (content of config.json, key → array; float16 and bfloat16 are widened to float32).

    Raises:
      FileNotFoundError: there is no such folder, or it lacks config.json, the weights, or a shard of its index.
      ValueError: a file is damaged, or the index and the shards contradict each other.
      ImportError: there are PyTorch pickles only, and PyTorch is not installed.
    """
    path = Path(path)
    if not path.is_dir():
        raise FileNotFoundError(
            f"{path}: no such folder; give one with {CONFIG} and weights, such as a pipeline's vae/"
        )
    config = read_config(path)
    file, is_index = _find_weights(path, variant)
    if is_index:
        return config, _read_shards(path, file)
    return config, read_state(path / file)[0]


def model_folder(path: str | os.PathLike[str], part: str) -> Path:
    """The folder of one model: `path` itself, or its subfolder `part` ('transformer', 'vae') if it is a pipeline."""
    path = Path(path)
    return path / part if not (path / CONFIG).is_file() and (path / part).is_dir() else path


def model_files(path: str | os.PathLike[str], variant: str = "") -> list[Path]:
    """config.json and the weights files of a model's folder, without their index.

    Raises:
      FileNotFoundError, ValueError: see `read_folder`.
    """
    path = Path(path)
    read_config(path)
    file, is_index = _find_weights(path, variant)
    names = sorted(set(_read_index(path, file).values())) if is_index else [file]
    return [path / CONFIG, *(path / name for name in names)]


def read_config(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The content of a folder's config.json.

    Raises:
      FileNotFoundError: there is none.
      ValueError: it is not a JSON object.
    """
    file = Path(path) / CONFIG
    if not file.is_file():
        raise FileNotFoundError(f"{path}: lacks {CONFIG}; give the folder of one model, such as a pipeline's vae/")
    return _read_object(file)


def write_folder(
    path: str | os.PathLike[str],
    config: Mapping[str, Any],
    tensors: StateDict,
    max_shard_bytes: int = SHARD_BYTES,
    overwrite: bool = False,
) -> None:
    """Write a model's folder in the layout of diffusers, atomically.

    Args:
      path: the folder to create.
      config: content of config.json, with diffusers' `_class_name`.
      tensors: key → array, in PyTorch's names and layout.
      max_shard_bytes: largest size of a file; larger models are written as several files with an index. A tensor that
        is larger has a shard of its own.
      overwrite: whether an older folder is replaced; it must hold nothing but a model.

    Raises:
      FileExistsError: `path` exists, and `overwrite` is not set or it holds other files.
      ValueError: there are no tensors.
    """
    path = Path(path)
    if not tensors:
        raise ValueError(f"{path}: no tensors to write")
    if path.exists() and not overwrite:
        raise FileExistsError(f"{path} exists: name another folder, or allow to overwrite it")
    if path.exists() and (others := _other_files(path)):
        raise FileExistsError(f"{path} holds {others[0]!r}, which is not part of a model: name another folder")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name[:100]}.{secrets.token_hex(4)}.part")
    old = temporary.with_suffix(".old")
    try:
        temporary.mkdir()
        _write_object(temporary / CONFIG, config)
        _write_shards(temporary, tensors, max_shard_bytes)
        if path.exists():
            os.replace(path, old)
        try:
            os.replace(temporary, path)
        except OSError:
            if old.exists():
                os.replace(old, path)
            raise
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _find_weights(path: Path, variant: str) -> tuple[str, bool]:
    """(name of the weights file or of its index, whether it is an index); safetensors are preferred to pickles."""
    middle = f".{variant}" if variant else ""
    for suffix in SUFFIXES:
        for stem in STEMS:
            single, index = f"{stem}{middle}{suffix}", f"{stem}{suffix}.index{middle}.json"
            if (path / single).is_file():
                return single, False
            if (path / index).is_file():
                return index, True
    files = sorted(file.name for file in path.iterdir() if file.name.endswith(SUFFIXES))
    hint = f"it holds {', '.join(files[:4])}{', ...' if files[4:] else ''}" if files else "it holds no weights at all"
    name = f"{STEMS[0]}{middle}{SUFFIXES[0]}"
    raise FileNotFoundError(
        f"{path}: lacks {name}, its index and the alternatives ({hint}); fetch it, or name a variant"
    )


def _read_index(path: Path, index: str) -> dict[str, str]:
    """Tensor → file of its shard, after a check that all files exist."""
    weight_map = _read_object(path / index).get("weight_map")
    if (
        not isinstance(weight_map, dict)
        or not weight_map
        or not all(isinstance(name, str) for name in weight_map.values())
    ):
        raise ValueError(f"{path / index}: has no 'weight_map' of tensors to files; fetch it again")
    shards = sorted(set(weight_map.values()))
    if outside := [name for name in shards if Path(name).name != name]:
        raise ValueError(f"{path / index}: names {outside[0]!r}, which is not a file next to it; fetch it again")
    if missing := [name for name in shards if not (path / name).is_file()]:
        raise FileNotFoundError(
            f"{path}: lacks {len(missing)} of {len(shards)} shards that {index} names, such as {missing[0]!r}; fetch it"
        )
    return weight_map


def _read_shards(path: Path, index: str) -> StateDict:
    """All tensors of an index, from their shards."""
    weight_map = _read_index(path, index)
    state: StateDict = {}
    for name in sorted(set(weight_map.values())):
        shard = read_state(path / name)[0]
        expected = {key for key, file in weight_map.items() if file == name}
        if wrong := sorted(expected ^ shard.keys()):
            verb = "lacks" if wrong[0] in expected else "holds, contrary to the index,"
            raise ValueError(f"{path / name}: {verb} {wrong[0]!r}; {index} is of other shards: fetch them together")
        state |= shard
    return {key: state[key] for key in weight_map}


def _shards(tensors: StateDict, max_shard_bytes: int) -> Iterator[StateDict]:
    """The tensors in their order, in shards of at most that size, unless a single tensor is larger."""
    shard: StateDict = {}
    size = 0
    for key, value in tensors.items():
        if shard and size + value.nbytes > max_shard_bytes:
            yield shard
            shard, size = {}, 0
        shard[key] = value
        size += value.nbytes
    yield shard


def _write_shards(folder: Path, tensors: StateDict, max_shard_bytes: int) -> None:
    stem, suffix = STEMS[0], SUFFIXES[0]
    shards = list(_shards(tensors, max_shard_bytes))
    if len(shards) == 1:
        write_state(folder / (stem + suffix), shards[0])
        return
    weight_map: dict[str, str] = {}
    for number, shard in enumerate(shards, start=1):
        name = f"{stem}-{number:05d}-of-{len(shards):05d}{suffix}"
        write_state(folder / name, shard)
        weight_map |= dict.fromkeys(shard, name)
    size = sum(value.nbytes for value in tensors.values())
    _write_object(folder / (stem + suffix + INDEX), {"metadata": {"total_size": size}, "weight_map": weight_map})


def _other_files(path: Path) -> list[str]:
    """Names in a folder that are not part of a model; the path's own name if it is a file or a link."""
    if path.is_symlink() or not path.is_dir():
        return [path.name]
    return sorted(
        file.name
        for file in path.iterdir()
        if not (file.is_file() and (file.name == CONFIG or file.name.endswith((*SUFFIXES, INDEX))))
    )


def _read_object(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise ValueError(f"{path}: cannot be read as JSON ({error}); fetch it again") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path}: holds a {type(content).__name__}, not a JSON object; fetch it again")
    return content


def _write_object(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")
