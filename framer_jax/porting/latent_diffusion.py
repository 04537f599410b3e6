"""The layout of latent diffusion's own code: `model.diffusion_model.*` of Stable Diffusion 2's single files.

Their blocks are numbered along the whole way down, and along the whole way up; those of Diffusers within each level.
ControlNets in the layout of their authors (`control_model.*`) have the same names.
"""

from __future__ import annotations

import re

from framer_jax.porting.maps import StateDict
from framer_jax.porting.stability import Layout

_TENSOR = r"(weight|bias)"

_RESIDUAL = {
    "in_layers.0": "norm1",
    "in_layers.2": "conv1",
    "emb_layers.1": "time_emb_proj",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2",
    "skip_connection": "conv_shortcut",
}
"""Layers of a residual block → their names in Diffusers."""

_ATTENTION = (
    r"(norm|proj_in|proj_out|transformer_blocks\.\d+\.(?:norm\d|attn\d\.to_(?:[qkv]|out\.0)|ff\.net\.(?:0\.proj|2)))"
)
"""Layers of attention, which have the same names in Diffusers."""

Names = dict[str, str | tuple[str, str, str]]


def _residual(theirs: str, ours: str) -> Names:
    """Rules of residual blocks whose number is the only group of `theirs`."""
    return {rf"{theirs}\.{re.escape(layer)}\.{_TENSOR}": rf"{ours}.{target}.\2" for layer, target in _RESIDUAL.items()}


_ENCODER: Names = {
    rf"time_embed\.0\.{_TENSOR}": r"time_embedding.linear_1.\1",
    rf"time_embed\.2\.{_TENSOR}": r"time_embedding.linear_2.\1",
    rf"input_blocks\.0\.0\.{_TENSOR}": r"conv_in.\1",
    **_residual(r"input_blocks\.(\d+)\.0", r"input.\1.resnets"),
    rf"input_blocks\.(\d+)\.1\.{_ATTENTION}\.{_TENSOR}": r"input.\1.attentions.\2.\3",
    rf"input_blocks\.(\d+)\.0\.op\.{_TENSOR}": r"input.\1.downsamplers.conv.\2",
    **_residual(r"middle_block\.(0)", r"mid_block.resnets.0"),
    rf"middle_block\.1\.{_ATTENTION}\.{_TENSOR}": r"mid_block.attentions.0.\1.\2",
    **_residual(r"middle_block\.(2)", r"mid_block.resnets.1"),
}
"""Numbers along the way are kept as 'input.3', and become those of a level in `_number_by_level`."""


def _number_by_level(state: StateDict) -> StateDict:
    pattern = re.compile(r"(input|output)\.(\d+)\.(resnets|attentions|downsamplers|upsamplers)\.(.+)")
    matches = {key: match for key in state if (match := pattern.fullmatch(key))}
    # The first downsampling follows all residual blocks of the finest level; without any there is one level.
    downsamplings = [int(match[2]) for match in matches.values() if match[3] == "downsamplers"]
    per_level = min(downsamplings, default=1 + max((int(match[2]) for match in matches.values()), default=0))

    def renamed(key: str) -> str:
        if not (match := matches.get(key)):
            return key
        way, part = {"input": "down", "output": "up"}[match[1]], match[3]
        level, index = divmod(int(match[2]) - (way == "down"), per_level)
        return f"{way}_blocks.{level}.{part}.{0 if part.endswith('samplers') else index}.{match[4]}"

    return {renamed(key): value for key, value in state.items()}


def _number_hints(state: StateDict) -> StateDict:
    """The convolutions that see the image lie in one list there, with their activations in between."""
    pattern = re.compile(r"hint\.(\d+)\.(.+)")
    last = max((int(match[1]) for key in state if (match := pattern.fullmatch(key))), default=0)

    def renamed(key: str) -> str:
        if not (match := pattern.fullmatch(key)):
            return key
        number = int(match[1])
        layer = {0: "conv_in", last: "conv_out"}.get(number, f"blocks.{number // 2 - 1}")
        return f"controlnet_cond_embedding.{layer}.{match[2]}"

    return {renamed(key): value for key, value in _number_by_level(state).items()}


UNET = Layout(
    "latent diffusion's layout of the U-Net",
    {
        **_ENCODER,
        **_residual(r"output_blocks\.(\d+)\.0", r"output.\1.resnets"),
        rf"output_blocks\.(\d+)\.1\.{_ATTENTION}\.{_TENSOR}": r"output.\1.attentions.\2.\3",
        rf"output_blocks\.(\d+)\.[12]\.conv\.{_TENSOR}": r"output.\1.upsamplers.conv.\2",
        rf"out\.0\.{_TENSOR}": r"conv_norm_out.\1",
        rf"out\.2\.{_TENSOR}": r"conv_out.\1",
    },
    _number_by_level,
)
"""`model.diffusion_model.*` of Stable Diffusion 2."""

CONTROLNET = Layout(
    "latent diffusion's layout of the ControlNet",
    {
        **_ENCODER,
        rf"input_hint_block\.(\d+)\.{_TENSOR}": r"hint.\1.\2",
        rf"zero_convs\.(\d+)\.0\.{_TENSOR}": r"controlnet_down_blocks.\1.\2",
        rf"middle_block_out\.0\.{_TENSOR}": r"controlnet_mid_block.\1",
    },
    _number_hints,
)
"""`control_model.*` of the authors' ControlNets."""
