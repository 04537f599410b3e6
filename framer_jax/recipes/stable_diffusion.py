"""What a recipe on Stable Diffusion 3 starts from: the weights of its base, and its autoencoder."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from framer_jax.models.dit4sr import with_control
from framer_jax.models.kl_autoencoder import KLAutoencoder
from framer_jax.porting.kl_autoencoder import KL_AUTOENCODER
from framer_jax.porting.table import map_named
from framer_jax.porting.weights import is_ours, read_metadata, tree_digest
from framer_jax.recipes.base import Params
from framer_jax.recipes.pretrained import load_pretrained, read

FREE = ("compatibility", "reading", "strength", "attention", "remat", "scan", "taps", "dtype", "channels")
"""Arguments of the denoiser that a base's weights do not decide."""


def read_base(path: str, arguments: Mapping[str, Any]) -> Params:
    """The denoiser's parameters to start from: DiT4SR's, or Stable Diffusion 3.5's with control layers added.

    Args:
      path: file or folder (a pipeline's, or its transformer/), of diffusers or as `framer-jax port` writes it.
      arguments: of the denoiser, as configured.

    Raises:
      FileNotFoundError, ImportError, ValueError: it cannot be read, or is of another size than configured; one line
        that names the knobs.
    """
    knob = "recipe.dit4sr.base"
    if not Path(path).exists():
        raise FileNotFoundError(f"{knob}: there is no file or folder {path!r} (Stable Diffusion 3.5's transformer)")
    try:
        controlled, found = _read_either(path)
    except (ValueError, FileNotFoundError, ImportError) as error:
        raise type(error)(f"{knob}: {error}") from error
    differing = [
        f"recipe.denoiser.dit4sr.{name} {value!r}, not {arguments[name]!r}"
        for name, value in found.arguments.items()
        if name not in FREE and name in arguments and _plain(arguments[name]) != _plain(value)
    ]
    if controlled and found.arguments["compatibility"] != arguments["compatibility"]:
        differing.append(f"recipe.denoiser.dit4sr.compatibility {found.arguments['compatibility']!r}")
    if differing:
        variant = map_named("dit4sr" if controlled else "mmdit").describe(found.arguments)
        raise ValueError(f"{knob} {path}, {variant}, was made with {'; '.join(differing[:4])}: use what belongs to it")
    return found.params if controlled else with_control(found.params, arguments["compatibility"])


def _read_either(path: str) -> tuple[bool, Any]:
    """(whether the weights have control layers, the model)."""
    if Path(path).is_file() and is_ours(path):
        name = read_metadata(path).get("model")
        return name == "dit4sr", read("dit4sr" if name == "dit4sr" else "mmdit", path)
    try:
        return False, read("mmdit", path)
    except ValueError as error:
        if "control" not in str(error):
            raise
    return True, read("dit4sr", path)


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


class Autoencoder(NamedTuple):
    """An autoencoder of Stable Diffusion.

    Attributes:
      module: its functions.
      params: its weights.
      digest: of weights, scaling and shift, whatever files they came in.
    """

    module: KLAutoencoder
    params: dict[str, Any]
    digest: str


def read_kl_autoencoder(path: str | os.PathLike[str]) -> Autoencoder:
    """Read an autoencoder of Stable Diffusion.

    Args:
      path: diffusers' `vae/`, a pipeline's folder with it, or one file: of diffusers, or of `framer-jax port`.

    Raises:
      ValueError, FileNotFoundError, ImportError: it cannot be read, or is another model, in one line.
    """
    found = load_pretrained(KL_AUTOENCODER.name, path)
    return Autoencoder(
        found.module,
        found.params,
        tree_digest(found.params, {"scaling": found.module.scaling, "shift": found.module.shift}),
    )
