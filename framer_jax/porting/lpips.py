"""Weights of LPIPS: torchvision's backbone and the linear heads of the lpips package, or both in one state dict."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from framer_jax.porting.maps import WEIGHT, Rule, StateDict, WeightMap

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
