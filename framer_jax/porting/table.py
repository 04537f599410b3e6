"""Every checkpoint that can be carried over: name → map; and reading one, whichever side wrote it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from framer_jax.porting.diffusers_folder import model_files, model_folder, read_folder
from framer_jax.porting.files import sha256_of
from framer_jax.porting.kl_autoencoder import KL_AUTOENCODER
from framer_jax.porting.lpips import LPIPS_ALEX, LPIPS_VGG
from framer_jax.porting.maps import State, WeightMap, fraction_known, to_flax
from framer_jax.porting.mmdit import DIT4SR, MMDIT
from framer_jax.porting.resshift import RESSHIFT_UNET, VQ_F4
from framer_jax.porting.swinir import SWINIR
from framer_jax.porting.torch_files import read_state
from framer_jax.porting.weights import load_weights

MAPS: Mapping[str, WeightMap] = {
    weights.name: weights
    for weights in (RESSHIFT_UNET, VQ_F4, SWINIR, KL_AUTOENCODER, MMDIT, DIT4SR, LPIPS_VGG, LPIPS_ALEX)
}
"""A new port is one table in a file of its own and one entry here."""


class Ported(NamedTuple):
    """Parameters of a published model.

    Attributes:
      params: nested dict of float32 NumPy arrays, without a group around them.
      arguments: constructor arguments of our module.
      source: where they came from: 'files' with their SHA-256, 'taken_off' wrappers and prefixes, 'dropped' keys.
    """

    params: dict[str, Any]
    arguments: dict[str, Any]
    source: dict[str, Any]


def map_named(name: str) -> WeightMap:
    """The map of a model.

    Raises:
      ValueError: there is none of that name.
    """
    if name not in MAPS:
        raise ValueError(f"no weight map {name!r}: known are {', '.join(MAPS)}")
    return MAPS[name]


def read_torch(name: str, *paths: str | os.PathLike[str]) -> Ported:
    """Carry a PyTorch checkpoint over.

    Args:
      name: of the map.
      paths: its file, or several that hold a part each; or its folder in the layout of Diffusers.

    Raises:
      ValueError, FileNotFoundError, ImportError: as `read_state`, `read_folder` and `to_flax`; the error says which
        other model a file is, if it is one.
    """
    weights = map_named(name)
    state: State = {}
    files, taken_off, config = [], [], None
    for path in paths:
        if Path(path).is_dir() and weights.folder:
            folder = model_folder(path, weights.folder)
            config, part = read_folder(folder)
            files += [{"file": file.name, "sha256": sha256_of(file)} for file in model_files(folder)]
        else:
            part, notes = read_state(path)
            files.append({"file": Path(path).name, "sha256": sha256_of(path)})
            taken_off += [notes] if notes else []
        _refuse_other_models(weights, part, str(path))
        if twice := sorted(state.keys() & part.keys()):
            raise ValueError(f"{path}: holds {len(twice)} tensors of another file again, such as {twice[0]!r}")
        state |= part
    source = " and ".join(map(str, paths))
    params, arguments, dropped = to_flax(weights, state, source)
    if config is not None:
        try:
            arguments = weights.configured(arguments, state, config)
        except KeyError as error:
            raise ValueError(f"{source}: its config.json is not that of a {name}: it lacks {error}") from error
        except (TypeError, ValueError) as error:
            raise ValueError(f"{source}: config.json and the tensors are not of one model: {error}") from error
    return Ported(params, arguments, {"files": files, "taken_off": taken_off, "dropped": len(dropped)})


def read_ported(name: str, path: str | os.PathLike[str]) -> Ported:
    """Read a file that `framer-jax port` wrote.

    Raises:
      FileNotFoundError: there is none.
      ValueError: not a weights file of ours, or one of another model.
    """
    params, metadata = load_weights(path)
    if metadata.get("model") != name:
        raise ValueError(f"{path}: holds {metadata.get('model', 'a trained recipe')}, not {name}")
    return Ported(params, arguments_in(metadata), metadata.get("source", {}))


def arguments_in(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """The constructor arguments that a ported file's metadata hold (JSON knows lists only), {} if none."""
    given = metadata.get("arguments", {})
    return {key: tuple(value) if isinstance(value, list) else value for key, value in given.items()}


def _refuse_other_models(weights: WeightMap, state: State, source: str) -> None:
    if fraction_known(weights, state) > 0:
        return
    if any("lora" in key.lower() for key in state):
        raise ValueError(f"{source}: a LoRA, an addition to other weights, not a {weights.name} checkpoint")
    for name, other in MAPS.items():
        if fraction_known(other, state) > 0.5:
            raise ValueError(f"{source}: this is a {name} checkpoint, not {weights.name}")
