"""Feature extractors of HF-Diff: the names of CDDFuse's detail branch, and those of this library for the rest.

HF-Diff released no file of its network, so there are published names of the variant 'released' only (`net.0.theta_phi`,
…). The encoder, the classifier and the maps of the variant 'paper' are written with names in the same manner.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from framer_jax.porting.maps import WEIGHT, Rule, StateDict, WeightMap, count_of, multiples_of

MAPS_OF_MODULES = {"theta_phi": "additive", "theta_rho": "exponent", "theta_eta": "shift"}
"""CDDFuse's names of the maps of a module → ours."""

LAYERS = {"0": "expand", "3": "depthwise", "5": "project"}
"""Entries of CDDFuse's `bottleneckBlock` with a convolution → ours; the others are activations and the padding."""

PAPER, RELEASED = "conv1.weight", "bottleneckBlock.0.weight"
"""First tensor of a map, by variant."""


def hf_extractor_arguments(state: StateDict) -> dict[str, Any]:
    """Constructor arguments of framer_jax.models.hf_extractor.HFExtractor; the tensors determine all but the bound of
    the exponents, which no tensor depends on.

    Raises:
      KeyError: a layer is missing.
      ValueError: the hidden channels of the maps are no multiple of their input.
    """
    released = any(key.endswith(f".{RELEASED}") for key in state)
    first = RELEASED if released else PAPER
    modules = count_of(state, f"net.{{}}.theta_phi.{first}")
    if not modules:
        raise KeyError(f"net.0.theta_phi.{first}")
    for index in range(modules):
        for name in MAPS_OF_MODULES:
            _ = state[f"net.{index}.{name}.{first}"]
    hidden, half = state[f"net.0.theta_phi.{first}"].shape[:2]
    (expansion,) = multiples_of((hidden,), half, "hidden channels")
    layers = count_of(state, "classifier.conv{}.weight")
    has_classifier = any(key.startswith("classifier.") for key in state)
    has_encoder = any(key.startswith("shallow.") for key in state)
    return {
        "variant": "released" if released else "paper",
        "image_channels": state["shallow.conv_in.weight"].shape[1] if has_encoder else 0,
        "channels": 2 * half,
        "modules": modules,
        "expansion": expansion,
        "classifier_layers": layers,
        "classes": state["classifier.fc.weight"].shape[0] if has_classifier else 0,
        "exponent_limit": None,
    }


def hf_extractor_assumed(state: StateDict, arguments: Mapping[str, Any]) -> tuple[str, ...]:
    """The bound of the exponents, which CDDFuse does not have."""
    return ("exponent_limit",) if arguments["variant"] == "paper" else ()


def hf_extractor_variant(arguments: Mapping[str, Any]) -> str:
    """'HF-Diff's extractor, variant paper (128 channels, 3 invertible modules, 2 + 1 layers for 1000 classes)'."""
    classes, layers = arguments["classes"], arguments["classifier_layers"]
    classifier = f"{layers} + 1 layers for {classes} classes" if classes else "no classifier"
    return (
        f"HF-Diff's extractor, variant {arguments['variant']} ({arguments['channels']} channels, "
        f"{arguments['modules']} invertible modules, {classifier})"
    )


HF_EXTRACTOR = WeightMap(
    name="hf_extractor",
    rules=(
        *(
            Rule(f"net.{{i}}.{torch}.bottleneckBlock.{entry}.weight", f"module_{{i}}/{flax}/{layer}/kernel", WEIGHT)
            for torch, flax in MAPS_OF_MODULES.items()
            for entry, layer in LAYERS.items()
        ),
        *(
            Rule(f"net.{{i}}.{torch}.conv{number}", f"module_{{i}}/{flax}/conv_{number}")
            for torch, flax in MAPS_OF_MODULES.items()
            for number in (1, 2)
        ),
        Rule("net.{i}.shffleconv", "module_{i}/shuffle"),
        *(Rule(f"shallow.{name}", f"encoder/{name}") for name in ("conv_in", "conv_1", "conv_2")),
        Rule("classifier.conv{i}", "classifier/conv_{i}"),
        Rule("classifier.fc", "classifier/linear"),
    ),
    arguments=hf_extractor_arguments,
    assumed=hf_extractor_assumed,
    describe=hf_extractor_variant,
)
"""framer_jax.models.hf_extractor.HFExtractor, with or without encoder and classifier."""
