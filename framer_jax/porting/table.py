"""The table of weight maps, and reading checkpoints in PyTorch's format or in that of `framer-jax port`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from framer_jax.porting.diffusers_folder import model_files, model_folder, read_folder
from framer_jax.porting.files import sha256_of
from framer_jax.porting.kl_autoencoder import KL_AUTOENCODER
from framer_jax.porting.lpips import LPIPS_ALEX, LPIPS_VGG
from framer_jax.porting.maps import StateDict, WeightMap, fraction_known, to_flax
from framer_jax.porting.mmdit import DIT4SR_TRANSFORMER, MMDIT
from framer_jax.porting.resshift import RESSHIFT_UNET, VQ_F4
from framer_jax.porting.rrdbnet import RRDBNET
from framer_jax.porting.srvgg import SRVGG
from framer_jax.porting.swinir import SWINIR
from framer_jax.porting.torch_files import read_state
from framer_jax.porting.weights import load_weights

MAPS: Mapping[str, WeightMap] = {
    weights.name: weights
    for weights in (
        RESSHIFT_UNET,
        VQ_F4,
        SWINIR,
        RRDBNET,
        SRVGG,
        KL_AUTOENCODER,
        MMDIT,
        DIT4SR_TRANSFORMER,
        LPIPS_VGG,
        LPIPS_ALEX,
    )
}
"""Name → weight map. A new one is a table in its own file and an entry here."""

RENAMED_MODELS = {"dit4sr": "dit4sr_transformer"}
"""Names of weight maps in files and commands of older versions → their present names."""

RENAMED_ARGUMENTS = {
    "dit4sr_transformer": {"compatibility": "variant", "reading": "lr_attention", "strength": "control_scale"},
    "resshift_unet": {"mask": "variant"},
    "swinir": {"colours": "image_channels"},
}
"""Name of a weight map → constructor arguments in ported files of older versions → their present names."""


class Ported(NamedTuple):
    """Parameters of a published model.

    Attributes:
      params: nested dict of float32 NumPy arrays, without an enclosing group.
      arguments: constructor arguments of our module.
      source: origin: 'files' with their SHA-256, the removed wrappers and prefixes as 'taken_off', and the number of
        'dropped' keys.
    """

    params: dict[str, Any]
    arguments: dict[str, Any]
    source: dict[str, Any]


def map_named(name: str) -> WeightMap:
    """The weight map of a model, by its present or former name.

    Raises:
      ValueError: there is none of that name.
    """
    name = RENAMED_MODELS.get(name, name)
    if name not in MAPS:
        raise ValueError(f"no weight map {name!r}: known are {', '.join(MAPS)}")
    return MAPS[name]


def read_torch(name: str, *paths: str | os.PathLike[str]) -> Ported:
    """Read and convert a PyTorch checkpoint.

    Args:
      name: name of the weight map.
      paths: its file, or several files with a part each; or its folder in the layout of Diffusers.

    Raises:
      ValueError, FileNotFoundError, ImportError: see `read_state`, `read_folder` and `to_flax`; if a file is of another
        known model, the error names it.
    """
    weights = map_named(name)
    state: StateDict = {}
    files, removed, config = [], [], None
    for path in paths:
        if Path(path).is_dir() and weights.folder:
            folder = model_folder(path, weights.folder)
            config, part = read_folder(folder)
            files += [{"file": file.name, "sha256": sha256_of(file)} for file in model_files(folder)]
        else:
            part, wrappers = read_state(path)
            files.append({"file": Path(path).name, "sha256": sha256_of(path)})
            removed += [wrappers] if wrappers else []
        _refuse_other_models(weights, part, str(path))
        if repeated := sorted(state.keys() & part.keys()):
            raise ValueError(f"{path}: holds {len(repeated)} tensors of another file again, such as {repeated[0]!r}")
        state |= part
    source = " and ".join(map(str, paths))
    params, arguments, dropped = to_flax(weights, state, source)
    if config is not None:
        try:
            arguments = weights.merge_config(arguments, state, config)
        except KeyError as error:
            raise ValueError(f"{source}: its config.json is not that of a {name}: it lacks {error}") from error
        except (TypeError, ValueError) as error:
            raise ValueError(f"{source}: config.json and the tensors are not of one model: {error}") from error
    return Ported(params, arguments, {"files": files, "taken_off": removed, "dropped": len(dropped)})


def read_ported(name: str, path: str | os.PathLike[str]) -> Ported:
    """Read a file that `framer-jax port` wrote.

    Raises:
      FileNotFoundError: there is none.
      ValueError: it is not a weights file of framer_jax, or one of another model.
    """
    params, metadata = load_weights(path)
    if model_in(metadata) != map_named(name).name:
        raise ValueError(f"{path}: holds {model_in(metadata) or 'a trained recipe'}, not {name}")
    return Ported(params, arguments_in(metadata), metadata.get("source", {}))


def model_in(metadata: Mapping[str, Any]) -> str:
    """Name of the weight map that a ported file's metadata hold, '' if none; former names become present ones."""
    name = metadata.get("model", "")
    return RENAMED_MODELS.get(name, name)


def arguments_in(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Constructor arguments that a ported file's metadata hold, {} if none.

    Lists, the only sequences of JSON, become tuples, and former names of arguments the present ones.
    """
    renamed = RENAMED_ARGUMENTS.get(model_in(metadata), {})
    return {
        renamed.get(key, key): tuple(value) if isinstance(value, list) else value
        for key, value in metadata.get("arguments", {}).items()
    }


def _refuse_other_models(weights: WeightMap, state: StateDict, source: str) -> None:
    if fraction_known(weights, state) > 0:
        return
    if any("lora" in key.lower() for key in state):
        raise ValueError(f"{source}: a LoRA, not a {weights.name} checkpoint")
    for name, other in MAPS.items():
        if fraction_known(other, state) > 0.5:
            raise ValueError(f"{source}: this is a {name} checkpoint, not {weights.name}")
