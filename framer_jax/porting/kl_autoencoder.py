"""Autoencoders of Stable Diffusion: tensor names and config.json of diffusers' `AutoencoderKL`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from framer_jax.porting.maps import NORM, Rule, StateDict, WeightMap, count_of, multiples_of


def _block(torch: str, flax: str) -> tuple[Rule, ...]:
    """A residual block."""
    return (
        Rule(f"{torch}.norm1", f"{flax}/norm_0", NORM),
        Rule(f"{torch}.conv1", f"{flax}/conv_0"),
        Rule(f"{torch}.norm2", f"{flax}/norm_1", NORM),
        Rule(f"{torch}.conv2", f"{flax}/conv_1"),
        Rule(f"{torch}.conv_shortcut", f"{flax}/skip"),
    )


def _attention(torch: str, flax: str) -> tuple[Rule, ...]:
    """The attention layer, in the present names and those of older files."""
    return (
        Rule(f"{torch}.group_norm", f"{flax}/norm", NORM),
        Rule(f"{torch}.to_q", f"{flax}/query"),
        Rule(f"{torch}.to_k", f"{flax}/key"),
        Rule(f"{torch}.to_v", f"{flax}/value"),
        Rule(f"{torch}.to_out.0", f"{flax}/project"),
        Rule(f"{torch}.query", f"{flax}/query"),
        Rule(f"{torch}.key", f"{flax}/key"),
        Rule(f"{torch}.value", f"{flax}/value"),
        Rule(f"{torch}.proj_attn", f"{flax}/project"),
    )


def _half(half: str, direction: str, resampler: str, flax: str) -> tuple[Rule, ...]:
    """The encoder ('encoder', 'down', 'downsamplers', 'to_coarse') or the decoder."""
    return (
        Rule(f"{half}.conv_in", f"{half}/conv_in"),
        *_block(f"{half}.{direction}_blocks.{{l}}.resnets.{{i}}", f"{half}/{direction}_{{l}}_block_{{i}}"),
        Rule(f"{half}.{direction}_blocks.{{l}}.{resampler}.0.conv", f"{half}/{direction}_{{l}}_{flax}"),
        *_block(f"{half}.mid_block.resnets.0", f"{half}/middle/block_1"),
        *_attention(f"{half}.mid_block.attentions.0", f"{half}/middle/attention_1"),
        *_block(f"{half}.mid_block.resnets.1", f"{half}/middle/block_2"),
        Rule(f"{half}.conv_norm_out", f"{half}/norm_out", NORM),
        Rule(f"{half}.conv_out", f"{half}/conv_out"),
    )


def arguments_of_state(state: StateDict) -> dict[str, Any]:
    """Constructor arguments of framer_jax.models.kl_autoencoder.KLAutoencoder, as far as tensors determine them.

    There are assumed to be 32 groups (or the most that divide the width), and scaling and shift to be those of Stable
    Diffusion 3 or, with quantisation convolutions, of 1 and 2. Other autoencoders of the same shapes (SDXL's, FLUX's)
    differ in them, which only their config.json says.

    Raises:
      KeyError: a layer is missing.
      ValueError: the widths of the levels are no multiples of the first one.
    """
    channels = state["encoder.conv_in.weight"].shape[0]
    has_quant_conv = "quant_conv.weight" in state
    return {
        "channels": channels,
        "multipliers": multiples_of(
            [
                state[f"encoder.down_blocks.{level}.resnets.0.conv1.weight"].shape[0]
                for level in range(count_of(state, "encoder.down_blocks.{}.resnets.0.conv1.weight"))
            ],
            channels,
            "the widths of the levels",
        ),
        "blocks": count_of(state, "encoder.down_blocks.0.resnets.{}.conv1.weight"),
        "latent_channels": state["decoder.conv_in.weight"].shape[1],
        "groups": math.gcd(32, channels),
        "quantisation_convs": has_quant_conv,
        "scaling": 0.18215 if has_quant_conv else 1.5305,
        "shift": 0.0 if has_quant_conv else 0.0609,
    }


KL_AUTOENCODER = WeightMap(
    name="kl_autoencoder",
    rules=(
        *_half("encoder", "down", "downsamplers", "to_coarse"),
        *_half("decoder", "up", "upsamplers", "to_fine"),
        Rule("quant_conv", "after_encoder"),
        Rule("post_quant_conv", "before_decoder"),
    ),
    arguments=arguments_of_state,
    folder="vae",
    assumed=lambda state, arguments: ("groups", "scaling", "shift"),
    read_config=lambda config, source: arguments_of_config(config, source),
    config_class="AutoencoderKL",
    make_config=lambda arguments: config_of_arguments(arguments),
)
"""The autoencoders of Stable Diffusion 1, 2 and 3, and others of this architecture in any width."""

CLASS = "AutoencoderKL"
"""Name of the class in diffusers."""

FIXED: Mapping[str, Any] = {
    "act_fn": "silu",
    "in_channels": 3,
    "out_channels": 3,
    "mid_block_add_attention": True,
    "latents_mean": None,
    "latents_std": None,
}
"""Settings of which our module supports one value, which is also the default of a config.json without them."""


def arguments_of_config(config: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Constructor arguments of our module from a config.json of diffusers.

    Args:
      config: its content; missing settings have the defaults of diffusers.
      source: its name in errors, usually a path.

    Raises:
      ValueError: it is of another class, or has a setting that our module does not support.
    """
    if config.get("_class_name", CLASS) != CLASS:
        raise ValueError(f"{source}: describes a {config['_class_name']}, not an {CLASS}")
    widths = list(config.get("block_out_channels", (64,)))
    blocks = {"down_block_types": ["DownEncoderBlock2D"] * len(widths)}
    blocks |= {"up_block_types": ["UpDecoderBlock2D"] * len(widths)}
    for name, value in {**FIXED, **blocks}.items():
        if (setting := config.get(name, value)) != value:
            raise ValueError(f"{source}: {name} {setting!r} is not supported, only {value!r}")
    if not widths or any(width % widths[0] for width in widths):
        raise ValueError(
            f"{source}: block_out_channels {widths} are not multiples of the first, which is not supported"
        )
    convs = (config.get("use_quant_conv", True), config.get("use_post_quant_conv", True))
    if convs[0] != convs[1]:
        raise ValueError(f"{source}: use_quant_conv and use_post_quant_conv differ, which is not supported")
    return {
        "channels": widths[0],
        "multipliers": tuple(width // widths[0] for width in widths),
        "blocks": config.get("layers_per_block", 1),
        "latent_channels": config.get("latent_channels", 4),
        "groups": config.get("norm_num_groups", 32),
        "quantisation_convs": convs[0],
        "scaling": config.get("scaling_factor", 0.18215),
        "shift": config.get("shift_factor") or 0.0,
    }


def config_of_arguments(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of `arguments_of_config`: config.json with which diffusers builds the same autoencoder."""
    widths = [arguments["channels"] * multiplier for multiplier in arguments["multipliers"]]
    return {
        "_class_name": CLASS,
        **FIXED,
        "block_out_channels": widths,
        "down_block_types": ["DownEncoderBlock2D"] * len(widths),
        "force_upcast": True,
        "latent_channels": arguments["latent_channels"],
        "layers_per_block": arguments["blocks"],
        "norm_num_groups": arguments["groups"],
        "sample_size": 1024,  # used only by diffusers' tiling
        "scaling_factor": arguments["scaling"],
        "shift_factor": arguments["shift"] or None,
        "up_block_types": ["UpDecoderBlock2D"] * len(widths),
        "use_post_quant_conv": arguments["quantisation_convs"],
        "use_quant_conv": arguments["quantisation_convs"],
    }
