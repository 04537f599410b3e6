"""Stable Diffusion 2's U-Net as the pretrained base of a method."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from framer_jax.diffusion import ddpm
from framer_jax.knobs import as_tuple
from framer_jax.models.kl_autoencoder import KLAutoencoder
from framer_jax.porting.table import map_named
from framer_jax.recipes.base import Params
from framer_jax.recipes.components import spaces
from framer_jax.recipes.components.base_model import base_file, check_same_size
from framer_jax.recipes.components.latent_space import LatentSpace, gaussian_space
from framer_jax.recipes.components.networks import DTYPES, execution_knobs
from framer_jax.recipes.components.text import text_widths
from framer_jax.recipes.method import Config, WeightFile, WeightReader

NETWORK = "sd_unet"
"""The U-Net, and its weight map."""

PREDICTION_TYPES = {"epsilon": "epsilon", "v_prediction": "v", "sample": "x0"}
"""What a scheduler_config.json of diffusers says of the network → framer_jax.diffusion.ddpm.PREDICTIONS."""

AUTOENCODER: Mapping[str, Any] = {
    "latent_channels": 4,
    "quantisation_convs": True,
    "scaling": 0.18215,
    "shift": 0.0,
}
"""Constructor arguments of Stable Diffusion 2's autoencoder; the module's defaults are those of version 3."""


LORA_MODULES = (
    r"conv_(in|out)$|block_\d+/(conv_\d|skip)$|(down|up)sample$|project_(in|out)$|"
    r"(self|text)_attention/(query|key|value|out)$|mlp/dense_[01]$"
)
"""The U-Net's modules that have a LoRA in the releases of PiSA-SR and OSEDiff: all convolutions and dense layers but
those of the time."""


def unet_file(section: str) -> WeightFile:
    """The knob `base_checkpoint` of a method's section."""
    return base_file(section, part="unet")


def schedule() -> ddpm.Schedule:
    """The process of Stable Diffusion 2."""
    return ddpm.scaled_linear_schedule()


def build_space(config: Config, purpose: str, reader: WeightReader) -> LatentSpace:
    """The latent space that a configuration describes; a description of 'kl' is of Stable Diffusion 2's autoencoder.

    Raises:
      ValueError, FileNotFoundError, ImportError: see framer_jax.recipes.components.spaces.build_space.
    """
    if purpose != "description" or config["space"]["name"] != "kl":
        return spaces.build_space(config, purpose, reader)
    module = KLAutoencoder(**AUTOENCODER, dtype=DTYPES[config["dtype"]])
    image = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
    return gaussian_space(module, jax.eval_shape(module.init, jax.random.key(0), image)["params"])


def check_latents(file: WeightFile, unet: Params, space: LatentSpace) -> None:
    """Raise ValueError, which names the knobs, for a U-Net on latents of another number of channels."""
    channels = unet["conv_in"]["kernel"].shape[2]
    if channels != space.channels:
        raise ValueError(
            f"{file.knob}: this U-Net takes latents of {channels} channels, those of recipe.space have "
            f"{space.channels}: use recipe.space.name=kl with the autoencoder of Stable Diffusion 2"
        )


def read_unet(
    file: WeightFile,
    path: str,
    config: Config,
    reader: WeightReader,
    prediction: str = "epsilon",
    network: str = NETWORK,
    prediction_knob: str = "",
) -> Params:
    """The U-Net's parameters.

    Args:
      file: the knob.
      path: a pipeline's folder, its unet/, a file, or a single-file checkpoint.
      config: the `recipe` section, whose network and text the file must fit.
      reader: reads the weights.
      prediction: what the method needs the network to predict, one of framer_jax.diffusion.ddpm.PREDICTIONS.
      network: the section of `recipe.denoiser` with the U-Net's size.
      prediction_knob: the knob that `prediction` is the value of, '' for none.

    Raises:
      FileNotFoundError, ImportError, ValueError: it cannot be read, is of another size than configured, or predicts
        something else; one line that names the knob.
    """
    size = {name: as_tuple(value) for name, value in config["denoiser"][network].items()}
    _, base = reader.transformer(file.knob, path, (NETWORK,), "Stable Diffusion 2's U-Net", size)
    source = f"{file.knob} {path}, {map_named(NETWORK).describe(base.arguments)},"
    check_same_size(base.arguments, {**size, **text_widths(config)}, f"recipe.denoiser.{network}", source)
    _check_prediction(file, path, reader, prediction, prediction_knob)
    return base.params


def unet_arguments(config: Config) -> dict[str, Any]:
    """Constructor arguments of the U-Net that a `recipe` section determines."""
    knobs = config["denoiser"][NETWORK]
    size = {name: as_tuple(value) for name, value in knobs.items() if name not in execution_knobs(NETWORK)}
    return {**size, **text_widths(config)}


def _check_prediction(file: WeightFile, path: str, reader: WeightReader, prediction: str, knob: str) -> None:
    scheduler = reader.scheduler(file.knob, path)
    if scheduler is None:
        reader.note(
            file.knob,
            f"has no scheduler/scheduler_config.json next to it: assumed that it predicts {prediction}, as "
            "stable-diffusion-2-base and 2-1-base do and stable-diffusion-2 and 2-1 do not",
        )
        return
    stated = scheduler.get("prediction_type", "epsilon")
    if (predicted := PREDICTION_TYPES.get(stated)) != prediction:
        remedy = f"set {knob}={predicted}" if knob and predicted else "use stable-diffusion-2-1-base"
        raise ValueError(
            f"{file.knob}: {path} predicts {stated} by its scheduler_config.json, and this method needs a network that "
            f"predicts {prediction}: {remedy}"
        )
