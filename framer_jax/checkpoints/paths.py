"""Weights that a configuration names by path: present, next to a run's file, and compared by their digests."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from framer_jax.paths import is_remote, local_copy
from framer_jax.porting.diffusers_folder import find_model, is_one_of_many
from framer_jax.porting.files import sha256_of
from framer_jax.porting.tiny_autoencoder import files_of, is_pair_folder
from framer_jax.porting.weights import read_metadata
from framer_jax.recipes.method import INSTALLED, Config, WeightFile, value_at, with_values
from framer_jax.recipes.table import METHODS, method_of

NEEDS = ("training", "teacher", "inference")
"""Purposes that may need a weight file: training, a teacher's precomputed outputs, upscaling."""


def required_path(path: str, knob: str, what: str, model: str, folder: bool = False) -> str:
    """The path, if something is there.

    Args:
      path: the value of the knob.
      knob: its name.
      what: what the file is, in words.
      model: weight map for `framer-jax port`.
      folder: whether it may be a folder.

    Raises:
      ValueError: the path is empty.
      FileNotFoundError: nothing is there.
    """
    if not path:
        raise ValueError(
            f"{knob} is empty: set it to the path of {what}, as published or as "
            f"`framer-jax port IN OUT.safetensors --model {model}` writes it"
        )
    if not (Path(path).is_file() or (folder and Path(path).is_dir())):
        raise FileNotFoundError(f"{knob}: there is no file {path!r} ({what}): correct the path")
    return path


def is_trained(path: str | os.PathLike[str]) -> bool:
    """Whether a file is a trained model of framer_jax, which holds its own configuration."""
    return "config" in read_metadata(path)


def weight_path(config: Config, file: WeightFile) -> str:
    """The path that a weight-file knob holds; '' where it is not set."""
    return str(value_at(config, file.path) or "")


def used_path(config: Config, file: WeightFile) -> str:
    """The file that a weight-file knob stands for: the named one, or one of an installed package; '' for none."""
    path = weight_path(config, file)
    return file.installed(config) if file.installed and path in ("", INSTALLED) else path


def named_files(config: Config, need: str = "training") -> list[WeightFile]:
    """The weight files that a configuration names, or finds in an installed package, and that a purpose needs.

    Args:
      config: the `recipe` section.
      need: one of `NEEDS`.
    """
    files = []
    for file in method_of(config).weight_files:
        if not used_path(config, file):
            continue
        if (need == "inference" and not file.inference) or (need == "teacher" and file.training_only):
            continue
        if file.unless_trained and is_trained(str(value_at(config, file.unless_trained) or "")):
            continue  # a trained teacher has its own configuration
        files.append(file)
    return files


def digest_of(path: str | os.PathLike[str], part: str = "", pair: str = "") -> str:
    """SHA-256 of a file; for a ported one, that of the file it was made of, so that both count as the same.

    For a folder in Diffusers' layout, the digests of its configuration and weights together; for a folder that a
    method's authors publish, those of the files that identify it.

    Args:
      path: file or folder.
      part: the part to take where the folder of a whole pipeline is given.
      pair: name of the pair of files to take where a folder holds those of several tiny autoencoders.
    """
    for method in METHODS:
        published = method.published
        if published and published.files and Path(path).is_dir() and published.in_folder(Path(path)):
            return "+".join(sha256_of(file) for name in published.files if (file := Path(path) / name).is_file())
    if is_pair_folder(path):
        return "+".join(sha256_of(file) for file in files_of(path, pair))
    if Path(path).is_dir() or is_one_of_many(path):
        return "+".join(sha256_of(file) for file in find_model(path, part).paths())
    files = read_metadata(path).get("source", {}).get("files", ())
    if files and all(file.get("sha256") for file in files):
        return "+".join(file["sha256"] for file in files)
    return sha256_of(path)


def with_local_weights(config: Mapping[str, Any]) -> dict[str, Any]:
    """A whole configuration whose weight files in object stores are replaced by copies on this machine.

    Raises:
      FileNotFoundError, OSError: as of framer_jax.paths.local_copy.
    """
    recipe = config["recipe"]
    paths = {file.path: weight_path(recipe, file) for file in method_of(recipe).weight_files}
    copies = {knob: local_copy(path) for knob, path in paths.items() if path and is_remote(path)}
    return {**config, "recipe": with_values(recipe, copies)} if copies else dict(config)


def digests(config: Config, need: str = "training") -> dict[str, str]:
    """Full knob name → digest of the `named_files`."""
    return {file.knob: _digest(config, file, used_path(config, file)) for file in named_files(config, need)}


def _digest(config: Config, file: WeightFile, path: str | os.PathLike[str]) -> str:
    """The digest of what a knob names at a path; its section may have a name, such as that of the latent space."""
    section = value_at(config, file.path[:-1])
    return digest_of(path, file.part, pair=str(section.get("name", "")))


def with_dependencies(
    config: Config, path: Path, recorded: Mapping[str, str], files: Iterable[WeightFile]
) -> dict[str, Any]:
    """A trained model's configuration with the frozen weights that it was trained with: next to its file, or as named.

    Args:
      config: the `recipe` section.
      path: the weights file.
      recorded: full knob name → digest of the file that the run was trained with; {} if the weights do not state any.
      files: the weight files that are needed.

    Raises:
      FileNotFoundError: a file does not exist.
      ValueError: it is another file than the one that the model was trained with.
    """
    changes = {}
    for file in files:
        name = weight_path(config, file)
        if not name:
            continue
        candidates = [candidate for candidate in (path.parent / Path(name).name, Path(name)) if candidate.exists()]
        if not candidates:
            raise FileNotFoundError(
                f"{path} needs the {file.role} {name!r} ({file.knob}), which is missing: put it next to the weights"
            )
        digest = recorded.get(file.knob)
        fitting = [candidate for candidate in candidates if digest in (None, _digest(config, file, candidate))]
        if not fitting:
            raise ValueError(
                f"{candidates[0]} is not the {file.role} that {path} was trained with: put that one next to it"
            )
        changes[file.path] = str(fitting[0])
    return with_values(config, changes)
