"""Checkpoints of ResShift and SinSR: the Swin U-Net and the autoencoder VQ-f4."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from itertools import count
from typing import Any

import numpy as np

from framer_jax.porting.maps import NORM, TENSOR, Rule, StateDict, WeightMap, count_of
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
    Rule("out.0", "norm_out", NORM),
    Rule("out.2", "conv_out"),
)

RELEASED = {"variant": "released", "contrast": 0.0}
"""Arguments of SwinUNet for which the original code has only this value."""


def unet_arguments(state: StateDict) -> dict[str, Any]:
    """Constructor arguments of framer_jax.models.resshift_unet.SwinUNet.

    The nominal side of the latents follows from the size of a registered mask; without one, the coarsest level is
    assumed to be a single window, as in all published models.
    """
    levels = _levels(state)
    channels = state["input_blocks.0.0.weight"].shape[0]
    widths: dict[int, list[int]] = {}
    for block, level in levels.items():
        if block.startswith("input_blocks") and f"{block}.0.in_layers.2.weight" in state:
            widths.setdefault(level, []).append(state[f"{block}.0.in_layers.2.weight"].shape[0])
    swin = "input_blocks.1.1"
    swin_channels = state[f"{swin}.patch_embed.proj.weight"].shape[0]
    window, heads = window_and_heads(state, f"{swin}.blocks.0")
    image_size = window << max(levels.values())
    if (mask := state.get(f"{swin}.blocks.1.{MASK}")) is not None:
        image_size = window * math.isqrt(mask.shape[0])
    downsamplings = sum(bool(re.fullmatch(r"feature_extractor\.\d+\.op\.weight", key)) for key in state)
    return {
        "out_channels": state["out.2.weight"].shape[0],
        "channels": channels,
        "multipliers": tuple(widths[level][0] // channels for level in sorted(widths)),
        "blocks": tuple(len(widths[level]) for level in sorted(widths)),
        "swin_channels": swin_channels,
        "swin_blocks": count_of(state, f"{swin}.blocks.{{}}.attn.qkv.weight"),
        "head_channels": swin_channels // heads,
        "window": window,
        "mlp_ratio": state[f"{swin}.blocks.0.mlp.fc1.weight"].shape[0] // swin_channels,
        "image_size": image_size,
        "condition_size": image_size << downsamplings,
        **RELEASED,
    }


def unet_buffers(state: StateDict, arguments: Mapping[str, Any]) -> StateDict:
    """The index tables and masks that the original registers and requires in its checkpoint."""
    window, size = arguments["window"], arguments["image_size"]
    levels, buffers = _levels(state), {}
    for key in state:
        if match := re.fullmatch(rf"(.+)\.blocks\.(\d+)\.{re.escape(BIAS_TABLE)}", key):
            block = key.removesuffix(f".{BIAS_TABLE}")
            buffers[f"{block}.{INDEX}"] = relative_position_index(window)
            side = size >> levels[match[1].removesuffix(".1")]
            if int(match[2]) % 2 and side > window:
                buffers[f"{block}.{MASK}"] = registered_mask(side // window, window)
    return buffers


def registered_mask(windows: int, window: int) -> np.ndarray:
    """The mask [windows², window², window²] float32 that the released code registers and does not use."""
    wrapped = np.tile(np.arange(window) >= window - window // 2, window)  # [N], by token column
    mask = np.zeros((windows, windows, window**2, window**2), np.float32)
    mask[-1] = np.where(wrapped[:, None] != wrapped[None, :], np.float32(-100), np.float32(0))
    return mask.reshape(windows**2, window**2, window**2)


def _levels(state: StateDict) -> dict[str, int]:
    """Name of a block ('input_blocks.4', 'middle_block', 'output_blocks.0') → its level, 0 for the finest."""
    levels, level = {}, 0
    for index in count(1):
        name = f"input_blocks.{index}"
        if f"{name}.0.op.weight" in state:
            level += 1
        elif f"{name}.0.in_layers.2.weight" not in state:
            break
        levels[name] = level
    levels["middle_block"] = level
    for index in count(0):
        name = f"output_blocks.{index}"
        if f"{name}.0.in_layers.2.weight" not in state:
            break
        levels[name] = level
        level -= f"{name}.1.conv.weight" in state
    return levels


RESSHIFT_UNET = WeightMap(
    name="resshift_unet",
    rules=UNET_RULES,
    arguments=unet_arguments,
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
    levels = count_of(state, "encoder.down.{}.block.0.conv1.weight")
    codes, latent_channels = state["quantize.embedding.weight"].shape
    return {
        "channels": channels,
        "multipliers": tuple(
            state[f"encoder.down.{level}.block.0.conv1.weight"].shape[0] // channels for level in range(levels)
        ),
        "blocks": count_of(state, "encoder.down.0.block.{}.conv1.weight"),
        "attention_levels": tuple(level for level in range(levels) if f"encoder.down.{level}.attn.0.q.weight" in state),
        "latent_channels": latent_channels,
        "codes": codes,
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
