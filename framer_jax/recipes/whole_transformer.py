"""A trained run of DiT4SR as one transformer: what was trained, the base it was trained on, and its LoRA."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from framer_jax.models.dit4sr import reading_of, without_control
from framer_jax.models.mmdit import JointTransformer, arranged
from framer_jax.porting.files import sha256_of
from framer_jax.porting.lora import LoraLayers
from framer_jax.porting.weights import flatten_names, read_metadata
from framer_jax.recipes.base import Params
from framer_jax.recipes.dit4sr import BASE, LORA, Dit4srSettings, kept_as, whole
from framer_jax.recipes.stable_diffusion import read_base
from framer_jax.recipes.table import open_recipe
from framer_jax.recipes.weights_by_path import EXECUTION, beside

RECIPES = ("dit4sr",)
"""Whose runs are read here."""

BASE_PLACE = ("dit4sr", "base")

ARCHITECTURES = ("dit4sr", "mmdit")
"""What such a run may become: DiT4SR's transformer, or without control layers Stable Diffusion's."""

OF_CONTROL = ("compatibility", "reading", "strength")
"""Arguments of DiT4SR that an MMDiT does not have."""


class WholeTransformer(NamedTuple):
    """What a run's sampler computes with.

    Attributes:
      params: of all layers, block by block, the LoRA within; nested dict of float32 NumPy arrays.
      arguments: constructor arguments of the transformer that its configuration tells.
      lora: the LoRA by itself, block by block; None if none was trained.
      files: the run's and the base's: 'file' and its 'sha256' each.
    """

    params: Params
    arguments: dict[str, Any]
    lora: LoraLayers | None
    files: list[dict[str, str]]


def is_run(path: str | os.PathLike[str]) -> bool:
    """Whether a file is a trained run that `read_run` reads."""
    return read_metadata(path).get("config", {}).get("recipe", {}).get("name") in RECIPES


def read_run(path: str | os.PathLike[str], architecture: str = "dit4sr") -> WholeTransformer:
    """Put a trained run together, with the weights in the types in which it was trained.

    Args:
      path: its weights file. The base is beside it or where it was, and checked to be the same.
      architecture: one of `ARCHITECTURES`.

    Raises:
      FileNotFoundError, ImportError: the base cannot be read.
      ValueError: the base is another one; the file is damaged; or control layers have an effect and 'mmdit' is asked.
    """
    path = Path(path)
    if architecture not in ARCHITECTURES:
        raise ValueError(f"{path}: a run of dit4sr becomes {' or '.join(ARCHITECTURES)}, not {architecture}")
    trained = open_recipe(path, purpose="description")
    config = trained.metadata["config"]["recipe"]
    arguments = dict(config["denoiser"]["dit4sr"])
    model = JointTransformer(depth=arguments["depth"], dual_blocks=arguments["dual_blocks"])
    groups = {name: arranged(group, model) for name, group in trained.params.items()}
    settings = Dit4srSettings(**{name: value for name, value in config["dit4sr"].items() if name != "base"})
    files, kept = [path], {}
    if config["dit4sr"]["base"]:
        base = Path(beside(config, path, trained.metadata.get("weights", {}), [BASE_PLACE])["dit4sr"]["base"])
        files.append(base)
        kept = jax.tree.map(lambda leaf: kept_as(leaf, settings.base_dtype), read_base(str(base), arguments))
    params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float32), whole(groups, {BASE: kept}, settings))
    if architecture == "mmdit":
        try:
            params = without_control(params, reading_of(arguments["reading"], arguments["compatibility"]))
        except ValueError as error:
            raise ValueError(f"{path}: {error}: make --model dit4sr of it") from error
    free = ("taps", *EXECUTION, *(OF_CONTROL if architecture == "mmdit" else ()))
    arguments = {name: value for name, value in arguments.items() if name not in free}
    return WholeTransformer(params, arguments, _lora(groups, settings), [_named(file) for file in files])


def departures(arguments: Mapping[str, Any]) -> str:
    """In which arguments a DiT4SR differs from what its released code computes, '' if in none."""
    released = {"compatibility": "released", "reading": "joint", "strength": 1.2}
    found = {"compatibility": "correct", "reading": "auto", **arguments}
    found["reading"] = reading_of(found["reading"], found["compatibility"])
    return ", ".join(f"{name} {found[name]!r}" for name, value in released.items() if found.get(name, value) != value)


def _lora(groups: Mapping[str, Params], settings: Dit4srSettings) -> LoraLayers | None:
    if not groups.get(LORA):
        return None
    paths = {name.rpartition("/")[0] for name in flatten_names(groups[LORA])[0]}
    return LoraLayers(dict(groups[LORA]), dict.fromkeys(sorted(paths), settings.lora_alpha))


def _named(file: Path) -> dict[str, str]:
    return {"file": file.name, "sha256": sha256_of(file)}
