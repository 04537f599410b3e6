"""One whole network: a training run merged into its base, and a LoRA's file added to a network."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from framer_jax.checkpoints.groups import present_metadata, read_groups
from framer_jax.checkpoints.open import READER
from framer_jax.checkpoints.paths import with_dependencies
from framer_jax.models.lora import make_lora, merge
from framer_jax.porting.files import sha256_of
from framer_jax.porting.lora import LoraLayers, assumption, read_layers
from framer_jax.porting.lora_files import read_lora
from framer_jax.porting.table import map_named
from framer_jax.porting.weights import read_metadata
from framer_jax.recipes.base import Params
from framer_jax.recipes.method import KnobPath, Method, TrainedRun, value_at
from framer_jax.recipes.table import METHODS, method_of
from framer_jax.trees import flatten_names


class MergedCheckpoint(NamedTuple):
    """One whole network of a run.

    Attributes:
      params: all layers, unstacked, with the LoRA merged; nested dict of float32 NumPy arrays.
      arguments: constructor arguments of the module that the run's configuration determines.
      lora: the LoRA alone, unstacked; None if none was trained.
      files: the run's and the base's: 'file' and its 'sha256' each.
    """

    params: Params
    arguments: dict[str, Any]
    lora: LoraLayers | None
    files: list[dict[str, str]]


def is_mergeable_run(path: str | os.PathLike[str]) -> bool:
    """Whether a file is a training run that holds only what was trained, so that `merge_run` is needed."""
    method = _method(read_metadata(path), path)
    return method is not None and bool(method.merge)


def merge_run(path: str | os.PathLike[str], model: str) -> MergedCheckpoint:
    """Merge a training run with its base, with weights in the dtypes in which it was trained.

    Args:
      path: its weights file. The base lies next to it, or where the run had it, and is checked to be the same.
      model: the weight map of the merged network.

    Raises:
      FileNotFoundError, ImportError: the base cannot be read.
      ValueError: the run has no such network; the base is another one; or the file is damaged.
    """
    method, run = _trained_run(Path(path))
    if method is None or not method.merge:
        raise ValueError(f"{path} is not a run that is merged with a base: port it as it is")
    if model not in method.merge:
        raise ValueError(f"{path}: a run of {method.name} becomes {' or '.join(method.merge)}, not {model}")
    network = method.merge[model](run)
    sources = [{"file": file.name, "sha256": sha256_of(file)} for file in (run.path, *network.dependencies)]
    leaves = flatten_names(network.lora_factors)[0]
    downs = {name.removesuffix("/down"): leaf for name, leaf in leaves.items() if name.endswith("/down")}
    alphas = {module: network.lora_alpha(down.shape[-1]) for module, down in downs.items()}
    lora = LoraLayers(dict(network.lora_factors), alphas) if alphas else None
    return MergedCheckpoint(network.params, network.arguments, lora, sources)


def published_content(path: str | os.PathLike[str], model: str) -> dict[str, Any]:
    """What the file of a training run would hold if its method's authors published it, arrays in place of tensors.

    Args:
      path: the run's weights file.
      model: the weight map of the network that it is made of.

    Raises:
      ValueError: it is no such run, or of a method whose authors publish no single file; or the file is damaged.
    """
    method, run = _trained_run(Path(path))
    if method is None or method.published is None or method.published.content is None:
        names = [other.name for other in METHODS if other.published and other.published.content]
        raise ValueError(f"{path}: there is a published file of runs of {' and '.join(names)} only: use another form")
    if model not in method.merge:
        raise ValueError(f"{path}: a run of {method.name} is made of {' and '.join(method.merge)}, not {model}")
    return method.published.content(run)


def _trained_run(path: Path) -> tuple[Method | None, TrainedRun]:
    """(method, run) of a file of framer_jax; the method is None for a network without a configuration."""
    groups, metadata = read_groups(path, None)
    method, config = _method(metadata, path), metadata.get("config", {}).get("recipe", {})
    files = {file.path: file for file in method.weight_files} if method else {}

    def dependency(knob: KnobPath) -> Path:
        located = with_dependencies(config, path, metadata.get("weights", {}), [files[knob]])
        return Path(value_at(located, knob))

    return method, TrainedRun(path, config, groups, dependency, READER)


def add_lora(
    model: str, params: Params, path: str | os.PathLike[str], alpha: float | None = None
) -> tuple[Params, dict[str, Any]]:
    """Add a LoRA's file or folder to a network.

    Args:
      model: the weight map of the network.
      params: its parameters, unstacked.
      path: the LoRA, in the names of PEFT, diffusers or kohya.
      alpha: alpha of all its modules; None for what the file states.

    Returns:
      (the parameters with the LoRA added, float32 NumPy; its origin: 'files' and 'notes' as of
      framer_jax.porting.table.Ported).

    Raises:
      ValueError, FileNotFoundError, ImportError: it cannot be read, or is a LoRA of another network.
    """
    weights = map_named(model)
    file = read_lora(path, weights.folder)
    adapters = read_layers(weights, params, file.tensors, str(path), alpha, file.stated)
    merged = merge(params, {name: make_lora(*layers) for name, layers in adapters.items()})
    notes = [*file.notes, assumption(file.tensors, file.stated, alpha)]
    if len(adapters) > 1:
        notes.append(f"all {len(adapters)} adapters in it were added: {', '.join(adapters)}")
    scales = _scales(adapters.values())
    notes.append(f"added with alpha / rank {scales}")
    files = [{"file": file_path.name, "sha256": sha256_of(file_path)} for file_path in file.paths]
    source = {"files": files, "notes": [f"{Path(path).name}: {note}" for note in notes if note]}
    return jax.tree.map(lambda leaf: np.asarray(leaf, np.float32), merged), source


def _scales(adapters: Iterable[LoraLayers]) -> str:
    """The scales alpha / rank of all modules: 'A', or 'A to B'."""
    scales = []
    for layers in adapters:
        leaves = flatten_names(layers.factors)[0]
        scales += [alpha / leaves[f"{module}/down"].shape[-1] for module, alpha in layers.alphas.items()]
    least, most = min(scales), max(scales)
    return f"{least:g}" if least == most else f"{least:g} to {most:g}"


def _method(metadata: Mapping[str, Any], path: str | os.PathLike[str]) -> Method | None:
    if "config" not in metadata:
        return None
    return method_of(present_metadata(metadata, path)["config"]["recipe"])
