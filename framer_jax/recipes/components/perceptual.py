"""Perceptual distances as auxiliary losses: LPIPS, with frozen weights that the user names."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import jax

from framer_jax.knobs import changed_repr, check_knobs, knob, settings_from
from framer_jax.losses.lpips import lpips
from framer_jax.models.vgg import Lpips
from framer_jax.recipes.base import AuxiliaryLoss, Params
from framer_jax.recipes.components.networks import DTYPES
from framer_jax.recipes.method import Config, WeightFile, WeightReader

LPIPS = "lpips"
"""The section of the configuration; by default also the entry of `frozen` and the name of the term in the logs."""

WEIGHT_FILE = WeightFile((LPIPS, "checkpoint"), "LPIPS network", training_only=True)

RENAMED_KNOBS = {"lpips.weights": "lpips.checkpoint"}


@dataclass(frozen=True)
class LpipsSettings:
    """The section `recipe.lpips`, which training with a weight above 0 for the perceptual term needs."""

    net: str = knob("vgg", "Trunk of the network.", choices=("vgg", "alex"))
    checkpoint: str = knob("", "Path of its weights, as published or from `framer-jax port`.", empty=True)

    __repr__ = changed_repr

    def __post_init__(self) -> None:
        check_knobs(self)


def lpips_loss(module: Lpips, params: Params, weight: float, name: str = LPIPS) -> AuxiliaryLoss:
    """LPIPS as an auxiliary loss of a name, see framer_jax.losses.lpips; the gradient reaches the first image only."""

    def distance(params: Params, image: jax.Array, reference: jax.Array) -> jax.Array:
        def features(image: jax.Array) -> tuple[tuple[jax.Array, ...], tuple[jax.Array, ...]]:
            return cast(tuple[tuple[jax.Array, ...], tuple[jax.Array, ...]], module.apply({"params": params}, image))

        image_features, heads = features(image)
        return lpips(image_features, features(jax.lax.stop_gradient(reference))[0], heads)

    return AuxiliaryLoss(name, weight, distance, params)


def auxiliary_losses(
    config: Config, weight: float, purpose: str, reader: WeightReader, name: str = LPIPS
) -> tuple[AuxiliaryLoss, ...]:
    """The auxiliary losses of a method with a perceptual term; none unless it is trained with a weight above 0."""
    if purpose != "training" or not weight:
        return ()
    settings = settings_from(LpipsSettings, config[LPIPS], "recipe.lpips")
    network = reader.network(
        WEIGHT_FILE.knob, settings.checkpoint, f"lpips_{settings.net}", "LPIPS", DTYPES[config["dtype"]]
    )
    return (lpips_loss(network.module, network.params, weight, name),)
