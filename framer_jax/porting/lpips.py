"""Weights of perceptual metrics and losses: LPIPS, DISTS, and the VGG19 of Real-ESRGAN's perceptual term.

LPIPS is torchvision's backbone and the linear heads of the lpips package, or both in one state dict; DISTS is
torchvision's VGG16 and two weights per channel, or both.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from framer_jax.porting.maps import TENSOR, WEIGHT, Rule, StateDict, WeightMap

SLICES = {
    "vgg": ((0, 2), (5, 7), (10, 12, 14), (17, 19, 21), (24, 26, 28)),
    "alex": ((0,), (3,), (6,), (8,), (10,)),
}
"""Net → indices of its convolutions, split as in the lpips package."""

HEADS = 5


def _duplicate_heads(state: StateDict, arguments: Mapping[str, Any]) -> StateDict:
    """The package registers each head a second time."""
    return {f"lins.{index}.model.1.weight": state[f"lin{index}.model.1.weight"] for index in range(HEADS)}


def _lpips(net: str) -> WeightMap:
    package = (
        Rule(f"net.slice{number}.{index}", f"trunk/conv_{index}")
        for number, indices in enumerate(SLICES[net], start=1)
        for index in indices
    )
    torchvision = (Rule(f"features.{index}", f"trunk/conv_{index}") for indices in SLICES[net] for index in indices)
    heads = (Rule(f"lin{index}.model.1.weight", f"heads/head_{index}", WEIGHT) for index in range(HEADS))
    return WeightMap(
        name=f"lpips_{net}",
        rules=(*package, *torchvision, *heads),
        arguments=lambda state: {"net": net},
        dropped=(
            *("classifier.{i}.weight", "classifier.{i}.bias"),
            *("lins.{i}.model.1.weight", "scaling_layer.shift", "scaling_layer.scale"),
        ),
        buffers=_duplicate_heads,
    )


LPIPS_VGG, LPIPS_ALEX = _lpips("vgg"), _lpips("alex")
"""Groups 'trunk' and 'heads' of framer_jax.models.vgg.Lpips; their two files may be given together."""


CLASSIFIER = ("classifier.{i}.weight", "classifier.{i}.bias")
"""What torchvision's files hold in addition to a trunk."""

STAGES = tuple((number, index) for number, indices in enumerate(SLICES["vgg"], start=1) for index in indices)
"""(stage, index) of every convolution of VGG16."""

POOLINGS = (4, 9, 16, 23)
"""Indices of the poolings of VGG16."""


def _dists_buffers(state: StateDict, arguments: Mapping[str, Any]) -> StateDict:
    """The Hann windows of the poolings, one for each channel, and mean and standard deviation of the images."""
    taps = np.asarray([0.25, 0.5, 0.25], np.float32)
    window = np.outer(taps, taps)[None, None]
    buffers = {
        f"stage{number}.{index}.filter": np.tile(window, (channels, 1, 1, 1))
        for number, (index, channels) in enumerate(zip(POOLINGS, (64, 128, 256, 512), strict=True), start=2)
    }
    statistics = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
    return buffers | {key: np.asarray(value, np.float32).reshape(1, 3, 1, 1) for key, value in statistics.items()}


DISTS = WeightMap(
    name="dists",
    rules=(
        *(Rule(f"stage{stage}.{index}", f"trunk/conv_{index}") for stage, index in STAGES),
        *(Rule(f"features.{index}", f"trunk/conv_{index}") for _, index in STAGES),
        *(Rule(f"net.slice{stage}.{index}", f"trunk/conv_{index}") for stage, index in STAGES),
        Rule("alpha", "alpha", TENSOR),
        Rule("beta", "beta", TENSOR),
    ),
    arguments=lambda state: {},
    dropped=(
        *CLASSIFIER,
        *("stage{s}.{i}.filter", "mean", "std"),
        *("lin{i}.model.1.weight", "lins.{i}.model.1.weight", "scaling_layer.shift", "scaling_layer.scale"),
    ),
    buffers=_dists_buffers,
)
"""framer_jax.models.vgg.Dists; the trunk and the file with alpha and beta may be given together."""

VGG19_CONVOLUTIONS = (0, 2, 5, 7, 10, 12, 14, 16, 19, 21, 23, 25, 28, 30, 32, 34)
"""Indices of the convolutions of VGG19."""

VGG19 = WeightMap(
    name="vgg19",
    rules=tuple(Rule(f"features.{index}", f"trunk/conv_{index}") for index in VGG19_CONVOLUTIONS),
    arguments=lambda state: {},
    dropped=CLASSIFIER,
)
"""framer_jax.models.vgg.Vgg19, torchvision's file."""


def net_of(state: StateDict) -> str | None:
    """'alex' or 'vgg', the net that a trunk, or the heads of one, belong to by their shapes; None for neither."""
    trunk = next((state[key] for key in ("features.0.weight", "net.slice1.0.weight") if key in state), None)
    if trunk is not None:
        sides = {11: "alex", 3: "vgg"}
        return sides.get(trunk.shape[-1]) if "features.16.weight" not in state else None  # which is VGG19's
    head = state.get("lin1.model.1.weight")
    return None if head is None else {192: "alex", 128: "vgg"}.get(head.shape[1])
