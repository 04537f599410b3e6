"""What a recipe on Stable Diffusion 3's transformer reads from files: the base's weights and the texts."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from framer_jax.models.dit4sr import with_control
from framer_jax.porting.weights import is_ours, load_weights, read_metadata
from framer_jax.recipes.base import Params
from framer_jax.recipes.pretrained import read
from framer_jax.recipes.text import AVOIDED, CONTEXT, NULL, POOLED, WANTED, TextShape, check_text, zero_text

CONDITIONS = ("captions", "null", "zero")
"""What a run tells its denoiser: captions, or by chance nothing; always nothing; or, without any text encoder, zeros,
which the base does not know as nothing."""

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
    controlled, found = _read_either(path)
    differing = [
        f"recipe.denoiser.dit4sr.{name} {value!r}, not {arguments[name]!r}"
        for name, value in found.arguments.items()
        if name not in FREE and name in arguments and _plain(arguments[name]) != _plain(value)
    ]
    if controlled and found.arguments["compatibility"] != arguments["compatibility"]:
        differing.append(f"recipe.denoiser.dit4sr.compatibility {found.arguments['compatibility']!r}")
    if differing:
        raise ValueError(f"{knob} {path} was made with {'; '.join(differing[:4])}: use what belongs to it")
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


def read_texts(config: Mapping[str, Any], shape: TextShape) -> dict[str, dict[str, np.ndarray]]:
    """The texts that a configuration's `recipe.text` names.

    Raises:
      ValueError: an unknown condition; no empty text, and zeros are not asked for; an embedding of other sizes.
      FileNotFoundError: a file is missing.
    """
    condition = config["condition"]
    if condition not in CONDITIONS:
        raise ValueError(f"recipe.text.condition is {condition!r}: choose one of {', '.join(CONDITIONS)}")
    texts = zero_text(shape) if condition == "zero" else {}
    if condition == "zero" and (named := [name for name in (NULL, WANTED, AVOIDED) if config[name]]):
        raise ValueError(f"recipe.text.condition 'zero' takes no embeddings: leave recipe.text.{named[0]} empty")
    if condition != "zero" and not config[NULL]:
        raise ValueError(
            "recipe.text.null is empty: set it to the file that `framer-jax precompute embeddings --null` writes; "
            "without any text encoder, say recipe.text.condition=zero"
        )
    for name in (NULL, WANTED, AVOIDED):
        if config[name]:
            texts[name] = read_text(config[name], shape, f"recipe.text.{name}")
    return texts


def read_text(path: str, shape: TextShape, knob: str) -> dict[str, np.ndarray]:
    """One text from a file, in float32.

    Raises:
      FileNotFoundError: there is none. ValueError: it holds something else, or other sizes.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"{knob}: there is no file {path!r} (`framer-jax precompute embeddings` writes them)")
    arrays, metadata = load_weights(path)
    if metadata.get("kind") != "text":
        raise ValueError(
            f"{knob} {path}: no embedding of a text: make it with `framer-jax precompute embeddings --null`"
        )
    check_text(arrays, shape, f"{knob} {path}")
    return {name: np.asarray(arrays[name], np.float32) for name in (CONTEXT, POOLED)}
