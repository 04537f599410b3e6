"""Model folders of diffusers and transformers: config.json and weights, in one file or in shards.

`vae/`, `transformer/`, `unet/` and `text_encoder/` of a published pipeline are such folders. Weights are read from
safetensors if there are any, and through PyTorch's safe loader otherwise. An index file names the shard of each tensor;
the index or one of the shards may stand for all of them.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from framer_jax.paths import check_local
from framer_jax.porting.maps import StateDict
from framer_jax.porting.ncnn import files_of, is_ncnn
from framer_jax.porting.state_dicts import IsKnown, select
from framer_jax.porting.torch_files import TorchFile, read_checkpoint, write_state

CONFIG = "config.json"

SCHEDULER = Path("scheduler", "scheduler_config.json")
"""The scheduler's configuration in the folder of a pipeline."""

STEMS = ("diffusion_pytorch_model", "model", "pytorch_model")
"""Stems of weights files, in diffusers and in transformers."""

SUFFIXES = (".safetensors", ".bin")

INDEX = ".index.json"
"""Appended to the name of a weights file for the name of its index."""

SHARD = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})(?P<rest>(\.\w+)?\.(safetensors|bin))")
"""Name of one of many weights files."""

INDEX_NAME = re.compile(r".+\.index(\.\w+)?\.json")
"""Name of an index, with or without a variant."""

SHARD_BYTES = 5_000_000_000


class ModelFiles(NamedTuple):
    """The files of one model.

    Attributes:
      folder: the folder that they lie in.
      weights: names of the weights files.
      shard_index: name of the index of shards, '' for none.
      config: content of config.json: of the folder, or next to a file with a name of Diffusers; None without any.
      notes: what was chosen, one sentence each.
    """

    folder: Path
    weights: tuple[str, ...]
    shard_index: str = ""
    config: dict[str, Any] | None = None
    notes: tuple[str, ...] = ()

    def paths(self) -> list[Path]:
        """config.json, if there is one, and the weights files."""
        names = self.weights if self.config is None else (CONFIG, *self.weights)
        return [self.folder / name for name in names]


def find_model(path: str | os.PathLike[str], part: str = "", variant: str = "") -> ModelFiles:
    """The files of one model.

    Args:
      path: its folder; or the index of its shards, one of the shards, or a file with all weights.
      part: subfolder to take if the folder is that of a whole pipeline.
      variant: variant of a folder's weights, such as 'fp16' for `diffusion_pytorch_model.fp16.safetensors`; '' for
        those without a variant or, if there are none, for the only variant.

    Raises:
      FileNotFoundError: there is no such file, or the folder lacks config.json, the weights, or a shard of its index.
      ValueError: config.json or the index is damaged.
    """
    path = Path(path)
    if path.is_dir():
        folder = model_folder(path, part)
        config = read_config(folder)
        name, is_index, notes = _find_weights(folder, variant)
        weights = sorted(set(_read_index(folder, name).values())) if is_index else [name]
        return ModelFiles(folder, tuple(weights), name if is_index else "", config, notes)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such checkpoint")
    if variant:
        raise ValueError(f"{path}: a variant is of a folder, and this is a file: omit the variant {variant!r}")
    if is_ncnn(path):
        return ModelFiles(path.parent, tuple(file.name for file in files_of(path)))
    shard, is_index = SHARD.fullmatch(path.name), bool(INDEX_NAME.fullmatch(path.name))
    is_named = shard or is_index or path.name in (f"{stem}{suffix}" for stem in STEMS for suffix in SUFFIXES)
    near = read_config(path.parent) if is_named and (path.parent / CONFIG).is_file() else None
    if not (shard or is_index):
        return ModelFiles(path.parent, (path.name,), config=near)
    index, weights = _index_of(path, shard) if shard else (path.name, [])
    if index:
        weights = sorted(set(_read_index(path.parent, index).values()))
    notes = (f"{path.name} is one of {len(weights)} shards, and all were read",) if shard else ()
    return ModelFiles(path.parent, tuple(weights), index, near, notes)


def is_one_of_many(path: str | os.PathLike[str]) -> bool:
    """Whether a file is a shard, an index of shards, or one of the two files of ncnn, by its name."""
    name = Path(path).name
    return bool(SHARD.fullmatch(name) or INDEX_NAME.fullmatch(name)) or is_ncnn(path)


def read_files(files: ModelFiles, is_known: IsKnown | None = None) -> TorchFile:
    """The tensors of a model's files; arguments and errors as of `read_checkpoint`.

    Raises:
      ValueError: the index and the shards contradict each other, or two shards hold the same tensor.
    """
    first = files.folder / files.weights[0]
    if is_ncnn(first) or (len(files.weights) == 1 and not files.shard_index):
        file = read_checkpoint(first, is_known)
        return file._replace(notes=(*files.notes, *file.notes))
    tensors, notes = _read_shards(files)
    selection = select(tensors, str(files.folder / (files.shard_index or files.weights[0])), is_known)
    return TorchFile(selection.tensors, selection.removed, (*files.notes, *notes, *selection.notes))


def read_folder(path: str | os.PathLike[str], variant: str = "") -> tuple[dict[str, Any], StateDict]:
    """Read a model's folder.

    Args:
      path: the folder.
      variant: see `find_model`.

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
    files = find_model(path, variant=variant)
    return files.config or {}, read_files(files).tensors


def model_folder(path: str | os.PathLike[str], part: str) -> Path:
    """The folder of one model: `path` itself, or its subfolder `part` ('transformer', 'vae') if it is a pipeline."""
    path = Path(path)
    return path / part if not (path / CONFIG).is_file() and (path / part).is_dir() else path


def read_config(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The content of a folder's config.json.

    Raises:
      FileNotFoundError: there is none.
      ValueError: it is not a JSON object.
    """
    file = Path(path) / CONFIG
    if not file.is_file():
        raise FileNotFoundError(f"{path}: lacks {CONFIG}; give the folder of one model, such as a pipeline's vae/")
    return read_object(file)


def read_scheduler(path: str | os.PathLike[str]) -> dict[str, Any] | None:
    """The scheduler's configuration of the pipeline that a model belongs to; None if there is none.

    Args:
      path: the pipeline's folder, the folder of one of its models, or a file in such a folder.

    Raises:
      ValueError: it is not a JSON object.
    """
    path = Path(path)
    for folder in (path, *path.resolve().parents[:2]):
        if (file := folder / SCHEDULER).is_file():
            return read_object(file)
    return None


def write_folder(
    path: str | os.PathLike[str],
    config: Mapping[str, Any],
    tensors: StateDict,
    max_shard_bytes: int = SHARD_BYTES,
    overwrite: bool = False,
    stem: str = STEMS[0],
) -> None:
    """Write a model's folder in the layout of diffusers or transformers, atomically.

    Args:
      path: the folder to create.
      config: content of config.json, with diffusers' `_class_name` or transformers' `model_type`.
      tensors: key → array, in PyTorch's names and layout.
      max_shard_bytes: largest size of a file; larger models are written as several files with an index. A tensor that
        is larger has a shard of its own.
      overwrite: whether an older folder is replaced; it must hold nothing but a model.
      stem: one of `STEMS`, that of the weights files.

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
    check_local(path, "a folder of weights")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name[:100]}.{secrets.token_hex(4)}.part")
    old = temporary.with_suffix(".old")
    try:
        temporary.mkdir()
        _write_object(temporary / CONFIG, config)
        _write_shards(temporary, tensors, max_shard_bytes, stem)
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


def _find_weights(path: Path, variant: str) -> tuple[str, bool, tuple[str, ...]]:
    """(name of the weights file or of its index, whether it is an index, notes); safetensors before pickles."""
    if file := _variant_file(path, variant):
        return *file, ()
    variants = sorted({name for name in _variants(path) if _variant_file(path, name)})
    if not variant and len(variants) == 1 and (file := _variant_file(path, variants[0])):
        return *file, (f"{path.name} holds no weights but the variant {variants[0]!r}, which was taken",)
    middle = f".{variant}" if variant else ""
    files = sorted(file.name for file in path.iterdir() if file.name.endswith(SUFFIXES))
    hint = f"it holds {', '.join(files[:4])}{', ...' if files[4:] else ''}" if files else "it holds no weights at all"
    remedy = f"fetch it, or name a variant ({', '.join(variants)})" if variants else "fetch it"
    name = f"{STEMS[0]}{middle}{SUFFIXES[0]}"
    raise FileNotFoundError(f"{path}: lacks {name}, its index and the alternatives ({hint}); {remedy}")


def _variant_file(path: Path, variant: str) -> tuple[str, bool] | None:
    """(name of a variant's weights file or of its index, whether it is an index); None if there is neither."""
    middle = f".{variant}" if variant else ""
    for suffix in SUFFIXES:
        for stem in STEMS:
            if (path / f"{stem}{middle}{suffix}").is_file():
                return f"{stem}{middle}{suffix}", False
            # The variant's place in the name of an index has changed between versions.
            for index in (f"{stem}{suffix}.index{middle}.json", f"{stem}{middle}{suffix}{INDEX}"):
                if (path / index).is_file():
                    return index, True
    return None


def _variants(path: Path) -> Iterator[str]:
    """Variants that the names of a folder's files have."""
    stems, suffixes = "|".join(STEMS), "|".join(map(re.escape, SUFFIXES))
    pattern = re.compile(rf"(?:{stems})(?:\.(\w+))?(?:{suffixes})(?:\.index(?:\.(\w+))?\.json)?")
    for file in path.iterdir():
        if (match := pattern.fullmatch(file.name)) and (match[1] or match[2]):
            yield match[1] or match[2]


def _index_of(path: Path, shard: re.Match[str]) -> tuple[str, list[str]]:
    """(the index that names a shard, '' for none; the names of all shards).

    Raises:
      FileNotFoundError: there is neither an index nor every other shard.
    """
    for index in sorted(file for file in path.parent.iterdir() if INDEX_NAME.fullmatch(file.name)):
        if path.name in (read_object(index).get("weight_map") or {}).values():
            return index.name, []
    total = int(shard["count"])
    names = [f"{shard['stem']}-{number:05d}-of-{total:05d}{shard['rest']}" for number in range(1, total + 1)]
    if missing := [name for name in names if not (path.parent / name).is_file()]:
        raise FileNotFoundError(
            f"{path}: one of {total} shards, of which {len(missing)} are missing, such as {missing[0]!r}: fetch all"
        )
    return "", names


def _read_index(path: Path, index: str) -> dict[str, str]:
    """Tensor → file of its shard, after a check that all files exist."""
    weight_map = read_object(path / index).get("weight_map")
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


def _read_shards(files: ModelFiles) -> tuple[StateDict, tuple[str, ...]]:
    """All tensors of a model's shards, which are those of its index if there is one, and notes on them."""
    weight_map = _read_index(files.folder, files.shard_index) if files.shard_index else None
    state: StateDict = {}
    notes: dict[str, None] = {}
    for name in files.weights:
        path = files.folder / name
        file = read_checkpoint(path, is_shard=True)
        notes |= dict.fromkeys(file.notes)
        expected = {key for key, of in weight_map.items() if of == name} if weight_map else set(file.tensors)
        if wrong := sorted(expected ^ file.tensors.keys()):
            verb = "lacks" if wrong[0] in expected else "holds, contrary to the index,"
            raise ValueError(
                f"{path}: {verb} {wrong[0]!r}; {files.shard_index} is of other shards: fetch them together"
            )
        if repeated := sorted(state.keys() & file.tensors.keys()):
            raise ValueError(f"{path}: holds {repeated[0]!r} of another shard again")
        state |= file.tensors
    return {key: state[key] for key in weight_map or state}, tuple(notes)


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


def _write_shards(folder: Path, tensors: StateDict, max_shard_bytes: int, stem: str) -> None:
    suffix = SUFFIXES[0]
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


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file; ValueError if it holds anything else."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise ValueError(f"{path}: cannot be read as JSON ({error}); fetch it again") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path}: holds a {type(content).__name__}, not a JSON object; fetch it again")
    return content


def _write_object(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")
