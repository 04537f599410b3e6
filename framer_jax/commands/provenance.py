"""The configuration that records and weights were made with, and its comparison with the present one."""

from __future__ import annotations

import json
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

from framer_jax.checkpoints.identity import records_identity
from framer_jax.checkpoints.migration import present_knobs
from framer_jax.checkpoints.paths import digests, is_trained, weight_path
from framer_jax.config import ConfigError
from framer_jax.data.contents import joint_digest
from framer_jax.data.records import MANIFEST
from framer_jax.data.settings import DEGRADATION_OPTIONS
from framer_jax.recipes.method import value_at, with_values
from framer_jax.recipes.table import method_of
from framer_jax.version import __version__

DATA = {
    "crop": "crop",
    "framing": "crop_mode",
    "turns": "flip_and_rotate",
    "degradation": "degradation",
    "geometry": "degradation_geometry",
    "sharpen_target": "sharpen_target",
    "second_kernel_sizes": "second_kernel_sizes",
}
"""The data's knobs that decide records, besides the photographs: name in a manifest → knob."""

ADDED = {name: DEGRADATION_OPTIONS[knob] for name, knob in DATA.items() if knob in DEGRADATION_OPTIONS}
"""Of these, the ones that a manifest lacks where they have their defaults, as in earlier versions → the default."""


def portable(config: dict[str, Any]) -> dict[str, Any]:
    """The configuration without the folders above data and weights: a weights file may travel, paths need not."""
    config = deepcopy(config)
    for key in ("train", "validation", "embeddings", "validation_preview"):
        if config["data"].get(key):
            config["data"][key] = Path(config["data"][key]).name
    for key in ("pairs", "validation_pairs"):
        if config["data"].get(key):
            config["data"][key] = [Path(folder).name for folder in config["data"][key]]
    if config["data"].get("mixture"):
        config["data"]["mixture"] = [[Path(folder).name, share] for folder, share in config["data"]["mixture"]]
    recipe = config["recipe"]
    files = [file for file in method_of(recipe).weight_files if weight_path(recipe, file)]
    config["recipe"] = with_values(recipe, {file.path: Path(weight_path(recipe, file)).name for file in files})
    return config


def manifest_of(config: dict[str, Any], samples: int, per_file: int, photographs: Mapping[str, str]) -> dict[str, Any]:
    """The manifest of a folder of a teacher's outputs; `photographs` are the digests of their files."""
    plain = portable(config)
    recipe = plain["recipe"]
    teacher = value_at(config["recipe"], ("teacher", "checkpoint"))
    if teacher and is_trained(teacher):
        recipe = with_values(recipe, {("teacher", "published"): {}})  # which then has no effect
    return {
        "kind": "teacher",
        "framer_jax_version": __version__,
        "samples": samples,
        "per_file": per_file,
        "photographs": len(photographs),
        "contents": joint_digest(photographs),
        "seed": config["training"]["seed"],
        "outputs": records_identity(recipe),
        "data": _data_of(plain),
        "weights": digests(config["recipe"], "teacher"),
    }


def latents_manifest(
    config: dict[str, Any],
    samples: int,
    per_file: int,
    photographs: Mapping[str, str],
    vae: str,
    draw: str,
    storage: str,
) -> dict[str, Any]:
    """The manifest of a folder of latents; `photographs` are the digests of their files, `vae` is the autoencoder's."""
    return {
        "kind": "latents",
        "framer_jax_version": __version__,
        "samples": samples,
        "per_file": per_file,
        "seed": config["training"]["seed"],
        "scale": config["recipe"]["scale"],
        "data": _data_of(portable(config)),
        "contents": joint_digest(photographs),
        "vae": vae,
        "draw": draw,
        "storage": storage,
    }


def config_of_latents(manifest: Mapping[str, Any], photos: str) -> dict[str, Any]:
    """What decides the crops of latents, as the sections of a configuration; `photos` is their folder."""
    stored = {knob: manifest["data"].get(name, ADDED.get(name)) for name, knob in DATA.items()}
    return {
        "data": {"train": photos, **stored},
        "recipe": {"scale": manifest["scale"]},
        "training": {"seed": manifest["seed"]},
    }


def check_latents(manifest: Mapping[str, Any], config: dict[str, Any], vae: str, folder: str) -> None:
    """Refuse latents that do not belong to a training run.

    Args:
      manifest: manifest of the latents.
      config: plain dict of a whole configuration.
      vae: digest of the run's autoencoder.
      folder: folder of the latents, for the message.

    Raises:
      ConfigError: they are of another autoencoder, or a knob that decides them differs; the message names it.
    """
    if manifest.get("vae") != vae:
        raise ConfigError(
            f"data.train {folder}: its latents are of the autoencoder {_short(manifest.get('vae'))}, this run has "
            f"{_short(vae)}: make them again with this run's, or train with theirs"
        )
    stored = {"recipe.scale": manifest.get("scale"), **_data_knobs(manifest.get("data", {}))}
    _check_same(stored, {"recipe.scale": config["recipe"]["scale"], **_data_knobs(_data_of(config))}, folder)


def check_records(manifest: Mapping[str, Any], config: dict[str, Any], folder: str) -> None:
    """Refuse records that do not belong to a training run's configuration.

    Raises:
      ConfigError: a knob that decides the records differs; the message names it.
    """
    if manifest.get("kind") != "teacher":
        raise ConfigError(
            f"data.train {folder}: {MANIFEST} says that it holds {manifest.get('kind')!r}, not a teacher's outputs: "
            "name a folder that `framer-jax precompute teacher` wrote"
        )
    if missing := [name for name in ("data", "outputs", "weights") if name not in manifest]:
        raise ConfigError(f"data.train {folder}: {MANIFEST} lacks {', '.join(missing)}: make the records again")
    present = json.loads(json.dumps(manifest_of(config, 0, 0, {})))
    stored, needed = _record_knobs(manifest), _record_knobs(present)
    # Manifests of earlier versions also state sampler knobs of other methods than the teacher's.
    stored = {name: value for name, value in stored.items() if not _has_no_section(name, config["recipe"])}
    if present["outputs"] is None:  # no teacher is used, so any records of these images will do
        images = {"recipe.scale", *(f"data.{knob}" for knob in DATA.values())}
        stored = {name: value for name, value in stored.items() if name in images}
        needed = {"recipe.scale": config["recipe"]["scale"], **_data_knobs(present["data"])}
    _check_same(stored, needed, folder)


def _data_of(config: Mapping[str, Any]) -> dict[str, Any]:
    values = {name: config["data"].get(knob, ADDED.get(name)) for name, knob in DATA.items()}
    present = {name: value for name, value in values.items() if name not in ADDED or value != ADDED[name]}
    return {"train": config["data"]["train"], **present}


def _data_knobs(data: Mapping[str, Any]) -> dict[str, Any]:
    return {f"data.{knob}": data.get(name, ADDED.get(name)) for name, knob in DATA.items()}


def _record_knobs(manifest: Mapping[str, Any]) -> dict[str, Any]:
    weights = {f"the file of {knob}": digest for knob, digest in present_knobs(manifest["weights"]).items()}
    return _data_knobs(manifest["data"]) | present_knobs(manifest["outputs"] or {}) | weights


def _has_no_section(name: str, recipe: Mapping[str, Any]) -> bool:
    """Whether a knob belongs to a section that a configuration's `recipe` does not have."""
    first, *sections, _ = name.split(".")
    return first == "recipe" and value_at(recipe, tuple(sections)) is None


def _check_same(stored: Mapping[str, Any], needed: Mapping[str, Any], folder: str) -> None:
    for name in sorted({*stored, *needed}):
        if stored.get(name) != needed.get(name):
            raise ConfigError(
                f"data.train {folder}: its records were made with {name} {_short(stored.get(name))}, this run has "
                f"{_short(needed.get(name))}: make them again, or use the configuration that belongs to them"
            )


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) < 80 else text[:76] + " ..."
