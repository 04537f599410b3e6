"""Checkpoints of SRVGGNetCompact, whose list `body` alternates convolutions and activations."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from framer_jax.porting.maps import TENSOR, Rule, StateDict, WeightMap

WITHOUT_SLOPES = ("relu", "leaky_relu")
"""Activations without tensors."""


def srvgg_arguments(state: StateDict) -> dict[str, Any]:
    """Constructor arguments of framer_jax.models.srvgg.SRVGG.

    Slopes of PReLU are the only activations with tensors; a network without them has ReLU or leaky ReLU.

    Raises:
      KeyError: a layer is missing.
      ValueError: the first and the last convolution do not belong to one network.
    """
    channels, image_channels = state["body.0.weight"].shape[:2]
    last = max((int(match[1]) for key in state if (match := re.fullmatch(r"body\.(\d+)\.bias", key))), default=0)
    if last < 2:
        raise KeyError("body.2.bias")
    outputs = state[f"body.{last}.weight"].shape[0]
    scale = math.isqrt(outputs // image_channels)
    if outputs != image_channels * scale**2:
        raise ValueError(f"{image_channels} channels enter and {outputs} leave")
    return {
        "scale": scale,
        "channels": channels,
        "depth": last // 2 - 1,
        "activation": "prelu" if "body.1.weight" in state else "relu",
        "image_channels": image_channels,
    }


def srvgg_assumed(state: StateDict, arguments: Mapping[str, Any]) -> tuple[str, ...]:
    """ReLU and leaky ReLU have no tensors that tell them apart."""
    return () if "body.1.weight" in state else ("activation",)


def settle_srvgg(arguments: Mapping[str, Any], stated: Mapping[str, Any], state: StateDict) -> dict[str, Any]:
    """The arguments with what is stated.

    Raises:
      ValueError: the stated activation is none that lacks tensors.
    """
    activation = stated.get("activation", "relu")
    if activation not in WITHOUT_SLOPES:
        raise ValueError(f"activation is {activation!r}: a network without slopes has {' or '.join(WITHOUT_SLOPES)}")
    return {**arguments, **stated}


def srvgg_variant(arguments: Mapping[str, Any]) -> str:
    """'SRVGG, x4 (64 channels, 32 + 2 convolutions, prelu)'."""
    return (
        f"SRVGG, x{arguments['scale']} ({arguments['channels']} channels, {arguments['depth']} + 2 convolutions, "
        f"{arguments['activation']})"
    )


SRVGG = WeightMap(
    name="srvgg",
    rules=(
        Rule("body.{even}", "body_{even}"),
        Rule("body.{odd}.weight", "body_{odd}/slope", TENSOR),
    ),
    arguments=srvgg_arguments,
    assumed=srvgg_assumed,
    settle=settle_srvgg,
    group="student",
    describe=srvgg_variant,
)
"""realesr-general-x4v3, realesr-general-wdn-x4v3, realesr-animevideov3 and others of any width and depth."""
