"""Weights of LPIPS: the trunk of torchvision and the linear heads of the lpips package, or both in one state dict."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from framer_jax.porting.maps import WEIGHT, Rule, State, WeightMap

SLICES = {
    "vgg": ((0, 2), (5, 7), (10, 12, 14), (17, 19, 21), (24, 26, 28)),
    "alex": ((0,), (3,), (6,), (8,), (10,)),
}
"""Net → numbers of its convolutions, cut where the lpips package cuts it."""

HEADS = 5


def _second_names(state: State, arguments: Mapping[str, Any]) -> State:
    """The package registers each head twice."""
    return {f"lins.{index}.model.1.weight": state[f"lin{index}.model.1.weight"] for index in range(HEADS)}


def _lpips(net: str) -> WeightMap:
    package = (
        Rule(f"net.slice{number}.{place}", f"trunk/conv_{place}")
        for number, places in enumerate(SLICES[net], start=1)
        for place in places
    )
    torchvision = (Rule(f"features.{place}", f"trunk/conv_{place}") for places in SLICES[net] for place in places)
    heads = (Rule(f"lin{index}.model.1.weight", f"heads/head_{index}", WEIGHT) for index in range(HEADS))
    return WeightMap(
        name=f"lpips_{net}",
        rules=(*package, *torchvision, *heads),
        arguments=lambda state: {"net": net},
        dropped=(
            *("classifier.{i}.weight", "classifier.{i}.bias"),
            *("lins.{i}.model.1.weight", "scaling_layer.shift", "scaling_layer.scale"),
        ),
        buffers=_second_names,
    )


LPIPS_VGG, LPIPS_ALEX = _lpips("vgg"), _lpips("alex")
"""Groups 'trunk' and 'heads' of framer_jax.models.vgg.Lpips; the files of both may be given together."""
