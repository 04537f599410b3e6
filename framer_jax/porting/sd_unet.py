"""The U-Net of Stable Diffusion 2: tensor names and config.json of diffusers' `UNet2DConditionModel`.

Rules, arguments and settings of its way down and of its middle block are those of its ControlNet too.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from framer_jax.porting.maps import KERNEL, NORM, Rule, StateDict, WeightMap, count_of

CLASS = "UNet2DConditionModel"
"""Name of the class in diffusers."""

HEAD_WIDTH = 64
"""Width of an attention head in all published models."""

GROUPS = 32
"""Groups of the group norms in all published models."""

WITHOUT_BIAS = KERNEL[:1]


def _block(torch: str, flax: str) -> tuple[Rule, ...]:
    """A residual block."""
    return (
        Rule(f"{torch}.norm1", f"{flax}/norm_0", NORM),
        Rule(f"{torch}.conv1", f"{flax}/conv_0"),
        Rule(f"{torch}.time_emb_proj", f"{flax}/film"),
        Rule(f"{torch}.norm2", f"{flax}/norm_1", NORM),
        Rule(f"{torch}.conv2", f"{flax}/conv_1"),
        Rule(f"{torch}.conv_shortcut", f"{flax}/skip"),
    )


def _transformer(torch: str, flax: str) -> tuple[Rule, ...]:
    """The attention layers after a residual block."""
    theirs, ours = f"{torch}.transformer_blocks.{{k}}", f"{flax}/layer_{{k}}"
    attentions = (("attn1", "self_attention"), ("attn2", "text_attention"))
    projections = {"to_q": "query", "to_k": "key", "to_v": "value"}
    return (
        Rule(f"{torch}.norm", f"{flax}/norm", NORM),
        Rule(f"{torch}.proj_in", f"{flax}/project_in"),
        Rule(f"{theirs}.norm1", f"{ours}/norm_self", NORM),
        Rule(f"{theirs}.norm2", f"{ours}/norm_text", NORM),
        Rule(f"{theirs}.norm3", f"{ours}/norm_mlp", NORM),
        *(
            Rule(f"{theirs}.{key}.{layer}", f"{ours}/{name}/{projection}", WITHOUT_BIAS)
            for key, name in attentions
            for layer, projection in projections.items()
        ),
        *(Rule(f"{theirs}.{key}.to_out.0", f"{ours}/{name}/out") for key, name in attentions),
        Rule(f"{theirs}.ff.net.0.proj", f"{ours}/mlp/dense_0"),
        Rule(f"{theirs}.ff.net.2", f"{ours}/mlp/dense_1"),
        Rule(f"{torch}.proj_out", f"{flax}/project_out"),
    )


ENCODER_RULES = (
    Rule("conv_in", "conv_in"),
    Rule("time_embedding.linear_1", "time/dense_0"),
    Rule("time_embedding.linear_2", "time/dense_1"),
    *_block("down_blocks.{l}.resnets.{i}", "down_{l}_block_{i}"),
    *_transformer("down_blocks.{l}.attentions.{i}", "down_{l}_attention_{i}"),
    Rule("down_blocks.{l}.downsamplers.0.conv", "down_{l}_downsample"),
    *_block("mid_block.resnets.{i}", "middle_block_{i}"),
    *_transformer("mid_block.attentions.{i}", "middle_attention_{i}"),
)
"""What a U-Net and its ControlNet have in common."""


def encoder_arguments(state: StateDict) -> dict[str, Any]:
    """Constructor arguments of framer_jax.models.sd_unet.SDNetwork, as far as tensors determine them.

    Heads are assumed to be as wide as those of all published models, or else there is one per level; and there are
    assumed to be 32 groups, or the most that divide all widths.

    Raises:
      KeyError: a layer is missing.
      ValueError: the projections of the attention layers are convolutions, as in Stable Diffusion 1.
    """
    levels = range(count_of(state, "down_blocks.{}.resnets.0.conv1.weight"))
    channels = tuple(state[f"down_blocks.{level}.resnets.0.conv1.weight"].shape[0] for level in levels)
    if (projection := state["mid_block.attentions.0.proj_in.weight"]).ndim != 2:
        raise ValueError(
            f"mid_block.attentions.0.proj_in.weight has shape {projection.shape}, a convolution as in Stable Diffusion "
            "1: only Stable Diffusion 2 is supported"
        )
    return {
        "channels": channels,
        "blocks": count_of(state, "down_blocks.0.resnets.{}.conv1.weight"),
        "attention_levels": tuple(
            level for level in levels if f"down_blocks.{level}.attentions.0.proj_in.weight" in state
        ),
        "heads": assumed_heads(channels),
        "groups": math.gcd(GROUPS, *channels),
        "context_width": state["mid_block.attentions.0.transformer_blocks.0.attn2.to_k.weight"].shape[1],
    }


def assumed_heads(channels: Sequence[int]) -> tuple[int, ...]:
    """Numbers of heads that are `HEAD_WIDTH` wide, where that divides the width of the level."""
    return tuple(1 if width % HEAD_WIDTH else width // HEAD_WIDTH for width in channels)


def unet_arguments(state: StateDict) -> dict[str, Any]:
    """Constructor arguments of framer_jax.models.sd_unet.SDUNet; see `encoder_arguments`.

    Raises:
      KeyError, ValueError: see there; or the network's input and output have different numbers of channels, as in
        networks for inpainting, depth and upsampling.
    """
    arguments = encoder_arguments(state)
    inputs, outputs = state["conv_in.weight"].shape[1], state["conv_out.weight"].shape[0]
    if inputs != outputs:
        raise ValueError(f"{inputs} channels enter and {outputs} leave it, which must be equal")
    return {**arguments, "out_channels": outputs}


def settle_heads(arguments: Mapping[str, Any], stated: Mapping[str, Any], state: StateDict) -> dict[str, Any]:
    """The arguments with stated values of heads and groups, after a check that they fit the tensors.

    Raises:
      ValueError: they do not.
    """
    settled: dict[str, Any] = {**arguments, **stated}
    channels, heads, groups = settled["channels"], settled["heads"], settled["groups"]
    if not isinstance(heads, list | tuple) or len(heads) != len(channels):
        raise ValueError(f"heads is {heads!r}: it must be a list of {len(channels)} numbers, one for each level")
    if any(type(count) is not int or count < 1 or width % count for count, width in zip(heads, channels, strict=True)):
        raise ValueError(f"heads {tuple(heads)} do not divide the widths of the levels, {channels}")
    settled["heads"] = tuple(heads)
    if groups < 1 or any(width % groups for width in channels):
        raise ValueError(f"groups {groups} do not divide the widths of the levels, {channels}")
    return settled


FIXED: Mapping[str, Any] = {
    "act_fn": "silu",
    "addition_embed_type": None,
    "center_input_sample": False,
    "class_embed_type": None,
    "downsample_padding": 1,
    "encoder_hid_dim_type": None,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "mid_block_scale_factor": 1,
    "mid_block_type": "UNetMidBlock2DCrossAttn",
    "norm_eps": 1e-5,
    "num_attention_heads": None,
    "num_class_embeds": None,
    "only_cross_attention": False,
    "resnet_time_scale_shift": "default",
    "transformer_layers_per_block": 1,
}
"""Settings of which our modules support one value, which is also the default of a config.json without them."""

UNET_FIXED: Mapping[str, Any] = {
    **FIXED,
    "attention_type": "default",
    "conv_in_kernel": 3,
    "conv_out_kernel": 3,
    "cross_attention_norm": None,
    "dual_cross_attention": False,
    "resnet_out_scale_factor": 1.0,
    "resnet_skip_time_act": False,
    "time_cond_proj_dim": None,
    "time_embedding_act_fn": None,
    "time_embedding_dim": None,
    "time_embedding_type": "positional",
    "timestep_post_act": None,
}
"""The same for the U-Net. `upcast_attention` is not among them: our softmax is float32 in any case."""

DOWN_BLOCKS = {True: "CrossAttnDownBlock2D", False: "DownBlock2D"}
UP_BLOCKS = {True: "CrossAttnUpBlock2D", False: "UpBlock2D"}
"""Class of a level's block in diffusers, by whether it has attention."""


def check_fixed(config: Mapping[str, Any], fixed: Mapping[str, Any], source: str) -> None:
    """Raise ValueError, which names the setting, if a config.json has another value of a fixed one."""
    for name, value in fixed.items():
        if (setting := config.get(name, value)) != value:
            raise ValueError(f"{source}: {name} {setting!r} is not supported, only {value!r}")


def encoder_arguments_of_config(config: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Constructor arguments of SDNetwork from a config.json of diffusers.

    Args:
      config: its content; missing settings have the defaults of diffusers.
      source: its name in errors, usually a path.

    Raises:
      ValueError: it has a setting that our module does not support; the message names it.
    """
    channels = tuple(config.get("block_out_channels", (320, 640, 1280, 1280)))
    types = config.get("down_block_types", [DOWN_BLOCKS[level < 3] for level in range(4)])
    if not set(types) <= set(DOWN_BLOCKS.values()) or len(types) != len(channels):
        raise ValueError(
            f"{source}: down_block_types {list(types)} are not supported, only {' and '.join(DOWN_BLOCKS.values())}, "
            "one for each of block_out_channels"
        )
    if config.get("use_linear_projection", False) is not True:
        raise ValueError(
            f"{source}: use_linear_projection False, as in Stable Diffusion 1, is not supported, only True"
        )
    single = {}
    for name, default in (("layers_per_block", 2), ("cross_attention_dim", 1280)):
        single[name] = config.get(name, default)
        if not isinstance(single[name], int):
            raise ValueError(f"{source}: {name} {single[name]!r} is not supported, only one number for all levels")
    # diffusers' name is a mistake of theirs: it has always been the number of heads, not their width.
    heads = config.get("attention_head_dim", 8)
    return {
        "channels": channels,
        "blocks": single["layers_per_block"],
        "attention_levels": tuple(level for level, kind in enumerate(types) if kind == DOWN_BLOCKS[True]),
        "heads": (heads,) * len(channels) if isinstance(heads, int) else tuple(heads),
        "groups": config.get("norm_num_groups", GROUPS),
        "context_width": single["cross_attention_dim"],
    }


def unet_arguments_of_config(config: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Constructor arguments of SDUNet from a config.json of diffusers; see `encoder_arguments_of_config`."""
    check_fixed(config, UNET_FIXED, source)
    arguments = encoder_arguments_of_config(config, source)
    up = [UP_BLOCKS[level in arguments["attention_levels"]] for level in range(len(arguments["channels"]))][::-1]
    inputs, outputs = config.get("in_channels", 4), config.get("out_channels", 4)
    check_fixed(
        {"up_block_types": list(config.get("up_block_types", up)), "in_channels": inputs},
        {"up_block_types": up, "in_channels": outputs},
        source,
    )
    return {**arguments, "out_channels": outputs}


def encoder_config(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of `encoder_arguments_of_config`."""
    levels = range(len(arguments["channels"]))
    return {
        "attention_head_dim": list(arguments["heads"]),
        "block_out_channels": list(arguments["channels"]),
        "cross_attention_dim": arguments["context_width"],
        "down_block_types": [DOWN_BLOCKS[level in arguments["attention_levels"]] for level in levels],
        "layers_per_block": arguments["blocks"],
        "norm_num_groups": arguments["groups"],
        "use_linear_projection": True,
    }


def unet_config(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of `unet_arguments_of_config`: config.json with which diffusers builds the same network."""
    levels = reversed(range(len(arguments["channels"])))
    return {
        "_class_name": CLASS,
        **UNET_FIXED,
        **encoder_config(arguments),
        "in_channels": arguments["out_channels"],
        "out_channels": arguments["out_channels"],
        "sample_size": 64,  # the default side of images in diffusers' pipelines
        "up_block_types": [UP_BLOCKS[level in arguments["attention_levels"]] for level in levels],
    }


def encoder_description(arguments: Mapping[str, Any], name: str) -> str:
    """Which network of the family it is, in a few words."""
    widths = ", ".join(map(str, arguments["channels"]))
    return f"{name} (widths {widths}, text of width {arguments['context_width']})"


SD_UNET = WeightMap(
    name="sd_unet",
    rules=(
        *ENCODER_RULES,
        *_block("up_blocks.{l}.resnets.{i}", "up_{l}_block_{i}"),
        *_transformer("up_blocks.{l}.attentions.{i}", "up_{l}_attention_{i}"),
        Rule("up_blocks.{l}.upsamplers.0.conv", "up_{l}_upsample"),
        Rule("conv_norm_out", "norm_out", NORM),
        Rule("conv_out", "conv_out"),
    ),
    arguments=unet_arguments,
    folder="unet",
    assumed=lambda state, arguments: ("heads", "groups"),
    settle=settle_heads,
    read_config=unet_arguments_of_config,
    config_class=CLASS,
    make_config=unet_config,
    group="denoiser",
    describe=lambda arguments: encoder_description(arguments, "Stable Diffusion 2's U-Net"),
)
"""unet/ of stable-diffusion-2, 2-base, 2-1 and 2-1-base, and of the methods that adapt them."""
