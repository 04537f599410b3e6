"""Checkpoints of SupResDiffGAN: its generator, in diffusers' names of `UNet2DModel`, and its discriminator."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from framer_jax.porting.maps import NORM, TENSOR, Rule, StateDict, WeightMap, count_of

HEAD_WIDTH = 32
"""Channels of a head of the generator's attention in the release, which no tensor shows."""


def _block(torch: str, flax: str) -> tuple[Rule, ...]:
    """A residual block that takes the time."""
    return (
        Rule(f"{torch}.norm1", f"{flax}/norm_0", NORM),
        Rule(f"{torch}.conv1", f"{flax}/conv_0"),
        Rule(f"{torch}.time_emb_proj", f"{flax}/film"),
        Rule(f"{torch}.norm2", f"{flax}/norm_1", NORM),
        Rule(f"{torch}.conv2", f"{flax}/conv_1"),
        Rule(f"{torch}.conv_shortcut", f"{flax}/skip"),
    )


def _unet_arguments(state: StateDict) -> dict[str, Any]:
    """Constructor arguments of framer_jax.models.supresdiffgan_unet.SupResDiffGanUNet.

    There are assumed to be 32 groups and heads of 32 channels, or the most of which all widths are multiples.

    Raises:
      KeyError: a layer is missing.
      ValueError: x and the LR latent have different numbers of channels.
    """
    levels = count_of(state, "down_blocks.{}.resnets.0.conv1.weight")
    channels = tuple(state[f"down_blocks.{level}.resnets.0.conv1.weight"].shape[0] for level in range(levels))
    inputs, outputs = state["conv_in.weight"].shape[1], state["conv_out.weight"].shape[0]
    if inputs != 2 * outputs:
        raise ValueError(f"{inputs} channels enter and {outputs} leave, not half as many")
    return {
        "out_channels": outputs,
        "channels": channels,
        "blocks": count_of(state, "down_blocks.0.resnets.{}.conv1.weight"),
        "head_width": math.gcd(HEAD_WIDTH, channels[-1]),
        "groups": math.gcd(32, *channels),
    }


SUPRESDIFFGAN_UNET = WeightMap(
    name="supresdiffgan_unet",
    rules=(
        Rule("conv_in", "conv_in"),
        Rule("time_embedding.linear_1", "time/dense_0"),
        Rule("time_embedding.linear_2", "time/dense_1"),
        *_block("down_blocks.{l}.resnets.{i}", "down_{l}_block_{i}"),
        *_block("down_blocks.{l}.downsamplers.0", "down_{l}_to_coarse"),
        *_block("mid_block.resnets.{i}", "middle_block_{i}"),
        Rule("mid_block.attentions.0.group_norm", "middle_attention/norm", NORM),
        Rule("mid_block.attentions.0.to_q", "middle_attention/query"),
        Rule("mid_block.attentions.0.to_k", "middle_attention/key"),
        Rule("mid_block.attentions.0.to_v", "middle_attention/value"),
        Rule("mid_block.attentions.0.to_out.0", "middle_attention/project"),
        *_block("up_blocks.{l}.resnets.{i}", "up_{l}_block_{i}"),
        *_block("up_blocks.{l}.upsamplers.0", "up_{l}_to_fine"),
        Rule("conv_norm_out", "norm_out", NORM),
        Rule("conv_out", "conv_out"),
    ),
    arguments=_unet_arguments,
    group="denoiser",
    assumed=lambda state, arguments: ("head_width", "groups"),
    describe=lambda arguments: f"SupResDiffGAN's generator ({'-'.join(map(str, arguments['channels']))} channels)",
)
"""framer_jax.models.supresdiffgan_unet.SupResDiffGanUNet."""

COUNTER = "blocks.{i}.bn.num_batches_tracked"
"""PyTorch's count of a BatchNorm's training steps, which nothing computes with."""


def _discriminator_arguments(state: StateDict) -> dict[str, Any]:
    """Constructor arguments of framer_jax.models.pair_discriminator.PairDiscriminator.

    Raises:
      KeyError: a layer is missing.
      ValueError: two images cannot be what enters, or a level does not have its two blocks.
    """
    first, inputs = state["conv1.weight"].shape[:2]
    widths = [first] + [state[f"blocks.{i}.conv.weight"].shape[0] for i in range(_block_count(state))]
    if inputs % 2 or len(widths) % 2 or widths[::2] != widths[1::2]:
        raise ValueError(f"{inputs} channels enter, and the convolutions have {widths}: not two of a width")
    return {"image_channels": inputs // 2, "channels": tuple(widths[::2])}


def _block_count(state: StateDict) -> int:
    return count_of(state, "blocks.{}.conv.weight")


def _counters(state: StateDict, arguments: Mapping[str, Any]) -> StateDict:
    """PyTorch's counts, which its BatchNorm loads."""
    return {COUNTER.format(i=i): np.zeros((), np.int64) for i in range(_block_count(state))}


PAIR_DISCRIMINATOR = WeightMap(
    name="pair_discriminator",
    rules=(
        Rule("conv1", "network/conv_in"),
        Rule("blocks.{i}.conv", "network/block_{i}/conv"),
        Rule("blocks.{i}.bn", "network/block_{i}/norm", NORM),
        Rule("blocks.{i}.bn.running_mean", "statistics/block_{i}/norm/mean", TENSOR),
        Rule("blocks.{i}.bn.running_var", "statistics/block_{i}/norm/variance", TENSOR),
        Rule("classifier.1", "network/hidden"),
        Rule("classifier.3", "network/out"),
    ),
    arguments=_discriminator_arguments,
    dropped=(COUNTER,),
    buffers=_counters,
    describe=lambda arguments: f"SupResDiffGAN's discriminator ({'-'.join(map(str, arguments['channels']))} channels)",
)
"""framer_jax.models.pair_discriminator.StoredPairDiscriminator: the parameters, and the moving statistics."""
