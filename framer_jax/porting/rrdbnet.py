"""Checkpoints of RRDBNet: Real-ESRGAN's and BasicSR's, and the older names of ESRGAN and BSRGAN."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from framer_jax.porting.maps import Rule, StateDict, WeightMap

BLOCK = re.compile(r"(?:body|RRDB_trunk|model\.1\.sub)\.(\d+)\.(?:rdb|RDB)1\.conv1(?:\.0)?\.weight")
"""First convolution of a block, in each of the three namings."""

FIRST, LAST = ("conv_first.weight", "model.0.weight"), ("conv_last.weight", "model.10.weight")
"""First and last convolution, in each naming."""

SECOND_UPSAMPLING = ("conv_up2.weight", "upconv2.weight", "model.10.weight")
"""A key that only networks with two upsampling convolutions have, in each naming."""


def rrdbnet_arguments(state: StateDict) -> dict[str, Any]:
    """Constructor arguments of framer_jax.models.rrdbnet.RRDBNet; the shapes determine them all.

    Raises:
      KeyError: a layer is missing.
      ValueError: the first and the last convolution do not belong to one network.
    """
    first, last = (_first_present(state, keys) for keys in (FIRST, LAST))
    channels, inputs = first.shape[:2]
    image_channels = last.shape[0]
    factor = math.isqrt(inputs // image_channels)
    if inputs != image_channels * factor**2 or factor not in (1, 2, 4):
        raise ValueError(f"{inputs} channels enter and {image_channels} leave")
    blocks = [match for key in state if (match := BLOCK.fullmatch(key))]
    if not blocks:
        raise KeyError("body.0.rdb1.conv1.weight")
    halved = not any(key in state for key in SECOND_UPSAMPLING)
    return {
        "scale": 2 if halved else 4 // factor,
        "variant": "bsrgan" if halved else "real_esrgan",
        "channels": channels,
        "blocks": len(blocks),
        "growth": state[blocks[0][0]].shape[0],
        "image_channels": image_channels,
    }


def _first_present(state: StateDict, keys: tuple[str, ...]) -> Any:
    for key in keys:
        if key in state:
            return state[key]
    raise KeyError(keys[0])


def rrdbnet_variant(arguments: Mapping[str, Any]) -> str:
    """'RRDBNet, x4, real_esrgan (64 channels, 23 blocks, growth 32)'."""
    return (
        f"RRDBNet, x{arguments['scale']}, {arguments['variant']} ({arguments['channels']} channels, "
        f"{arguments['blocks']} blocks, growth {arguments['growth']})"
    )


OLD_NAMES = {
    "conv_body": "trunk_conv",  # before the name that it contains
    "body.": "RRDB_trunk.",
    "rdb": "RDB",
    "conv_up1": "upconv1",
    "conv_hr": "HRconv",
}
"""Parts of BasicSR's names → those of BSRGAN."""


def original_key(key: str, arguments: Mapping[str, Any]) -> str:
    """A key in the names of the code that has such a network: BSRGAN's for factor 2 without pixel unshuffle."""
    if (arguments["variant"], arguments["scale"]) == ("bsrgan", 2):
        for new, old in OLD_NAMES.items():
            key = key.replace(new, old)
    return key


RRDBNET = WeightMap(
    name="rrdbnet",
    rules=(
        # BasicSR and Real-ESRGAN
        Rule("conv_first", "conv_in"),
        Rule("body.{i}.rdb{j}.conv{k}", "block_{i}/dense_{j}/conv_{k}"),
        Rule("conv_body", "conv_body"),
        Rule("conv_up{k}", "up_{k}"),
        Rule("conv_hr", "fine"),
        Rule("conv_last", "conv_out"),
        # ESRGAN and BSRGAN
        Rule("RRDB_trunk.{i}.RDB{j}.conv{k}", "block_{i}/dense_{j}/conv_{k}"),
        Rule("trunk_conv", "conv_body"),
        Rule("upconv{k}", "up_{k}"),
        Rule("HRconv", "fine"),
        # ESRGAN's first files: one long list
        Rule("model.0", "conv_in"),
        Rule("model.1.sub.{i}.RDB{j}.conv{k}.0", "block_{i}/dense_{j}/conv_{k}"),
        Rule("model.1.sub.{n}", "conv_body"),
        Rule("model.3", "up_1"),
        Rule("model.6", "up_2"),
        Rule("model.8", "fine"),
        Rule("model.10", "conv_out"),
    ),
    arguments=rrdbnet_arguments,
    original_key=original_key,
    group="student",
    describe=rrdbnet_variant,
)
"""RealESRGAN_x4plus, x2plus, x4plus_anime_6B, ESRGAN, BSRGAN, BSRNet and others of any width and depth."""
