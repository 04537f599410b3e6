"""Autoencoders of Stable Diffusion, as `AutoencoderKL` of diffusers names their tensors and its config.json them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from framer_jax.porting.diffusers_folder import write_folder
from framer_jax.porting.maps import NORM, Rule, State, WeightMap, count_of, to_torch


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
    """The attention layer, under its present names and under those of older files."""
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


def _half(side: str, way: str, step: str, ours: str) -> tuple[Rule, ...]:
    """The encoder ('encoder', 'down', 'downsamplers', …) or the decoder."""
    return (
        Rule(f"{side}.conv_in", f"{side}/conv_in"),
        *_block(f"{side}.{way}_blocks.{{l}}.resnets.{{i}}", f"{side}/{way}_{{l}}_block_{{i}}"),
        Rule(f"{side}.{way}_blocks.{{l}}.{step}.0.conv", f"{side}/{way}_{{l}}_{ours}"),
        *_block(f"{side}.mid_block.resnets.0", f"{side}/middle/block_1"),
        *_attention(f"{side}.mid_block.attentions.0", f"{side}/middle/attention_1"),
        *_block(f"{side}.mid_block.resnets.1", f"{side}/middle/block_2"),
        Rule(f"{side}.conv_norm_out", f"{side}/norm_out", NORM),
        Rule(f"{side}.conv_out", f"{side}/conv_out"),
    )


def arguments_of_state(state: State) -> dict[str, Any]:
    """Constructor arguments of framer_jax.models.kl_autoencoder.KLAutoencoder, as far as tensors tell them.

    Groups are taken to be 32, and scaling and shift those of Stable Diffusion 3 or, with quantisation convolutions, of
    1 and 2. Other autoencoders of the same shapes (SDXL's, FLUX's) differ in them: their config.json tells.
    """
    channels = state["encoder.conv_in.weight"].shape[0]
    older = "quant_conv.weight" in state
    return {
        "channels": channels,
        "multipliers": tuple(
            state[f"encoder.down_blocks.{level}.resnets.0.conv1.weight"].shape[0] // channels
            for level in range(count_of(state, "encoder.down_blocks.{}.resnets.0.conv1.weight"))
        ),
        "blocks": count_of(state, "encoder.down_blocks.0.resnets.{}.conv1.weight"),
        "latent_channels": state["decoder.conv_in.weight"].shape[1],
        "groups": 32,
        "quantisation_convs": older,
        "scaling": 0.18215 if older else 1.5305,
        "shift": 0.0 if older else 0.0609,
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
    configured=lambda arguments, state, config: arguments_of_config(config, "config.json"),
    configuration=lambda arguments: config_of_arguments(arguments),
)
"""The autoencoders of Stable Diffusion 1, 2 and 3 and others of their design, in any width."""

CLASS = "AutoencoderKL"
"""What diffusers calls it."""

FIXED: Mapping[str, Any] = {
    "act_fn": "silu",
    "in_channels": 3,
    "out_channels": 3,
    "mid_block_add_attention": True,
    "latents_mean": None,
    "latents_std": None,
}
"""Settings of which our module knows one value, which is also what a config.json without them means."""


def arguments_of_config(config: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Constructor arguments of our module from a config.json of diffusers.

    Args:
      config: its content; what it lacks has the value that diffusers gives it.
      source: what errors call it, usually a path.

    Raises:
      ValueError: another class, or a setting that our module does not have.
    """
    if config.get("_class_name", CLASS) != CLASS:
        raise ValueError(f"{source}: describes a {config['_class_name']}, not an {CLASS}")
    widths = list(config.get("block_out_channels", (64,)))
    blocks = {"down_block_types": ["DownEncoderBlock2D"] * len(widths)}
    blocks |= {"up_block_types": ["UpDecoderBlock2D"] * len(widths)}
    for name, value in {**FIXED, **blocks}.items():
        if (found := config.get(name, value)) != value:
            raise ValueError(f"{source}: {name} {found!r} is not supported, only {value!r}")
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
    """The inverse of `arguments_of_config`: what diffusers needs to build the same autoencoder."""
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
        "sample_size": 1024,  # read by diffusers' tiling alone
        "scaling_factor": arguments["scaling"],
        "shift_factor": arguments["shift"] or None,
        "up_block_types": ["UpDecoderBlock2D"] * len(widths),
        "use_post_quant_conv": arguments["quantisation_convs"],
        "use_quant_conv": arguments["quantisation_convs"],
    }


def write_autoencoder(
    path: str | os.PathLike[str], params: Mapping[str, Any], arguments: Mapping[str, Any], overwrite: bool = False
) -> None:
    """Write a folder that diffusers reads as an AutoencoderKL.

    Args:
      path: the folder to make.
      params: nested dict of float32 arrays.
      arguments: constructor arguments of our module.
      overwrite: whether a folder of that name is replaced.

    Raises:
      ValueError: as `to_torch` and `write_folder`.
    """
    write_folder(
        path,
        config_of_arguments(arguments),
        to_torch(KL_AUTOENCODER, params, str(path), arguments),
        overwrite=overwrite,
    )
