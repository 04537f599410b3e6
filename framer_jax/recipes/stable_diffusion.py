"""What a recipe on Stable Diffusion 3 starts from: the weights of its base, and its autoencoder."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from framer_jax.models.dit4sr_transformer import with_control
from framer_jax.models.kl_autoencoder import KLAutoencoder
from framer_jax.models.mmdit import JointTransformer, arranged, unstacked
from framer_jax.porting.kl_autoencoder import KL_AUTOENCODER
from framer_jax.porting.lora import read_layers
from framer_jax.porting.table import map_named
from framer_jax.porting.torch_files import read_state
from framer_jax.porting.weights import is_ours, read_metadata
from framer_jax.trees import check_same_structure, flatten_names, nest_names, tree_digest
from framer_jax.recipes.base import Params, Recipe, expected_params
from framer_jax.recipes.dit4sr import BASE
from framer_jax.recipes.latent_space import AUTOENCODER
from framer_jax.recipes.pretrained import load_pretrained, read
from framer_jax.recipes.tsd_sr import ENCODER, STUDENT
from framer_jax.recipes.weights_by_path import STUDENT_FILES

FREE = ("compatibility", "reading", "strength", "attention", "remat", "scan", "taps", "dtype", "channels")
"""Arguments of the denoiser that a base's weights do not decide."""

PUBLISHED_LORAS = {
    STUDENT: (STUDENT_FILES[0], "mmdit", BASE),
    ENCODER: (STUDENT_FILES[1], "kl_autoencoder", AUTOENCODER),
}
"""Group of TSD-SR → the file in its authors' folder, the weight map of what it lies on, and where that is frozen."""

POSITIONS = ("positions", "position_base")
"""Arguments that no knob has, as all published weights agree in them."""


def read_base(path: str, arguments: Mapping[str, Any]) -> Params:
    """The denoiser's parameters to start from: DiT4SR's, or Stable Diffusion 3.5's with control layers added.

    Args:
      path: file or folder (a pipeline's, or its transformer/), of diffusers or as `framer-jax port` writes it.
      arguments: of the denoiser, as configured; also 'channels' of the autoencoder's latents, and its 'positions' and
        'position_base', where they are known.

    Raises:
      FileNotFoundError, ImportError, ValueError: it cannot be read, or is of another size than configured; one line
        that names the knobs.
    """
    knob = "recipe.dit4sr.base"
    _check_exists(knob, path, "Stable Diffusion 3.5's transformer")
    with _naming(knob):
        controlled, found = _read_either(path)
    channels = found.arguments["channels"]
    if channels != arguments.get("channels", channels):
        raise ValueError(
            f"{knob} {path} denoises latents of {channels} channels, and the autoencoder of recipe.space makes "
            f"{arguments['channels']}: set recipe.space.weights to the one that belongs to it"
        )
    differing = _differing(found.arguments, arguments, "recipe.denoiser.dit4sr")
    if controlled and found.arguments["compatibility"] != arguments["compatibility"]:
        differing.append(f"recipe.denoiser.dit4sr.compatibility {found.arguments['compatibility']!r}")
    variant = map_named("dit4sr" if controlled else "mmdit").describe(found.arguments)
    _refuse(differing, f"{knob} {path}, {variant},")
    both = [name for name in POSITIONS if name in found.arguments and name in arguments]
    if any(found.arguments[name] != arguments[name] for name in both):
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


def read_lora(knob: str, path: str | os.PathLike[str], model: str, params: Params) -> Params:
    """One LoRA of a model, from a file of PEFT, diffusers or kohya's scripts, block by block.

    Args:
      knob: where the path is configured.
      path: of the file.
      model: the weight map's name.
      params: of the model, block by block; names and shapes matter only.

    Returns:
      factors as of framer_jax.models.lora.Lora, scaled so that every alpha is the rank.

    Raises:
      FileNotFoundError, ValueError: there is none, or it is of another model; one line.
    """
    _check_exists(knob, str(path), "a LoRA")
    with _naming(knob):
        state, _ = read_state(path)
        (layers,) = read_layers(map_named(model), params, state, str(path), set_of=lambda adapter: "").values()
    leaves = flatten_names(layers.factors)[0]
    for module, alpha in layers.alphas.items():
        up = leaves[f"{module}/up"]
        leaves[f"{module}/up"] = up * np.float32(alpha / up.shape[-2])
    return nest_names(leaves)


def read_student(path: str | os.PathLike[str], config: Mapping[str, Any], recipe: Recipe) -> Params:
    """The exported groups of TSD-SR, as its authors publish them: a folder with a LoRA for each model.

    Args:
      path: the folder, or a lone file where the encoder has no LoRA.
      config: the configuration's `recipe`.
      recipe: that it describes, with weights.

    Raises:
      FileNotFoundError, ValueError: a file is missing, or of another size than configured; one line.
    """
    path, scale, own = Path(path), config["tsd_sr"]["lora_scale"], config["denoiser"]["mmdit"]
    model = JointTransformer(depth=own["depth"], dual_blocks=own["dual_blocks"], scan=own["scan"])
    groups = {}
    for group in recipe.exported:
        file, name, on = PUBLISHED_LORAS[group]
        params = recipe.frozen[on]
        params = unstacked(params, model) if on == BASE else params
        found = read_lora("weights", path / file if path.is_dir() else path, name, params)
        found = jax.tree_util.tree_map_with_path(
            lambda place, leaf: leaf / np.float32(scale) if place[-1].key == "up" else leaf, found
        )
        groups[group] = arranged(found, model) if on == BASE else found
    check_same_structure(groups, expected_params(recipe), str(path))
    return groups


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
