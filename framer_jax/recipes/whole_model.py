"""A trained run on Stable Diffusion 3 as one whole model: what was trained, the base that was not, and its LoRA."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from framer_jax.models.dit4sr_transformer import reading_of, without_control
from framer_jax.models.mmdit import JointTransformer, arranged
from framer_jax.porting.files import sha256_of
from framer_jax.porting.lora import LoraLayers
from framer_jax.porting.weights import read_metadata
from framer_jax.trees import flatten_names
from framer_jax.recipes import tsd_sr
from framer_jax.recipes.base import Params
from framer_jax.recipes.dit4sr import BASE, LORA, Dit4srSettings, kept_as, whole
from framer_jax.recipes.pretrained import read
from framer_jax.recipes.stable_diffusion import read_base, read_transformer
from framer_jax.recipes.table import open_recipe
from framer_jax.recipes.weights_by_path import EXECUTION, Config, beside, read_groups

OF_CONTROL = ("compatibility", "reading", "strength")
"""Arguments of DiT4SR that an MMDiT does not have."""

SPACE_PLACE = ("space", "weights")


class WholeModel(NamedTuple):
    """What a run's sampler computes with.

    Attributes:
      params: of all layers, block by block, the LoRA within; nested dict of float32 NumPy arrays.
      arguments: constructor arguments of the module that the run's configuration tells.
      lora: the LoRA by itself, block by block; None if none was trained.
      files: the run's and the base's: 'file' and its 'sha256' each.
    """

    params: Params
    arguments: dict[str, Any]
    lora: LoraLayers | None
    files: list[dict[str, str]]


def is_run(path: str | os.PathLike[str]) -> bool:
    """Whether a file is a trained run that `read_run` reads."""
    return _name(read_metadata(path)) in RUNS


def read_run(path: str | os.PathLike[str], model: str) -> WholeModel:
    """Put a trained run together, with weights in the types in which it was trained.

    Args:
      path: its weights file. The base lies beside it, and is checked to be the same.
      model: the weight map's name: of dit4sr 'dit4sr', or 'mmdit' if control layers have no effect; of tsd_sr 'mmdit'
        or 'kl_autoencoder'.

    Raises:
      FileNotFoundError, ImportError: the base cannot be read.
      ValueError: the run has no such model; the base is another one; or the file is damaged.
    """
    path = Path(path)
    name = _name(read_metadata(path))
    models, assemble = RUNS[name]
    if model not in models:
        raise ValueError(f"{path}: a run of {name} becomes {' or '.join(models)}, not {model}")
    return assemble(path, model)


def departures(arguments: Mapping[str, Any]) -> str:
    """In which arguments a DiT4SR differs from what its released code computes, '' if in none."""
    released = {"compatibility": "released", "reading": "joint", "strength": 1.2}
    found = {"compatibility": "correct", "reading": "auto", **arguments}
    found["reading"] = reading_of(found["reading"], found["compatibility"])
    return ", ".join(f"{name} {found[name]!r}" for name, value in released.items() if found.get(name, value) != value)


def _of_dit4sr(path: Path, model: str) -> WholeModel:
    trained = open_recipe(path, purpose="description")
    config = trained.metadata["config"]["recipe"]
    arguments = dict(config["denoiser"]["dit4sr"])
    alone = JointTransformer(depth=arguments["depth"], dual_blocks=arguments["dual_blocks"])
    groups = {name: arranged(group, alone) for name, group in trained.params.items()}
    settings = Dit4srSettings(**{name: value for name, value in config["dit4sr"].items() if name != "base"})
    files, kept = [path], {}
    if config["dit4sr"]["base"]:
        files.append(_beside(config, path, trained.metadata, ("dit4sr", "base")))
        kept = _kept(read_base(str(files[-1]), arguments), settings.base_dtype)
    params = _plain(whole(groups, {BASE: kept}, settings))
    if model == "mmdit":
        try:
            params = without_control(params, reading_of(arguments["reading"], arguments["compatibility"]))
        except ValueError as error:
            raise ValueError(f"{path}: {error}: make --model dit4sr of it") from error
    lora = _lora(groups.get(LORA, {}), lambda rank: settings.lora_alpha)
    return WholeModel(params, _told(arguments, model), lora, _named(files))


def _of_tsd_sr(path: Path, model: str) -> WholeModel:
    groups, metadata = read_groups(path, None)
    config = metadata["config"]["recipe"]
    scale = config["tsd_sr"]["lora_scale"]
    place, group = {"mmdit": (("tsd_sr", "base"), tsd_sr.STUDENT), "kl_autoencoder": (SPACE_PLACE, tsd_sr.ENCODER)}[
        model
    ]
    if group not in groups:
        raise ValueError(f"{path}: its {model} is the base's own: recipe.tsd_sr.{group} is empty")
    size = config["denoiser"]["mmdit"]
    alone = JointTransformer(depth=size["depth"], dual_blocks=size["dual_blocks"])
    factors = arranged(groups[group], alone)  # which the autoencoder's pass as they are
    base = _beside(config, path, metadata, place)
    if model == "mmdit":
        arguments = dict(size)
        kept = read_transformer("recipe.tsd_sr.base", str(base), arguments)
        kept = _kept(kept, config["tsd_sr"]["base_dtype"])
    else:
        kept, arguments, _ = read("kl_autoencoder", base)
        arguments |= {} if config["space"].get("shift") is None else {"shift": config["space"]["shift"]}
    try:
        params = _plain(tsd_sr.with_lora(kept, factors, scale))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    lora = _lora(factors, lambda rank: scale * rank)
    return WholeModel(params, _told(arguments, model), lora, _named([path, base]))


RUNS: Mapping[str, tuple[tuple[str, ...], Callable[[Path, str], WholeModel]]] = {
    "dit4sr": (("dit4sr", "mmdit"), _of_dit4sr),
    "tsd_sr": (("mmdit", "kl_autoencoder"), _of_tsd_sr),
}
"""Name of a recipe whose runs hold only what was trained → what they may become, and how."""


def _name(metadata: Mapping[str, Any]) -> str:
    return str(metadata.get("config", {}).get("recipe", {}).get("name"))


def _beside(config: Config, path: Path, metadata: Mapping[str, Any], place: tuple[str, str]) -> Path:
    """The base that a run was trained on."""
    section, key = place
    return Path(beside(config, path, metadata.get("weights", {}), [place])[section][key])


def _kept(base: Params, dtype: str) -> Params:
    return jax.tree.map(lambda leaf: kept_as(leaf, dtype), base)


def _plain(params: Params) -> Params:
    return jax.tree.map(lambda leaf: np.asarray(leaf, np.float32), params)


def _told(arguments: Mapping[str, Any], model: str) -> dict[str, Any]:
    free = ("taps", *EXECUTION, *(OF_CONTROL if model == "mmdit" else ()))
    return {name: value for name, value in arguments.items() if name not in free}


def _lora(factors: Params, alpha_of: Callable[[int], float]) -> LoraLayers | None:
    leaves = flatten_names(factors)[0]
    downs = {name.removesuffix("/down"): leaf for name, leaf in leaves.items() if name.endswith("/down")}
    return (
        LoraLayers(dict(factors), {path: alpha_of(down.shape[-1]) for path, down in downs.items()}) if downs else None
    )


def _named(files: list[Path]) -> list[dict[str, str]]:
    return [{"file": file.name, "sha256": sha256_of(file)} for file in files]
