"""Stability's own layout of Stable Diffusion, in which one file holds transformer, autoencoder and text encoders.

`sd3_medium.safetensors`, `sd3.5_medium.safetensors`, `sd3.5_large.safetensors` and the checkpoints of Stable Diffusion
1 and 2 are such files. A layout renames the tensors of one part to those of Diffusers, which the weight maps know.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from framer_jax.porting.maps import StateDict, count_of


class Layout(NamedTuple):
    """The layout of one part of such a file.

    Attributes:
      title: its name in notes.
      names: regex of a key → its name in Diffusers, or three names, into which the tensor is split (queries, keys and
        values).
      finish: (renamed tensors) → tensors as in Diffusers.
    """

    title: str
    names: Mapping[str, str | tuple[str, str, str]]
    finish: Callable[[StateDict], StateDict]

    def key_test(self) -> Callable[[str], bool]:
        """(key, without any prefix) → whether it is of this layout."""
        pattern = re.compile("|".join(self.names))
        return lambda key: pattern.fullmatch(key) is not None

    def renamed(self, key: str) -> list[str]:
        """The names of a tensor in Diffusers; [] if the key is not of this layout."""
        for pattern, target in self.names.items():
            if match := re.fullmatch(pattern, key):
                return [match.expand(name) for name in ((target,) if isinstance(target, str) else target)]
        return []

    def to_diffusers(self, state: StateDict, source: str) -> StateDict:
        """The tensors in the layout of Diffusers; keys that this layout does not know stay as they are.

        Raises:
          ValueError: a tensor cannot be split into three, or two tensors have one name; the message names `source`.
        """
        tensors: StateDict = {}
        for key, value in state.items():
            names = self.renamed(key) or [key]
            if value.ndim == 0 or value.shape[0] % len(names):
                raise ValueError(f"{source}: {key!r} of shape {value.shape} is not {len(names)} matrices")
            if repeated := tensors.keys() & set(names):
                raise ValueError(f"{source}: two tensors for {min(repeated)!r}, one of them {key!r}")
            tensors |= dict(zip(names, np.split(value, len(names)), strict=True))
        return self.finish(tensors)


def _swap_last_modulations(state: StateDict) -> StateDict:
    """Stability's modulations without a gate hold shift and scale, those of Diffusers scale and shift."""
    last = count_of(state, "transformer_blocks.{}.attn.to_q.weight") - 1
    layers = ("norm_out.linear", f"transformer_blocks.{last}.norm1_context.linear")
    swapped = {f"{layer}.{tensor}" for layer in layers for tensor in ("weight", "bias")}
    return {
        key: np.roll(value, value.shape[0] // 2, axis=0) if key in swapped else value for key, value in state.items()
    }


def _reverse_levels(state: StateDict) -> StateDict:
    """Diffusers numbers the decoder's levels from the coarsest on, and its attention multiplies by matrices."""
    pattern = re.compile(r"decoder\.up_blocks\.(\d+)\.(.+)")
    levels = max((int(match[1]) for key in state if (match := pattern.fullmatch(key))), default=0)
    tensors = {}
    for key, value in state.items():
        if match := pattern.fullmatch(key):
            key = f"decoder.up_blocks.{levels - int(match[1])}.{match[2]}"
        is_kernel = ".attentions." in key and value.ndim == 4 and value.shape[2:] == (1, 1)
        tensors[key] = value[:, :, 0, 0] if is_kernel else value
    return tensors


_TENSOR = r"(weight|bias)"


def _attention(block: str, attention: str, names: Mapping[str, str]) -> dict[str, str | tuple[str, str, str]]:
    """Rules of one attention layer; `names` are those of its layers in Diffusers: q, k, v, out, norm_q and norm_k."""
    theirs, ours = rf"joint_blocks\.(\d+)\.{block}\.{attention}", rf"transformer_blocks.\1.{attention}"
    query, key, value = (rf"{ours}.{names[letter]}.\2" for letter in "qkv")
    return {
        rf"{theirs}\.qkv\.{_TENSOR}": (query, key, value),
        rf"{theirs}\.proj\.{_TENSOR}": rf"{ours}.{names['out']}.\2",
        rf"{theirs}\.ln_q\.{_TENSOR}": rf"{ours}.{names['norm_q']}.\2",
        rf"{theirs}\.ln_k\.{_TENSOR}": rf"{ours}.{names['norm_k']}.\2",
    }


_IMAGE = {"q": "to_q", "k": "to_k", "v": "to_v", "out": "to_out.0", "norm_q": "norm_q", "norm_k": "norm_k"}
_TEXT = {
    **{letter: f"add_{letter}_proj" for letter in "qkv"},
    "out": "to_add_out",
    "norm_q": "norm_added_q",
    "norm_k": "norm_added_k",
}
_BLOCK = r"joint_blocks\.(\d+)\."

TRANSFORMER = Layout(
    "Stability's layout of the transformer",
    {
        r"pos_embed": "pos_embed.pos_embed",
        rf"x_embedder\.proj\.{_TENSOR}": r"pos_embed.proj.\1",
        rf"t_embedder\.mlp\.0\.{_TENSOR}": r"time_text_embed.timestep_embedder.linear_1.\1",
        rf"t_embedder\.mlp\.2\.{_TENSOR}": r"time_text_embed.timestep_embedder.linear_2.\1",
        rf"y_embedder\.mlp\.0\.{_TENSOR}": r"time_text_embed.text_embedder.linear_1.\1",
        rf"y_embedder\.mlp\.2\.{_TENSOR}": r"time_text_embed.text_embedder.linear_2.\1",
        rf"context_embedder\.{_TENSOR}": r"context_embedder.\1",
        **_attention("x_block", "attn", _IMAGE),
        **_attention("x_block", "attn2", _IMAGE),
        **_attention("context_block", "attn", _TEXT),
        **{
            rf"{_BLOCK}{block}\.{theirs}\.{_TENSOR}": rf"transformer_blocks.\1.{ours}.\2"
            for block, names in {
                "x_block": {"adaLN_modulation.1": "norm1.linear", "mlp.fc1": "ff.net.0.proj", "mlp.fc2": "ff.net.2"},
                "context_block": {
                    "adaLN_modulation.1": "norm1_context.linear",
                    "mlp.fc1": "ff_context.net.0.proj",
                    "mlp.fc2": "ff_context.net.2",
                },
            }.items()
            for theirs, ours in ((re.escape(name), target) for name, target in names.items())
        },
        rf"final_layer\.linear\.{_TENSOR}": r"proj_out.\1",
        rf"final_layer\.adaLN_modulation\.1\.{_TENSOR}": r"norm_out.linear.\1",
    },
    _swap_last_modulations,
)
"""`model.diffusion_model.*` of Stable Diffusion 3 and 3.5."""


def _residual_block(theirs: str, ours: str, last: int) -> dict[str, str | tuple[str, str, str]]:
    """Rules of one residual block; `last` is the number of groups in `theirs`."""
    layers = {name: name for name in ("norm1", "conv1", "norm2", "conv2")} | {"nin_shortcut": "conv_shortcut"}
    return {rf"{theirs}\.{name}\.{_TENSOR}": rf"{ours}.{target}.\{last + 1}" for name, target in layers.items()}


AUTOENCODER = Layout(
    "Stability's layout of the autoencoder",
    {
        rf"((?:encoder|decoder)\.conv_(?:in|out)|(?:post_)?quant_conv)\.{_TENSOR}": r"\1.\2",
        rf"(encoder|decoder)\.norm_out\.{_TENSOR}": r"\1.conv_norm_out.\2",
        **_residual_block(r"encoder\.down\.(\d+)\.block\.(\d+)", r"encoder.down_blocks.\1.resnets.\2", 2),
        **_residual_block(r"decoder\.up\.(\d+)\.block\.(\d+)", r"decoder.up_blocks.\1.resnets.\2", 2),
        **_residual_block(r"(encoder|decoder)\.mid\.block_1", r"\1.mid_block.resnets.0", 1),
        **_residual_block(r"(encoder|decoder)\.mid\.block_2", r"\1.mid_block.resnets.1", 1),
        rf"encoder\.down\.(\d+)\.downsample\.conv\.{_TENSOR}": r"encoder.down_blocks.\1.downsamplers.0.conv.\2",
        rf"decoder\.up\.(\d+)\.upsample\.conv\.{_TENSOR}": r"decoder.up_blocks.\1.upsamplers.0.conv.\2",
        **{
            rf"(encoder|decoder)\.mid\.attn_1\.{theirs}\.{_TENSOR}": rf"\1.mid_block.attentions.0.{ours}.\2"
            for theirs, ours in {
                "norm": "group_norm",
                **{letter: f"to_{letter}" for letter in "qkv"},
                "proj_out": "to_out.0",
            }.items()
        },
    },
    _reverse_levels,
)
"""`first_stage_model.*` of Stable Diffusion, and autoencoders published alone."""
