"""What a recipe on Stable Diffusion 3 starts from: the weights of its base, and its autoencoder."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from framer_jax.models.dit4sr import with_control
from framer_jax.models.kl_autoencoder import KLAutoencoder
from framer_jax.models.lora import Lora, make_lora
from framer_jax.porting.kl_autoencoder import KL_AUTOENCODER
from framer_jax.porting.lora import read_layers
from framer_jax.porting.table import map_named
from framer_jax.porting.torch_files import read_state
from framer_jax.porting.weights import is_ours, read_metadata, tree_digest
from framer_jax.recipes.base import Params
from framer_jax.recipes.pretrained import load_pretrained, read

FREE = ("compatibility", "reading", "strength", "attention", "remat", "scan", "taps", "dtype", "channels")
"""Arguments of the denoiser that a base's weights do not decide."""

POSITIONS = ("positions", "position_base")
"""Arguments that no knob has, as all published weights agree in them."""


def read_base(path: str, arguments: Mapping[str, Any]) -> Params:
    """The denoiser's parameters to start from: DiT4SR's, or Stable Diffusion 3.5's with control layers added.

    Args:
      path: file or folder (a pipeline's, or its transformer/), of diffusers or as `framer-jax port` writes it.
      arguments: of the denoiser, as configured. And where they are not known to fit: 'channels' of the autoencoder's
        latents, and the denoiser's 'positions' and 'position_base'.

    Raises:
      FileNotFoundError, ImportError, ValueError: it cannot be read, or is of another size than configured; one line
        that names the knobs.
    """
    knob = "recipe.dit4sr.base"
    _check_exists(knob, path, "Stable Diffusion 3.5's transformer")
    with _naming(knob):
        controlled, found = _read_either(path)
    if (channels := found.arguments["channels"]) != arguments.get("channels", channels):
        raise ValueError(
            f"{knob} {path} denoises latents of {channels} channels, and the autoencoder of recipe.space makes "
            f"{arguments['channels']}: set recipe.space.weights to the one that belongs to it"
        )
    differing = _differing(found.arguments, arguments, "recipe.denoiser.dit4sr")
    if controlled and found.arguments["compatibility"] != arguments["compatibility"]:
        differing.append(f"recipe.denoiser.dit4sr.compatibility {found.arguments['compatibility']!r}")
    variant = map_named("dit4sr" if controlled else "mmdit").describe(found.arguments)
    _refuse(differing, f"{knob} {path}, {variant},")
    told = [name for name in POSITIONS if name in arguments and name in found.arguments]
    if any(found.arguments[name] != arguments[name] for name in told):
        raise ValueError(f"{knob} {path} has a table of positions that is not the published models': use one of these")
    return found.params if controlled else with_control(found.params, arguments["compatibility"])


def read_transformer(knob: str, path: str, arguments: Mapping[str, Any]) -> Params:
    """The parameters of a transformer of Stable Diffusion 3 or 3.5, as it is.

    Args, Raises: as `read_base`; `knob` is where the path is configured.
    """
    _check_exists(knob, path, "Stable Diffusion 3's transformer")
    with _naming(knob):
        found = read("mmdit", path)
    source = f"{knob} {path}, {map_named('mmdit').describe(found.arguments)},"
    _refuse(_differing(found.arguments, arguments, "recipe.denoiser.mmdit"), source)
    return found.params


def read_lora(knob: str, path: str, model: str, params: Params) -> Lora:
    """One LoRA of a model, from a file of PEFT, diffusers or kohya's scripts.

    Args:
      knob: where the path is configured.
      path: of the file.
      model: the weight map's name.
      params: of the model; names and shapes matter only.

    Raises:
      FileNotFoundError, ValueError: there is none, or it is of another model; one line.
    """
    _check_exists(knob, path, "a LoRA")
    with _naming(knob):
        state, _ = read_state(path)
    (layers,) = read_layers(map_named(model), params, state, f"{knob} {path}", set_of=lambda adapter: "").values()
    return make_lora(layers.factors, layers.alphas)


@contextmanager
def _naming(knob: str) -> Iterator[None]:
    """Errors of what is read at a knob's path begin with the knob."""
    try:
        yield
    except (ValueError, FileNotFoundError, ImportError) as error:
        raise type(error)(f"{knob}: {error}") from error


def _check_exists(knob: str, path: str, what: str) -> None:
    if not Path(path).exists():
        raise FileNotFoundError(f"{knob}: there is no file or folder {path!r} ({what})")


def _differing(found: Mapping[str, Any], configured: Mapping[str, Any], section: str) -> list[str]:
    """Knobs whose values are not those that the weights were made with."""
    return [
        f"{section}.{name} {value!r}, not {configured[name]!r}"
        for name, value in found.items()
        if name not in (*FREE, *POSITIONS) and name in configured and _plain(configured[name]) != _plain(value)
    ]


def _refuse(differing: list[str], source: str) -> None:
    if differing:
        raise ValueError(f"{source} was made with {'; '.join(differing[:4])}: use what belongs to it")


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
