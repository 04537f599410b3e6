"""Checkpoints of ResShift and SinSR: the Swin U-Net and the autoencoder VQ-f4."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from framer_jax.porting.maps import NORM, TENSOR, Rule, StateDict, WeightMap, count_of, multiples_of, ratio_of
from framer_jax.porting.swin import BIAS_TABLE, INDEX, MASK, block_rules, relative_position_index, window_and_heads


def _block(torch: str, flax: str) -> tuple[Rule, ...]:
    """A residual block of the U-Net."""
    return (
        Rule(f"{torch}.in_layers.0", f"{flax}/norm_0", NORM),
        Rule(f"{torch}.in_layers.2", f"{flax}/conv_0"),
        Rule(f"{torch}.emb_layers.1", f"{flax}/film"),
        Rule(f"{torch}.out_layers.0", f"{flax}/norm_1", NORM),
        Rule(f"{torch}.out_layers.3", f"{flax}/conv_1"),
        Rule(f"{torch}.skip_connection", f"{flax}/skip"),
    )


def _swin(torch: str, flax: str) -> tuple[Rule, ...]:
    """A Swin layer of the U-Net."""
    return (
        Rule(f"{torch}.patch_embed.proj", f"{flax}/conv_in"),
        Rule(f"{torch}.patch_unembed.proj", f"{flax}/conv_out"),
        *block_rules(f"{torch}.blocks.{{b}}", f"{flax}/block_{{b}}"),
    )


UNET_RULES = (
    Rule("time_embed.0", "time/dense_0"),
    Rule("time_embed.2", "time/dense_1"),
    Rule("feature_extractor.{n}", "condition/conv_{n}"),
    Rule("feature_extractor.{n}.op", "condition/to_coarse_{n}"),
    Rule("input_blocks.0.0", "conv_in"),
    *_block("input_blocks.{n}.0", "down_{n}_block"),
    *_swin("input_blocks.{n}.1", "down_{n}_swin"),
    Rule("input_blocks.{n}.0.op", "down_{n}_to_coarse"),
    *_block("middle_block.{n}", "middle_{n}"),
    *_swin("middle_block.{n}", "middle_{n}"),
    *_block("output_blocks.{n}.0", "up_{n}_block"),
    *_swin("output_blocks.{n}.1", "up_{n}_swin"),
    Rule("output_blocks.{n}.1.conv", "up_{n}_to_fine"),
    *_block("output_blocks.{n}.1", "up_{n}_to_fine"),
    Rule("out.0", "norm_out", NORM),
    Rule("out.2", "conv_out"),
)

MIDDLE_SWIN = "middle_block.1"

RELEASED = {"variant": "released", "contrast": 0.0}
"""Arguments of SwinUNet for which the original code has only this value."""


def unet_arguments(state: StateDict) -> dict[str, Any]:
    """Constructor arguments of framer_jax.models.resshift_unet.SwinUNet.

    The nominal side of the latents follows from the size of a registered mask; without constants, the coarsest level is
    assumed to be a single window, as in all published models.

    Raises:
      KeyError: a layer is missing.
      ValueError: the widths of the levels are no multiples of the first one, or their windows differ.
    """
    resampling, blocks = _structure(state)
    channels = state["input_blocks.0.0.weight"].shape[0]
    firsts = [f"input_blocks.{number}" for number in _first_blocks(blocks)]
    widths = [state[f"{first}.0.in_layers.2.weight"].shape[0] for first in firsts]
    swin_levels = tuple(level for level, first in enumerate(firsts) if f"{first}.1.patch_embed.proj.weight" in state)
    swin = f"{firsts[swin_levels[0]]}.1" if swin_levels else MIDDLE_SWIN
    swin_channels = state[f"{swin}.patch_embed.proj.weight"].shape[0]
    window, heads = window_and_heads(state, f"{swin}.blocks.0")
    if (coarsest := window_and_heads(state, f"{MIDDLE_SWIN}.blocks.0")[0]) != window:
        raise ValueError(
            f"windows have side {window} and, where the nominal side is smaller, {coarsest}: only equal "
            "ones are supported"
        )
    out_channels = state["out.2.weight"].shape[0]
    downsamplings = sum(bool(re.fullmatch(r"feature_extractor\.\d+\.op\.weight", key)) for key in state)
    condition = (
        state["feature_extractor.0.weight"].shape[1]
        if downsamplings
        else (state["input_blocks.0.0.weight"].shape[1] - out_channels)
    )
    image_size = _image_size(state, window, len(blocks))
    return {
        "out_channels": out_channels,
        "channels": channels,
        "multipliers": multiples_of(widths, channels, "the widths of the levels"),
        "blocks": blocks,
        "swin_channels": swin_channels,
        "swin_blocks": count_of(state, f"{swin}.blocks.{{}}.attn.qkv.weight"),
        "swin_levels": None if len(swin_levels) == len(blocks) else swin_levels,
        "head_channels": swin_channels // heads,
        "window": window,
        "mlp_ratio": ratio_of(state[f"{swin}.blocks.0.mlp.fc1.weight"].shape[0], swin_channels),
        "time": _time(state, firsts[0], widths[0]),
        "resampling": resampling,
        "image_size": image_size,
        "condition_size": image_size << downsamplings,
        "condition_channels": condition,
        **RELEASED,
    }


def _time(state: StateDict, block: str, width: int) -> str:
    """How the time enters, from the number of values that a block makes of it."""
    return "add" if state[f"{block}.0.emb_layers.1.weight"].shape[0] == width else "scale_shift"


def _image_size(state: StateDict, window: int, levels: int) -> int:
    masks = {key: value for key, value in state.items() if key.endswith(MASK)}
    blocks = _levels(state)
    for key, mask in masks.items():
        return window * math.isqrt(mask.shape[0]) << blocks[_block_of(key)]
    if _has_constants(state):  # constants without a mask: a single window, which is not shifted
        return window
    return window << levels - 1


def _has_constants(state: StateDict) -> bool:
    return any(key.endswith(f".blocks.1.{INDEX}") for key in state)


def _block_of(key: str) -> str:
    """Name in `_levels` of the block that a tensor belongs to."""
    middle = key.startswith("middle_block")
    return "middle_block" if middle else ".".join(key.split(".")[:2])


def unet_assumed(state: StateDict, arguments: Mapping[str, Any]) -> tuple[str, ...]:
    """The nominal side, where no constants show it."""
    shown = _has_constants(state) or any(key.endswith(MASK) for key in state)
    return () if shown or arguments["swin_blocks"] == 1 else ("image_size",)


def unet_settle(arguments: Mapping[str, Any], stated: Mapping[str, Any], state: StateDict) -> dict[str, Any]:
    """The side of the condition image follows from that of the latents."""
    settled = {**arguments, **stated}
    downsampling = arguments["condition_size"] // arguments["image_size"]
    return settled | {"condition_size": settled["image_size"] * downsampling}


def unet_buffers(state: StateDict, arguments: Mapping[str, Any]) -> StateDict:
    """The index tables and masks that the original registers and requires in its checkpoint."""
    window, size = arguments["window"], arguments["image_size"]
    levels, buffers = _levels(state), {}
    for key in state:
        if match := re.fullmatch(rf"(.+)\.blocks\.(\d+)\.{re.escape(BIAS_TABLE)}", key):
            block = key.removesuffix(f".{BIAS_TABLE}")
            buffers[f"{block}.{INDEX}"] = relative_position_index(window)
            side = size >> levels[_block_of(key)]
            if int(match[2]) % 2 and side > window:
                buffers[f"{block}.{MASK}"] = registered_mask(side // window, window)
    return buffers


def registered_mask(windows: int, window: int) -> np.ndarray:
    """The mask [windows², window², window²] float32 that the released code registers and does not use."""
    wrapped = np.tile(np.arange(window) >= window - window // 2, window)  # [N], by token column
    mask = np.zeros((windows, windows, window**2, window**2), np.float32)
    mask[-1] = np.where(wrapped[:, None] != wrapped[None, :], np.float32(-100), np.float32(0))
    return mask.reshape(windows**2, window**2, window**2)


def _structure(state: StateDict) -> tuple[str, tuple[int, ...]]:
    """(how the map is resampled between levels, residual blocks of each level on the way down)."""
    inputs, outputs = (_numbers(state, side) for side in ("input_blocks", "output_blocks"))
    if not inputs or not outputs:
        raise KeyError("input_blocks.1.0.in_layers.2.weight")

    def with_layer(numbers: range, layer: str) -> list[int]:
        return [number for number in numbers if layer.format(number) in state]

    if ends := with_layer(outputs, "output_blocks.{}.1.in_layers.2.weight"):
        # A level of the way up has one block more than on the way down, and its last one resamples.
        counts = np.diff([-1, *ends, outputs[-1]])[::-1] - 1
        return "block", tuple(map(int, counts))
    blocks = with_layer(inputs, "input_blocks.{}.0.in_layers.2.weight")
    others = [number for number in inputs if number not in blocks]
    bounds = [0, *others, inputs[-1] + 1]
    plain = others and not with_layer(inputs, "input_blocks.{}.0.op.weight")
    return "plain" if plain else "conv", tuple(map(int, np.diff(bounds) - 1))


def _numbers(state: StateDict, side: str) -> range:
    """Numbers of the blocks of one side, 'input_blocks' (without the first convolution) or 'output_blocks'."""
    found = {int(match[1]) for key in state if (match := re.match(rf"{side}\.(\d+)\.0\.in_layers\.2\.", key))}
    return range(1 if side == "input_blocks" else 0, max(found, default=-1) + 1)


def _first_blocks(blocks: tuple[int, ...]) -> list[int]:
    """Numbers of each level's first block on the way down; every resampling has a number too."""
    return [1 + sum(blocks[:level]) + level for level in range(len(blocks))]


def _levels(state: StateDict) -> dict[str, int]:
    """Name of a block ('input_blocks.4', 'middle_block', 'output_blocks.0') → its level, 0 for the finest."""
    blocks = _structure(state)[1]
    levels, number = {"middle_block": len(blocks) - 1}, 1
    for level, count in enumerate(blocks):
        for _ in range(count + 1):  # its blocks, and the resampling to the next level
            levels[f"input_blocks.{number}"] = level
            number += 1
    number = 0
    for level, count in reversed(list(enumerate(blocks))):
        for _ in range(count + 1):
            levels[f"output_blocks.{number}"] = level
            number += 1
    return levels


RESSHIFT_UNET = WeightMap(
    name="resshift_unet",
    rules=UNET_RULES,
    arguments=unet_arguments,
    assumed=unet_assumed,
    settle=unet_settle,
    dropped=tuple(
        f"{layer}.blocks.{{b}}.{name}"
        for layer in ("input_blocks.{n}.1", "middle_block.{n}", "output_blocks.{n}.1")
        for name in (INDEX, MASK)
    ),
    buffers=unet_buffers,
    group="denoiser",
    fixed_arguments=RELEASED,
)
"""The denoiser of ResShift (v1, v2, v3 and derived models) and of SinSR, in any width."""


def _plain_block(torch: str, flax: str) -> tuple[Rule, ...]:
    """A residual block of the autoencoder."""
    return (
        Rule(f"{torch}.norm1", f"{flax}/norm_0", NORM),
        Rule(f"{torch}.conv1", f"{flax}/conv_0"),
        Rule(f"{torch}.norm2", f"{flax}/norm_1", NORM),
        Rule(f"{torch}.conv2", f"{flax}/conv_1"),
        Rule(f"{torch}.nin_shortcut", f"{flax}/skip"),
    )


def _attention(torch: str, flax: str) -> tuple[Rule, ...]:
    """An attention layer of the autoencoder."""
    return (
        Rule(f"{torch}.norm", f"{flax}/norm", NORM),
        Rule(f"{torch}.q", f"{flax}/query"),
        Rule(f"{torch}.k", f"{flax}/key"),
        Rule(f"{torch}.v", f"{flax}/value"),
        Rule(f"{torch}.proj_out", f"{flax}/project"),
    )


def _half(half: str, direction: str, resampler: str, flax: str) -> tuple[Rule, ...]:
    """The encoder ('encoder', 'down', 'downsample', 'to_coarse') or the decoder of the autoencoder."""
    return (
        Rule(f"{half}.conv_in", f"{half}/conv_in"),
        *_plain_block(f"{half}.{direction}.{{l}}.block.{{i}}", f"{half}/{direction}_{{l}}_block_{{i}}"),
        *_attention(f"{half}.{direction}.{{l}}.attn.{{i}}", f"{half}/{direction}_{{l}}_attention_{{i}}"),
        Rule(f"{half}.{direction}.{{l}}.{resampler}.conv", f"{half}/{direction}_{{l}}_{flax}"),
        *_plain_block(f"{half}.mid.block_{{i}}", f"{half}/middle/block_{{i}}"),
        *_attention(f"{half}.mid.attn_{{i}}", f"{half}/middle/attention_{{i}}"),
        Rule(f"{half}.norm_out", f"{half}/norm_out", NORM),
        Rule(f"{half}.conv_out", f"{half}/conv_out"),
    )


def autoencoder_arguments(state: StateDict) -> dict[str, Any]:
    """Constructor arguments of framer_jax.models.vq_autoencoder.VQAutoencoder."""
    channels = state["encoder.conv_in.weight"].shape[0]
    levels = range(count_of(state, "encoder.down.{}.block.0.conv1.weight"))
    codes, latent_channels = state["quantize.embedding.weight"].shape
    blocks = tuple(count_of(state, f"encoder.down.{level}.block.{{}}.conv1.weight") for level in levels)
    inner = state["encoder.conv_out.weight"].shape[0]
    return {
        "channels": channels,
        "multipliers": multiples_of(
            [state[f"encoder.down.{level}.block.0.conv1.weight"].shape[0] for level in levels],
            channels,
            "the widths of the levels",
        ),
        "blocks": blocks[0] if len(set(blocks)) == 1 else blocks,
        "attention_levels": tuple(level for level in levels if f"encoder.down.{level}.attn.0.q.weight" in state),
        "latent_channels": latent_channels,
        "codes": codes,
        "inner_channels": None if inner == latent_channels else inner,
    }


VQ_F4 = WeightMap(
    name="vq_f4",
    rules=(
        *_half("encoder", "down", "downsample", "to_coarse"),
        *_half("decoder", "up", "upsample", "to_fine"),
        Rule("quantize.embedding.weight", "codebook", TENSOR),
        Rule("quant_conv", "after_encoder"),
        Rule("post_quant_conv", "before_decoder"),
    ),
    arguments=autoencoder_arguments,
)
"""autoencoder_vq_f4.pth, and others of this architecture with any number of codes and levels."""
