"""Checkpoints of SwinIR in all published variants, which are recognised by the shapes of the tensors."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from framer_jax.porting.maps import NORM, TENSOR, Rule, StateDict, WeightMap, count_of, ratio_of
from framer_jax.porting.swin import (
    BIAS_TABLE,
    INDEX,
    MASK,
    block_rules,
    relative_position_index,
    textbook_mask,
    window_and_heads,
)

BLOCK = "layers.{g}.residual_group.blocks.{b}"

SHIFTED_BLOCK = re.compile(r"layers\.\d+\.residual_group\.blocks\.\d*[13579]")
"""Names of the blocks whose windows are shifted, every second one of a group; no other block has a mask."""

POSITIONS = "absolute_pos_embed"
"""The embedding of positions, [1, image_size², channels]."""

IMAGE_SIZE, IMAGE_SIZES = 64, {"none": 128}
"""Nominal side of the input of published models, and that of models with certain heads; used for files without the
constants that determine it."""

JPEG_WINDOW, JPEG_SIZE, JPEG_RANGE = 7, 126, 255.0
"""Models for JPEG artifacts: side of their windows, which no other model has (JPEG's blocks have a side of 8), nominal
side and range of their input; no shape determines the range."""

PUBLISHED = {
    "classical (SwinIR-M)": {"channels": 180, "depths": (6,) * 6, "head": "pixelshuffle"},
    "lightweight (SwinIR-S)": {"channels": 60, "depths": (6,) * 4, "head": "pixelshuffledirect"},
    "real-world M": {"channels": 180, "depths": (6,) * 6, "head": "nearest+conv"},
    "real-world L": {"channels": 240, "depths": (6,) * 9, "head": "nearest+conv", "residual": "3conv"},
    "small real-world": {"channels": 60, "depths": (6,) * 4, "head": "nearest+conv"},
    "gray denoising": {"channels": 180, "depths": (6,) * 6, "head": "none", "image_channels": 1, "window": 8},
    "color denoising": {"channels": 180, "depths": (6,) * 6, "head": "none", "image_channels": 3, "window": 8},
    "gray JPEG": {"channels": 180, "depths": (6,) * 6, "head": "none", "image_channels": 1, "window": JPEG_WINDOW},
    "color JPEG": {"channels": 180, "depths": (6,) * 6, "head": "none", "image_channels": 3, "window": JPEG_WINDOW},
}
"""Name of a variant → its arguments, except for the scale."""


def swinir_arguments(state: StateDict) -> dict[str, Any]:
    """Constructor arguments of framer_jax.models.swinir.SwinIR.

    The nominal side of the input follows from the size of a registered mask, or of the embedding of positions; without
    both it is assumed, and so is the range of the input, from the side of the windows (see `JPEG_WINDOW`).

    Raises:
      KeyError: a layer is missing.
      ValueError: the embedding of positions is no square.
    """
    channels, image_channels = state["conv_first.weight"].shape[:2]
    first = BLOCK.format(g=0, b=0)
    window, _ = window_and_heads(state, first)
    groups = count_of(state, f"layers.{{}}.residual_group.blocks.0.{BIAS_TABLE}")
    heads = tuple(window_and_heads(state, BLOCK.format(g=group, b=0))[1] for group in range(groups))
    head, scale = _head_and_scale(state, image_channels)
    return {
        "scale": scale,
        "head": head,
        "channels": channels,
        "depths": tuple(
            count_of(state, f"layers.{group}.residual_group.blocks.{{}}.{BIAS_TABLE}") for group in range(groups)
        ),
        "heads": heads[0],
        "group_heads": heads if len(set(heads)) > 1 else (),
        "window": window,
        "mlp_ratio": ratio_of(state[f"{first}.mlp.fc1.weight"].shape[0], channels),
        "qkv_bias": f"{first}.attn.qkv.bias" in state,
        "input_norm": "patch_embed.norm.weight" in state,
        "absolute_positions": POSITIONS in state,
        "residual": "3conv" if "conv_after_body.0.weight" in state else "1conv",
        "image_channels": image_channels,
        "value_range": JPEG_RANGE if window == JPEG_WINDOW else 1.0,
        "image_size": _image_size(state, window, head),
    }


def swinir_assumed(state: StateDict, arguments: Mapping[str, Any]) -> tuple[str, ...]:
    """The range of images, and the nominal side where neither constants nor an embedding of positions show it."""
    shown = POSITIONS in state or any(_constants(state, name) for name in (MASK, INDEX))
    matters = max(arguments["depths"]) > 1  # only second blocks shift their windows
    return ("value_range",) if shown or not matters else ("value_range", "image_size")


def _image_size(state: StateDict, window: int, head: str) -> int:
    if masks := _constants(state, MASK):
        return window * math.isqrt(masks[0].shape[0])
    if (table := state.get(POSITIONS)) is not None:
        side = math.isqrt(table.shape[1])
        if side * side != table.shape[1]:
            raise ValueError(f"{POSITIONS} has {table.shape[1]} positions, which make no square")
        return side
    if _constants(state, INDEX):  # constants without a mask: a single window, which is not shifted
        return window
    return JPEG_SIZE if window == JPEG_WINDOW else IMAGE_SIZES.get(head, IMAGE_SIZE)


def _constants(state: StateDict, name: str) -> list[Any]:
    """The constants of this name of all blocks with shifted windows; a group of one block has no such block."""
    suffix = f".{name}"
    return [
        value
        for key, value in state.items()
        if key.endswith(suffix) and SHIFTED_BLOCK.fullmatch(key.removesuffix(suffix))
    ]


def _head_and_scale(state: StateDict, image_channels: int) -> tuple[str, int]:
    if "conv_up1.weight" in state:
        return "nearest+conv", 4 if "conv_up2.weight" in state else 2
    if "conv_before_upsample.0.weight" in state and "upsample.0.weight" not in state:
        return "pixelshuffle", 1
    if "upsample.0.weight" not in state:
        return "none", 1
    if "conv_last.weight" not in state:
        return "pixelshuffledirect", math.isqrt(state["upsample.0.weight"].shape[0] // image_channels)
    steps = [value.shape for key, value in state.items() if re.fullmatch(r"upsample\.\d+\.weight", key)]
    return "pixelshuffle", math.prod(math.isqrt(shape[0] // shape[1]) for shape in steps)


def swinir_buffers(state: StateDict, arguments: Mapping[str, Any]) -> StateDict:
    """The index tables and masks that the original registers and requires in its checkpoint."""
    window, size = arguments["window"], arguments["image_size"]
    index, mask = relative_position_index(window), textbook_mask(size // window, window)
    buffers = {}
    for key in state:
        if match := re.fullmatch(rf"(.+\.blocks\.(\d+))\.{re.escape(BIAS_TABLE)}", key):
            buffers[f"{match[1]}.{INDEX}"] = index
            if int(match[2]) % 2 and size > window:
                buffers[f"{match[1]}.{MASK}"] = mask
    return buffers


def swinir_variant(arguments: Mapping[str, Any]) -> str:
    """'SwinIR real-world M, x4 (…)' for a published variant, 'SwinIR, x4 (…)' for others."""
    names = [
        f" {name}"
        for name, facts in PUBLISHED.items()
        if all(arguments[key] == value for key, value in ({"residual": "1conv"} | facts).items())
    ]
    depths = "+".join(map(str, arguments["depths"]))
    heads = "+".join(map(str, arguments.get("group_heads") or (arguments["heads"],)))
    return (
        f"SwinIR{names[0] if names else ''}, x{arguments['scale']} (head {arguments['head']}, {arguments['channels']} "
        f"channels, {depths} blocks, {heads} heads, window {arguments['window']}, {arguments['residual']})"
    )


SWINIR = WeightMap(
    name="swinir",
    rules=(
        Rule("conv_first", "conv_in"),
        Rule("patch_embed.norm", "norm_in", NORM),
        Rule(POSITIONS, "positions", TENSOR),
        *block_rules(BLOCK, "group_{g}/block_{b}"),
        Rule("layers.{g}.conv", "group_{g}/conv"),
        Rule("layers.{g}.conv.{n}", "group_{g}/conv_{n}"),
        Rule("norm", "norm_out", NORM),
        Rule("conv_after_body", "conv_body"),
        Rule("conv_after_body.{n}", "conv_body_{n}"),
        Rule("conv_before_upsample.0", "head/features"),
        Rule("upsample.{n}", "head/shuffle_{n}"),
        Rule("conv_up{n}", "head/up_{n}"),
        Rule("conv_hr", "head/fine"),
        Rule("conv_last", "head/conv_out"),
    ),
    arguments=swinir_arguments,
    assumed=swinir_assumed,
    dropped=(f"{BLOCK}.{INDEX}", f"{BLOCK}.{MASK}"),
    buffers=swinir_buffers,
    group="student",
    describe=swinir_variant,
)
"""001_classicalSR … 006_colorCAR of the SwinIR repository, KAIR's models, and others of any width and depth."""
