"""Weights that a user names by path: found, read, and refused where they are of another recipe than the one at hand."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp

from framer_jax.models.layers import Dtype
from framer_jax.models.mmdit import JointTransformer, arranged
from framer_jax.porting.diffusers_folder import model_files, model_folder
from framer_jax.porting.files import sha256_of
from framer_jax.porting.table import MAPS, map_named
from framer_jax.porting.weights import is_ours, load_weights, read_metadata
from framer_jax.recipes.base import Params
from framer_jax.recipes.pretrained import Pretrained, load_pretrained, read

Config = Mapping[str, Any]

Place = tuple[str, ...]

BESIDE: Mapping[Place, str] = {
    ("space", "weights"): "autoencoder",
    ("dit4sr", "base"): "base model",
    ("tsd_sr", "base"): "base model",
    ("text", "null"): "text embedding",
    ("text", "wanted"): "text embedding",
    ("text", "avoided"): "text embedding",
}
"""Where in a configuration's recipe the paths are that a trained model needs for upscaling too → of what they are."""

PARTS: Mapping[Place, str] = {
    ("space", "weights"): "vae",
    ("dit4sr", "base"): "transformer",
    ("tsd_sr", "base"): "transformer",
}
"""Which part is meant where the folder of a whole pipeline is named."""

TEACHERS: tuple[Place, ...] = (
    ("sinsr", "teacher"),
    ("tsd_sr", "teacher_lora"),
    ("teacher", "weights"),
    ("teacher", "published", "space", "weights"),
)

PATHS: tuple[Place, ...] = (*BESIDE, ("lpips", "weights"), *TEACHERS)
"""Where all of them are."""

NEEDED = {"training": PATHS, "teacher": (*BESIDE, *TEACHERS), "inference": tuple(BESIDE)}
"""What needs which of them."""

PROCESS = ("steps", "kappa", "min_noise_level", "etas_end", "power", "residual")
"""What of `recipe.resshift` a trained denoiser depends on."""

EXECUTION = ("attention", "remat", "scan")
"""What of a denoiser says how the same numbers are computed, so that its weights do not depend on it."""

PUBLISHED = ("resshift", "sinsr")
"""Recipes whose denoiser may be a published one."""

STUDENT_RECIPES = ("swinir", "dtkd", "augkd")
"""Recipes whose network is `recipe.student`; that of the others is `recipe.denoiser`, in `recipe.space`."""


def network_of(config: Config) -> tuple[str, str]:
    """The section of a recipe's configuration that describes its network, which is its group's name too; its kind."""
    section = "student" if config.get("name") in STUDENT_RECIPES else "denoiser"
    return section, str(config.get(section, {}).get("name"))


class Groups(NamedTuple):
    """Parameters of a recipe, from a file.

    Attributes:
      params: group name to nested NumPy arrays.
      metadata: of the file if a training run of ours wrote it, with its 'config'; otherwise empty.
    """

    params: Params
    metadata: dict[str, Any]


def required(path: str, knob: str, what: str, model: str, folder: bool = False) -> str:
    """The path, or a ValueError in one line if it is empty.

    Args:
      path: what the configuration holds.
      knob: its place there.
      what: the path is of.
      model: of `framer-jax port`.
      folder: whether it may be a folder.

    Raises:
      ValueError: it is empty. FileNotFoundError: nothing is there.
    """
    if not path:
        raise ValueError(
            f"{knob} is empty: set it to the path of {what}, as published or as "
            f"`framer-jax port IN OUT.safetensors --model {model}` writes it"
        )
    if not (Path(path).is_file() or (folder and Path(path).is_dir())):
        raise FileNotFoundError(f"{knob}: there is no file {path!r} ({what})")
    return path


def pretrained_at(path: str, knob: str, what: str, model: str, dtype: Dtype = jnp.float32) -> Pretrained:
    """The published model at the path that a knob holds.

    Raises:
      ValueError, FileNotFoundError, ImportError: as `required` and framer_jax.recipes.pretrained.load_pretrained.
    """
    path = required(path, knob, what, model, folder=bool(map_named(model).folder))
    return load_pretrained(model, path, dtype=dtype)


def read_groups(path: str | os.PathLike[str], config: Config | None, same_process: bool = True) -> Groups:
    """Parameters for a recipe: of a trained model of ours, or a published network, ported or in PyTorch's format.

    Args:
      path: the file.
      config: of the recipe (a configuration's `recipe` entry); None to take whatever model of ours it is.
      same_process: False to let a training run start from the weights of another process.

    Raises:
      ValueError: the file says of itself that it belongs to another process, another kind of latents or another
        network; or it is a published network and there is no `config`; or the recipe scans blocks that differ.
      FileNotFoundError, ImportError: it cannot be read.
    """
    if is_ours(path) or not Path(path).is_file():  # the error of a missing one is `load_weights`'s
        params, metadata = load_weights(path)
        if metadata.get("model") not in MAPS:  # a trained recipe
            if config is not None and same_process and "config" in metadata:
                _check_same(process_of(metadata["config"]["recipe"]), process_of(config), str(path))
            return Groups(params if config is None else _arranged(params, config), metadata)
    if config is None:
        if not is_ours(path):
            load_weights(path)  # says what is wrong with it
        raise ValueError(
            f"{path}: published weights carry no configuration, so their recipe is unknown: name one with --recipe"
        )
    section, name = network_of(config)
    if name in MAPS and config.get("name") == "dit4sr":
        raise ValueError(f"{path}: a whole transformer, from which training starts as recipe.dit4sr.base: set that")
    if name not in MAPS or config.get("name") not in (*PUBLISHED, *STUDENT_RECIPES):
        raise ValueError(
            f"{path}: no file of a framer_jax run, and published weights do not fit recipe.name "
            f"{config.get('name')!r} with recipe.{section}.name {name!r}: use a configuration such as resshift_v1.py"
        )
    found = read(name, path)
    variant = MAPS[name].describe(found.arguments)
    _check_same(
        _knobs(section, name, found.arguments, found.arguments.get("scale", config.get("scale"))),
        _knobs(section, name, config[section][name], config.get("scale")),
        f"{path}, a checkpoint of {variant}," if variant else str(path),
    )
    for file in found.source.get("files", ()) if same_process and section == "denoiser" else ():
        _check_steps_in_name(file["file"], config)
    return Groups({section: found.params}, {})


def _arranged(params: Params, config: Config) -> Params:
    """Groups whose blocks lie as a recipe has them: stacked if it scans, whatever run wrote them."""
    section, name = network_of(config)
    arguments = config.get(section, {}).get(name, {})
    if "scan" not in arguments:
        return params
    model = JointTransformer(**{name: arguments[name] for name in ("depth", "dual_blocks", "scan")})
    return {name: arranged(group, model) for name, group in params.items()}


def _knobs(section: str, name: str, arguments: Mapping[str, Any], scale: Any) -> dict[str, Any]:
    return {"recipe.scale": scale, **{f"recipe.{section}.{name}.{key}": value for key, value in arguments.items()}}


def process_of(config: Config) -> dict[str, Any]:
    """What a recipe's parameters depend on beside their shapes: knob → value."""
    section, name = network_of(config)
    arguments = {key: value for key, value in config.get(section, {}).get(name, {}).items() if key not in EXECUTION}
    knobs = _knobs(section, name, arguments, config.get("scale"))
    sections = {f"recipe.{section}.name": name, **knobs}
    if section == "student":  # however it was taught
        return sections
    sections["recipe.name"] = config.get("name")
    sections |= {f"recipe.space.{key}": value for key, value in config.get("space", {}).items() if key != "weights"}
    chain = config.get("resshift", {})
    if config.get("name") in ("resshift", "sinsr"):
        sections |= {f"recipe.resshift.{key}": chain[key] for key in PROCESS if key in chain}
    return sections


def outputs_of(config: Config) -> dict[str, Any]:
    """What a teacher's precomputed outputs depend on beside its weights and the data: knob → value."""
    knobs = {f"recipe.{name}": config.get(name) for name in ("name", "scale")}
    if config.get("name") not in STUDENT_RECIPES:  # the teacher is of the student's own kind
        return {**knobs, **process_of(config), **_sampling_of(config, "recipe")}
    teacher = config.get("teacher", {})
    knobs |= {f"recipe.teacher.{name}": teacher.get(name) for name in ("output", "samples")}
    if published := teacher.get("published"):
        process = process_of(published).items()
        knobs |= {name.replace("recipe.", "recipe.teacher.published.", 1): value for name, value in process}
        knobs |= _sampling_of(published, "recipe.teacher.published")
    if config.get("name") == "augkd":
        asked = config["augkd"]
        auxiliary = bool(asked["auxiliary_weight"])
        knobs |= {f"recipe.augkd.{name}": auxiliary and asked[name] for name in ("zoom_in", "zoom_out")}
        knobs["recipe.augkd.weight above 0"] = asked["weight"] > 0
    return knobs


def _sampling_of(config: Config, prefix: str) -> dict[str, Any]:
    """What a sampler's pictures depend on, and its parameters do not."""
    chain = config.get("resshift", {})
    knobs = {f"resshift.{name}": chain.get(name) for name in ("sampling_steps", "centred_mean")}
    return {f"{prefix}.{name}": value for name, value in {**knobs, "dtype": config.get("dtype")}.items()}


def without_teacher(config: Config) -> bool:
    """Whether a student's training asks no teacher, and so can take any records of its data."""
    name = config.get("name")
    return name == "swinir" or (name == "dtkd" and not config["dtkd"]["weight"])


def is_trained(path: str | os.PathLike[str]) -> bool:
    """Whether a file is a trained model of ours, which says itself to which configuration it belongs."""
    return "config" in read_metadata(path)


def is_published_transformer(path: str | os.PathLike[str], config: Config) -> bool:
    """Whether something is a whole transformer for recipe 'dit4sr', as published or ported, and not a run's weights."""
    return config.get("name") == "dit4sr" and Path(path).exists() and not is_trained(path)


STUDENT_FILES = ("transformer.safetensors", "vae.safetensors")
"""LoRAs of the transformer and of the autoencoder in the folder that TSD-SR's authors publish."""


def is_published_student(path: str | os.PathLike[str], config: Config) -> bool:
    """Whether something is TSD-SR's LoRAs as published, a folder or a lone file, and not a run's weights."""
    path = Path(path)
    if config.get("name") != "tsd_sr":
        return False
    return (path / STUDENT_FILES[0]).is_file() if path.is_dir() else path.is_file() and not is_ours(path)


def _check_same(found: Mapping[str, Any], wanted: Mapping[str, Any], source: str) -> None:
    """Compare the knobs that both sides know."""
    plain = [
        {knob: list(value) if isinstance(value, tuple) else value for knob, value in side.items()}
        for side in (found, wanted)
    ]
    differing = [knob for knob in plain[0] if knob in plain[1] and plain[0][knob] != plain[1][knob]]
    if differing:
        named = "; ".join(f"{knob} {plain[0][knob]!r}, not {plain[1][knob]!r}" for knob in differing[:4])
        raise ValueError(f"{source} was made with {named}: use the configuration that belongs to it")


def _check_steps_in_name(file: str, config: Config) -> None:
    """Published denoisers of all schedules look alike inside; their names tell, as in …_s4_v3.pth."""
    stated = re.search(r"^resshift_\w*_s(\d+)(?=[_.]|$)", file)
    if stated and int(stated[1]) != config["resshift"]["steps"]:
        raise ValueError(
            f"{file} is by its name a model of {stated[1]} steps; this recipe has recipe.resshift.steps "
            f"{config['resshift']['steps']}: use the configuration that belongs to it"
        )


def beside(
    config: Config, path: Path, recorded: Mapping[str, str], needed: Iterable[Place] = tuple(BESIDE)
) -> dict[str, Any]:
    """A trained recipe's configuration with the frozen weights that it was trained with: beside its file, or as named.

    Args:
      config: the recipe's entry.
      path: of the weights.
      recorded: the digests of what the run was trained with, by knob; empty if the file does not tell.
      needed: places of `BESIDE`.

    Raises:
      FileNotFoundError: an autoencoder, say, is in neither place. ValueError: what is there is another one.
    """
    changed = dict(config)
    for section, key in needed:
        what = BESIDE[section, key]
        named = path_at(config, (section, key))
        if not named:
            continue
        knob = f"recipe.{section}.{key}"
        places = [place for place in (path.parent / Path(named).name, Path(named)) if place.exists()]
        if not places:
            raise FileNotFoundError(
                f"{path} needs the {what} {named!r} ({knob}), and it is not there: put it beside the weights"
            )
        part = PARTS.get((section, key), "")
        fitting = [place for place in places if recorded.get(knob) in (None, digest_of(place, part))]
        if not fitting:
            raise ValueError(f"{places[0]} is not the {what} that {path} was trained with: put that one beside it")
        changed[section] = {**changed[section], key: str(fitting[0])}
    return changed


def digest_of(path: str | os.PathLike[str], part: str = "") -> str:
    """SHA-256 of a file; of a ported one, that of the file it was made of, so that both count as the same.

    Of a folder in Diffusers' layout, of its configuration and weights together; `part` is the one that is meant of a
    whole pipeline's. Of the folder of TSD-SR's LoRAs, of these.
    """
    if (Path(path) / STUDENT_FILES[0]).is_file():
        return "+".join(sha256_of(file) for name in STUDENT_FILES if (file := Path(path) / name).is_file())
    if Path(path).is_dir():
        return "+".join(sha256_of(file) for file in model_files(model_folder(path, part)))
    files = read_metadata(path).get("source", {}).get("files", ())
    if files and all(file.get("sha256") for file in files):
        return "+".join(file["sha256"] for file in files)
    return sha256_of(path)


def digests(config: Config, needed_for: str = "training") -> dict[str, str]:
    """`digest_of` the files that a recipe's configuration names, by the names of their knobs.

    Args:
      config: the recipe's entry.
      needed_for: 'training', 'teacher' (its outputs) or 'inference'.
    """
    named = {place: path_at(config, place) for place in NEEDED[needed_for]}
    weights, published = TEACHERS[-2:]
    if named.get(weights) and is_trained(named[weights]):
        named.pop(published)  # a trained teacher brings its own configuration
    return {
        ".".join(("recipe", *place)): digest_of(path, PARTS.get(place, "")) for place, path in named.items() if path
    }


def path_at(config: Config, place: tuple[str, ...]) -> str:
    """The path at a place of `PATHS`; empty where there is none."""
    for key in place[:-1]:
        config = config.get(key, {})
    return str(config.get(place[-1]) or "")
