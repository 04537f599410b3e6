"""ControlNets of Stable Diffusion 2: tensor names and config.json of diffusers' `ControlNetModel`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from framer_jax.porting.maps import Rule, StateDict, WeightMap, count_of
from framer_jax.porting.sd_unet import (
    ENCODER_RULES,
    FIXED,
    check_fixed,
    encoder_arguments,
    encoder_arguments_of_config,
    encoder_config,
    encoder_description,
    settle_heads,
)

CLASS = "ControlNetModel"
"""Name of the class in diffusers."""

EMBEDDING = "controlnet_cond_embedding"
"""The convolutions that see the image."""

CONTROL_FIXED: Mapping[str, Any] = {
    **FIXED,
    "controlnet_conditioning_channel_order": "rgb",
    "global_pool_conditions": False,
}
"""Settings of which our module supports one value."""


def controlnet_arguments(state: StateDict) -> dict[str, Any]:
    """Constructor arguments of framer_jax.models.controlnet.ControlNet, as far as tensors determine them.

    Raises:
      KeyError, ValueError: see framer_jax.porting.sd_unet.encoder_arguments.
    """
    first = state[f"{EMBEDDING}.conv_in.weight"]
    convs = count_of(state, f"{EMBEDDING}.blocks.{{}}.weight")
    widths = [state[f"{EMBEDDING}.blocks.{index}.weight"].shape[0] for index in range(1, convs, 2)]
    return {
        **encoder_arguments(state),
        "in_channels": state["conv_in.weight"].shape[1],
        "image_channels": first.shape[1],
        "image_widths": (first.shape[0], *widths),
    }


def controlnet_arguments_of_config(config: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Constructor arguments of our module from a config.json of diffusers.

    Args:
      config: its content; missing settings have the defaults of diffusers.
      source: its name in errors, usually a path.

    Raises:
      ValueError: it has a setting that our module does not support; the message names it.
    """
    check_fixed(config, CONTROL_FIXED, source)
    return {
        **encoder_arguments_of_config(config, source),
        "in_channels": config.get("in_channels", 4),
        "image_channels": config.get("conditioning_channels", 3),
        "image_widths": tuple(config.get("conditioning_embedding_out_channels", (16, 32, 96, 256))),
    }


def controlnet_config(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of `controlnet_arguments_of_config`."""
    return {
        "_class_name": CLASS,
        **{name: value for name, value in CONTROL_FIXED.items() if name != "center_input_sample"},
        **encoder_config(arguments),
        "conditioning_channels": arguments["image_channels"],
        "conditioning_embedding_out_channels": list(arguments["image_widths"]),
        "in_channels": arguments["in_channels"],
    }


CONTROLNET = WeightMap(
    name="controlnet",
    rules=(
        *ENCODER_RULES,
        Rule(f"{EMBEDDING}.conv_in", "image/conv_in"),
        Rule(f"{EMBEDDING}.blocks.{{i}}", "image/conv_{i}"),
        Rule(f"{EMBEDDING}.conv_out", "image/conv_out"),
        Rule("controlnet_down_blocks.{i}", "control_{i}"),
        Rule("controlnet_mid_block", "control_middle"),
    ),
    arguments=controlnet_arguments,
    folder="controlnet",
    assumed=lambda state, arguments: ("heads", "groups"),
    settle=settle_heads,
    read_config=controlnet_arguments_of_config,
    config_class=CLASS,
    make_config=controlnet_config,
    describe=lambda arguments: encoder_description(arguments, "a ControlNet of Stable Diffusion 2"),
)
"""controlnet/ of pipelines with Stable Diffusion 2, and ControlNets published alone."""
