"""What files say of the configuration that they come from, and whether it is the one at hand."""

from __future__ import annotations

import json
from collections.abc import Mapping
from copy import deepcopy
from functools import reduce
from operator import getitem
from pathlib import Path
from typing import Any

from framer_jax.config import ConfigError
from framer_jax.data.records import MANIFEST
from framer_jax.recipes.weights_by_path import PATHS, digests, is_trained, outputs_of, path_at, without_teacher
from framer_jax.version import __version__

DATA = ("crop", "crop_mode", "flip_and_rotate", "degradation")
"""The data's knobs that decide records, beside the photographs."""


def portable(config: dict[str, Any]) -> dict[str, Any]:
    """The configuration without the folders above data and weights: a weights file may travel, paths need not."""
    config = deepcopy(config)
    named = [(config["data"], key) for key in ("train", "validation", "embeddings")]
    for *sections, key in (place for place in PATHS if path_at(config["recipe"], place)):
        named.append((reduce(getitem, sections, config["recipe"]), key))
    for section, key in named:
        section[key] = Path(section[key]).name if section[key] else section[key]
    return config


def manifest_of(config: dict[str, Any], samples: int, per_file: int, photographs: int) -> dict[str, Any]:
    """What a folder of records is made of."""
    plain = portable(config)
    teacher = plain["recipe"].get("teacher", {})
    if (path := config["recipe"].get("teacher", {}).get("weights")) and is_trained(path):
        teacher["published"] = {}  # of no effect
    return {
        "kind": "teacher",
        "framer_jax_version": __version__,
        "samples": samples,
        "per_file": per_file,
        "photographs": photographs,
        "seed": config["training"]["seed"],
        "outputs": outputs_of(plain["recipe"]),
        "data": {name: plain["data"][name] for name in ("train", *DATA)},
        "weights": digests(config["recipe"], "teacher"),
    }


def latents_manifest(
    config: dict[str, Any], samples: int, per_file: int, vae: str, draw: str, storage: str
) -> dict[str, Any]:
    """What a folder of latents is made of; `vae` is the autoencoder's digest."""
    data = portable(config)["data"]
    return {
        "kind": "latents",
        "framer_jax_version": __version__,
        "samples": samples,
        "per_file": per_file,
        "seed": config["training"]["seed"],
        "scale": config["recipe"]["scale"],
        "data": {name: data[name] for name in ("train", *DATA)},
        "vae": vae,
        "draw": draw,
        "storage": storage,
    }


def check_latents(manifest: Mapping[str, Any], config: dict[str, Any], vae: str, folder: str) -> None:
    """Refuse latents that do not belong to a training run.

    Args:
      manifest: of the latents.
      config: plain dict of a whole configuration.
      vae: digest of the run's autoencoder.
      folder: of the latents, for the message.

    Raises:
      ConfigError: they are of another autoencoder, or a knob that decides them differs; the message names it.
    """
    if manifest.get("vae") != vae:
        raise ConfigError(
            f"data.train {folder}: its latents are of the autoencoder {_short(manifest.get('vae'))}, this run has "
            f"{_short(vae)}: make them again with this run's, or train with theirs"
        )
    sides = [
        {"recipe.scale": scale, **{f"data.{name}": data.get(name) for name in DATA}}
        for scale, data in (
            (manifest.get("scale"), manifest.get("data", {})),
            (config["recipe"]["scale"], config["data"]),
        )
    ]
    _check_same(sides[0], sides[1], folder)


def check_records(manifest: Mapping[str, Any], config: dict[str, Any], folder: str) -> None:
    """Refuse records that do not belong to a training run's configuration.

    Raises:
      ConfigError: a knob that decides the records differs; the message names it.
    """
    if manifest.get("kind") != "teacher":
        raise ConfigError(
            f"data.train {folder}: {MANIFEST} speaks of {manifest.get('kind')!r}, not of a teacher's outputs"
        )
    if missing := [name for name in ("data", "outputs", "weights") if name not in manifest]:
        raise ConfigError(f"data.train {folder}: {MANIFEST} lacks {', '.join(missing)}: make the records again")
    own = json.loads(json.dumps(manifest_of(config, 0, 0, 0)))
    sides = [
        {f"data.{name}": side["data"].get(name) for name in DATA}
        | side["outputs"]
        | {f"the file of {name}": digest for name, digest in side["weights"].items()}
        for side in (manifest, own)
    ]
    if without_teacher(config["recipe"]):
        pairs = {"recipe.scale", *(f"data.{name}" for name in DATA)}
        sides = [{name: value for name, value in side.items() if name in pairs} for side in sides]
    _check_same(sides[0], sides[1], folder)


def _check_same(found: Mapping[str, Any], wanted: Mapping[str, Any], folder: str) -> None:
    for name in sorted({*found, *wanted}):
        if found.get(name) != wanted.get(name):
            raise ConfigError(
                f"data.train {folder}: its records were made with {name} {_short(found.get(name))}, this run has "
                f"{_short(wanted.get(name))}: make them again, or use the configuration that belongs to them"
            )


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) < 80 else text[:76] + " ..."
