"""The images that every run upscales, with their references: made once from photographs, or given."""

from __future__ import annotations

import argparse
import hashlib
import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from rich.console import Console

from framer_jax.commands.degrade import MANIFEST, degrade_files
from framer_jax.commands.degrade_plan import plan
from framer_jax.config import ConfigError
from framer_jax.data.settings import degradation_preset
from framer_jax.degradations.presets import DegradationPreset
from framer_jax.evaluation.files import image_files
from framer_jax.images.decode import read_rgb
from framer_jax.porting.files import RAW_NAMES, sha256_of

DEGRADATION_SEED = 7
"""Seed of the degradation of the photographs, that of the experiments in docs/results."""


class PairSource(NamedTuple):
    """Where LR images and references are from: photographs, or two folders; neither where it is not given.

    Attributes:
      photos: folder of HR photographs, or None.
      lr, reference: folders of the given images, or None.
      limit: number of photographs, the first ones by name; None for all.
      crop: side of the center crops of the photographs in pixels; None for whole photographs.
      degradation_seed: seed of their degradation.
      sha256: digest of the images' names and contents, '' for none.
    """

    photos: str | None = None
    lr: str | None = None
    reference: str | None = None
    limit: int | None = None
    crop: int | None = None
    degradation_seed: int = DEGRADATION_SEED
    sha256: str = ""


PATHS = ("photos", "lr", "reference")
"""Fields that are paths: they may differ between calls, the content may not."""


def pair_source(arguments: argparse.Namespace, recorded: Mapping[str, Any]) -> PairSource:
    """The source that the options name; those that are not given are as recorded by the first call.

    Raises:
      ConfigError: options that do not go together.
      FileNotFoundError, ValueError: no such folder, or no image in it.
    """
    options = {name: getattr(arguments, name) for name in PairSource._fields if name != "sha256"}
    given = {name: value for name, value in options.items() if value is not None}
    if ("lr" in given) != ("reference" in given):
        raise ConfigError("--lr and --reference belong together: give both, or --photos")
    if "lr" in given and (others := given.keys() - {"lr", "reference"}):
        raise ConfigError(f"--lr gives the images, so --{min(others).replace('_', '-')} has no effect: omit it")
    for name in ("limit", "crop"):
        if given.get(name, 1) < 1:
            raise ConfigError(f"--{name} is {given[name]}: it must be at least 1")
    if given.get("degradation_seed", 0) < 0:
        raise ConfigError(f"--degradation-seed is {given['degradation_seed']}: it must not be negative")
    if not any(name in given for name in PATHS):
        return PairSource(**{**recorded, **given})
    kept = {name: value for name, value in recorded.items() if name not in PATHS}
    source = PairSource(**{**kept, **given})
    folders = [(source.photos, _photos(source))] if source.photos else []
    folders += [(folder, image_files(folder).paths) for folder in (source.lr, source.reference) if folder]
    return source._replace(sha256=_digest(folders))


def _photos(source: PairSource) -> tuple[Path, ...]:
    assert source.photos is not None
    return image_files(source.photos).paths[: source.limit]


def _digest(folders: Sequence[tuple[str, Sequence[Path]]]) -> str:
    digest = hashlib.sha256()
    for folder, paths in folders:
        for path in paths:
            line = f"{path.relative_to(folder).as_posix()}\0{sha256_of(path)}\n"
            digest.update(line.encode(errors=RAW_NAMES))
    return digest.hexdigest()


def pair_folders(source: PairSource, folder: Path) -> tuple[Path, Path]:
    """The folders of the LR images and of their references; `folder` is the one of pairs that are made."""
    if source.lr and source.reference:
        return Path(source.lr), Path(source.reference)
    return folder / "lr", folder / "hr"


def preset_of(config: Mapping[str, Any]) -> DegradationPreset:
    """The degradation of a configuration's training data, aligned, as scores that compare pixels need it."""
    return replace(degradation_preset(config["data"], config["recipe"]["scale"]), geometry="aligned")


def check_made(source: PairSource, folder: Path, preset: DegradationPreset) -> None:
    """Refuse pairs that lie in `folder` and were made of other photographs, or otherwise.

    Raises:
      ValueError: the message says what differs.
    """
    if not source.photos or not folder.exists():
        return
    remedy = f"remove {folder}, or give another --output"
    needed = sorted(path.relative_to(source.photos).with_suffix(".png") for path in _photos(source))
    for side in (folder / "lr", folder / "hr"):
        if sorted(path.relative_to(side) for path in image_files(side).paths) != needed:
            raise ValueError(f"{side} holds images of other names than {source.photos}: {remedy}")
    if not (folder / MANIFEST).is_file():
        return
    made = json.loads((folder / MANIFEST).read_text(encoding="utf-8").splitlines()[0])
    asked = {
        "preset": preset.name,
        "scale": preset.scale,
        "geometry": preset.geometry,
        "hr_sharpened": preset.sharpen_target,
        "seed": source.degradation_seed,
    }
    for name, value in asked.items():
        if made.get(name) != value:
            raise ValueError(f"{folder} was made with the {name} {made.get(name)}, and {value} is asked for: {remedy}")


def make_pairs(source: PairSource, folder: Path, preset: DegradationPreset, console: Console) -> None:
    """Degrade the photographs, or their center crops; `folder` gets lr/, hr/ and the manifest, all at once.

    Progress is reported on the console.

    Raises:
      FileNotFoundError: the folder of photographs does not exist.
      ValueError: a photograph is damaged, or smaller than a crop.
    """
    if folder.exists() or not source.photos:
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".pairs.", dir=folder.parent) as scratch:
        paths, root = _photos(source), Path(source.photos)
        if source.crop:
            paths, root = _write_crops(paths, root, source.crop, Path(scratch) / "crops"), Path(scratch) / "crops"
        made = Path(scratch) / "pairs"
        jobs, failed = plan(paths, root, made, preset.scale, pairs=True)
        failed = failed or degrade_files(jobs, preset, source.degradation_seed, made / MANIFEST, console=console)
        if failed:  # scores need all pairs
            raise ValueError(f"{next(iter(failed.values()))}: repair or remove it")
        try:
            made.rename(folder)
        except OSError:
            if not folder.is_dir():  # otherwise another job of an array has just made the same
                raise


def _write_crops(paths: Sequence[Path], root: Path, side: int, folder: Path) -> tuple[Path, ...]:
    """Write the square center crops of photographs as PNG files of their names."""
    written = []
    for path in paths:
        pixels = read_rgb(path)
        top, left = ((length - side) // 2 for length in pixels.shape[:2])
        if min(top, left) < 0:
            raise ValueError(f"{path} is smaller than --crop {side}: remove it, or give a smaller crop")
        crop = folder / path.relative_to(root).with_suffix(".png")
        crop.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.ascontiguousarray(pixels[top : top + side, left : left + side])).save(crop)
        written.append(crop)
    return tuple(written)
