"""Models as diffusers and transformers lay them out: a folder of config.json and weights, in one file or in shards.

`vae/`, `transformer/`, `unet/` and `text_encoder/` of a published pipeline are such folders. Weights are read from
safetensors, or through PyTorch's safe loader where there is nothing else. An index file names the shard of each tensor.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from framer_jax.porting.maps import State
from framer_jax.porting.torch_files import read_state, write_state

CONFIG = "config.json"

STEMS = ("diffusion_pytorch_model", "model", "pytorch_model")
"""What weight files are called, by diffusers and by transformers."""

SUFFIXES = (".safetensors", ".bin")

INDEX = ".index.json"
"""What an index file's name has after that of the file that it stands for."""

SHARD_BYTES = 5_000_000_000


def read_folder(path: str | os.PathLike[str], variant: str = "") -> tuple[dict[str, Any], State]:
    """Read a model's folder.

    Args:
      path: the folder.
      variant: of the weights, such as 'fp16' for `diffusion_pytorch_model.fp16.safetensors`; '' for the plain ones.

    Returns:
      (content of config.json, key → array; float16 and bfloat16 are widened to float32).

    Raises:
      FileNotFoundError: no such folder, or it lacks config.json, the weights, or a shard that its index names.
      ValueError: a file is damaged, or the index and the shards contradict each other.
      ImportError: PyTorch pickles alone, and PyTorch is not installed.
    """
    path = Path(path)
    if not path.is_dir():
        raise FileNotFoundError(
            f"{path}: no such folder; give one with {CONFIG} and weights, such as a pipeline's vae/"
        )
    config = read_config(path)
    file, index = _weights_of(path, variant)
    if index:
        return config, _read_shards(path, file)
    return config, read_state(path / file)[0]


def model_folder(path: str | os.PathLike[str], part: str) -> Path:
    """The folder of one model: the one that is given, or the part `part` ('transformer', 'vae') of a pipeline's."""
    path = Path(path)
    return path / part if not (path / CONFIG).is_file() and (path / part).is_dir() else path


def model_files(path: str | os.PathLike[str], variant: str = "") -> list[Path]:
    """config.json and the files with weights, without their index, of a model's folder.

    Raises:
      FileNotFoundError, ValueError: as `read_folder`.
    """
    path = Path(path)
    read_config(path)
    file, index = _weights_of(path, variant)
    names = sorted(set(_places(path, file).values())) if index else [file]
    return [path / CONFIG, *(path / name for name in names)]


def read_config(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The content of a folder's config.json.

    Raises:
      FileNotFoundError: there is none.
      ValueError: it is no JSON object.
    """
    file = Path(path) / CONFIG
    if not file.is_file():
        raise FileNotFoundError(f"{path}: lacks {CONFIG}; give the folder of one model, such as a pipeline's vae/")
    return _read_object(file)


def write_folder(
    path: str | os.PathLike[str],
    config: Mapping[str, Any],
    tensors: State,
    max_shard_bytes: int = SHARD_BYTES,
    overwrite: bool = False,
) -> None:
    """Write a model's folder as diffusers does; it appears whole or not at all.

    Args:
      path: the folder to make.
      config: of config.json, with diffusers' `_class_name`.
      tensors: key → array, in PyTorch's names and layout.
      max_shard_bytes: of one file; more are written, with an index, where one is too small. A larger tensor has a
        shard of its own.
      overwrite: whether an older folder is replaced, which must hold nothing but a model.

    Raises:
      FileExistsError: `path` exists, and `overwrite` is not set or it holds other things.
      ValueError: there are no tensors.
    """
    path = Path(path)
    if not tensors:
        raise ValueError(f"{path}: no tensors to write")
    if path.exists() and not overwrite:
        raise FileExistsError(f"{path} exists: name another folder, or allow to overwrite it")
    if path.exists() and (others := _others(path)):
        raise FileExistsError(f"{path} holds {others[0]!r}, which is no part of a model: name another folder")
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


def _weights_of(path: Path, variant: str) -> tuple[str, bool]:
    """(name of the weights or of their index, whether it is an index): safetensors before pickles."""
    middle = f".{variant}" if variant else ""
    for suffix in SUFFIXES:
        for stem in STEMS:
            single, index = f"{stem}{middle}{suffix}", f"{stem}{suffix}.index{middle}.json"
            if (path / single).is_file():
                return single, False
            if (path / index).is_file():
                return index, True
    found = sorted(file.name for file in path.iterdir() if file.name.endswith(SUFFIXES))
    hint = f"it holds {', '.join(found[:4])}{', ...' if found[4:] else ''}" if found else "it holds no weights at all"
    names = f"{STEMS[0]}{middle}{SUFFIXES[0]}"
    raise FileNotFoundError(f"{path}: lacks {names}, its index and their like ({hint}); fetch it, or name a variant")


def _places(path: Path, index: str) -> dict[str, str]:
    """Tensor → the file that an index says it is in, all of which are there."""
    places = _read_object(path / index).get("weight_map")
    if not isinstance(places, dict) or not places or not all(isinstance(name, str) for name in places.values()):
        raise ValueError(f"{path / index}: has no 'weight_map' of tensors to files; fetch it again")
    shards = sorted(set(places.values()))
    if outside := [name for name in shards if Path(name).name != name]:
        raise ValueError(f"{path / index}: names {outside[0]!r}, which is not a file beside it; fetch it again")
    if missing := [name for name in shards if not (path / name).is_file()]:
        raise FileNotFoundError(
            f"{path}: lacks {len(missing)} of {len(shards)} shards that {index} names, such as {missing[0]!r}; fetch it"
        )
    return places


def _read_shards(path: Path, index: str) -> State:
    """All tensors that an index names, each from its shard."""
    places = _places(path, index)
    state: State = {}
    for name in sorted(set(places.values())):
        part = read_state(path / name)[0]
        named = {key for key, place in places.items() if place == name}
        if wrong := sorted(named ^ part.keys()):
            does = "lacks" if wrong[0] in named else "holds, against the index,"
            raise ValueError(f"{path / name}: {does} {wrong[0]!r}; {index} is of other shards: fetch them together")
        state |= part
    return {key: state[key] for key in places}


def _shards(tensors: State, max_shard_bytes: int) -> Iterator[State]:
    """The tensors in their order, in parts that are not larger unless one tensor is."""
    part: State = {}
    size = 0
    for key, value in tensors.items():
        if part and size + value.nbytes > max_shard_bytes:
            yield part
            part, size = {}, 0
        part[key] = value
        size += value.nbytes
    yield part


def _write_shards(folder: Path, tensors: State, max_shard_bytes: int) -> None:
    stem, suffix = STEMS[0], SUFFIXES[0]
    parts = list(_shards(tensors, max_shard_bytes))
    if len(parts) == 1:
        write_state(folder / (stem + suffix), parts[0])
        return
    places: dict[str, str] = {}
    for number, part in enumerate(parts, start=1):
        name = f"{stem}-{number:05d}-of-{len(parts):05d}{suffix}"
        write_state(folder / name, part)
        places |= dict.fromkeys(part, name)
    size = sum(value.nbytes for value in tensors.values())
    _write_object(folder / (stem + suffix + INDEX), {"metadata": {"total_size": size}, "weight_map": places})


def _others(path: Path) -> list[str]:
    """Names in a folder that are no part of a model; all of them where it is a file or a link."""
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
