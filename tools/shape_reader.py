"""Weights as shapes: builds recipes that name frozen networks without reading any of their files."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NoReturn

import jax.numpy as jnp

from framer_jax.checkpoints.networks import build_network, network_shapes
from framer_jax.config import ConfigError
from framer_jax.recipes.base import Params, Recipe, expected_params
from framer_jax.recipes.method import Config, Pretrained

ARGUMENTS: Mapping[str, Mapping[str, Any]] = {
    "vq_f4": {},
    "hf_extractor": {},
    "dinov2": {},
    "lpips_vgg": {"net": "vgg"},
    "lpips_alex": {"net": "alex"},
    "vgg19": {},
    "taesd": {},
}
"""Networks whose published size is that of the module's defaults, or of these arguments: DINOv2 is ViT-S/14."""


class ShapeReader:
    """The parts of framer_jax.recipes.method.WeightReader that need no file."""

    def network(
        self, knob_name: str, path: str, model: str, what: str, dtype: Any = None, **demands: Any
    ) -> Pretrained:
        """The module of a published network, with the shapes of its parameters."""
        if model not in ARGUMENTS:
            _refuse(knob_name)
        arguments = {**ARGUMENTS[model], **demands}
        module = build_network(model, arguments, dtype or jnp.float32)
        return Pretrained(module, network_shapes(model, module), {"notes": []}, arguments)

    def trained(self, knob_name: str, path: str, what: str, config: Config, recipe: Recipe) -> Params:
        """The shapes of the exported groups of `recipe`."""
        return expected_params(recipe)

    def scheduler(self, knob_name: str, path: str) -> None:
        """No file was read, so there is no pipeline."""

    def note(self, knob_name: str, text: str) -> None:
        """Nothing was read, so there is nothing to log."""

    def transformer(self, knob_name: str, *arguments: Any) -> tuple[str, Pretrained]:
        """Depends on a file."""
        _refuse(knob_name)

    def teacher(self, knob_name: str, *arguments: Any) -> tuple[Recipe, Params]:
        """Depends on a file."""
        _refuse(knob_name)

    def lora(self, knob_name: str, *arguments: Any) -> Params:
        """Depends on a file."""
        _refuse(knob_name)


def _refuse(knob: str) -> NoReturn:
    raise ConfigError(
        f"{knob}: the step depends on weights whose shapes are known from their file only, and no file is read here: "
        "choose another method, or a teacher of the student's own network"
    )
