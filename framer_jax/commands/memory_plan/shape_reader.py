"""Weights as shapes: builds recipes that name frozen networks without reading any of their files."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any, NoReturn

import jax.numpy as jnp
import numpy as np

from framer_jax.checkpoints.networks import build_network, network_shapes
from framer_jax.config import ConfigError
from framer_jax.data.text import TextEmbedding
from framer_jax.knobs import as_tuple
from framer_jax.porting.weights import save_weights
from framer_jax.recipes.base import Params, Recipe, expected_params
from framer_jax.recipes.components import sd_base
from framer_jax.recipes.components.text import NEGATIVE, NULL, PROMPT, text_sizes, text_widths
from framer_jax.recipes.method import Config, Pretrained, value_at, with_values
from framer_jax.recipes.table import method_of

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


READ_AS_SHAPES = ("autoencoder", "base model", "LPIPS network")
"""Roles of weight files that a step needs, and whose networks are known without them."""

PLACEHOLDER = "shapes"
"""The path of a file that is not read."""


class ShapeReader:
    """The parts of framer_jax.recipes.method.WeightReader that need no file; `config` is the `recipe` section."""

    def __init__(self, config: Config) -> None:
        self._config = config

    def network(
        self, knob_name: str, path: str, model: str, what: str, dtype: Any = None, **demands: Any
    ) -> Pretrained:
        """The module of a published network, with the shapes of its parameters."""
        known = {**ARGUMENTS, "kl_autoencoder": self._autoencoder_arguments()}
        if model not in known:
            _refuse(knob_name)
        arguments = {**known[model], **demands}
        module = build_network(model, arguments, dtype or jnp.float32)
        return Pretrained(module, network_shapes(model, module), {"notes": []}, arguments)

    def trained(self, knob_name: str, path: str, what: str, config: Config, recipe: Recipe) -> Params:
        """The shapes of the exported groups of `recipe`."""
        return expected_params(recipe)

    def scheduler(self, knob_name: str, path: str) -> None:
        """No file was read, so there is no pipeline."""

    def note(self, knob_name: str, text: str) -> None:
        """Nothing was read, so there is nothing to log."""

    def transformer(
        self, knob_name: str, path: str, models: tuple[str, ...], what: str, configured: Mapping[str, Any]
    ) -> tuple[str, Pretrained]:
        """The shapes of a network of the configured size, with one group per block."""
        model = models[0]
        sizes = {name: as_tuple(value) for name, value in configured.items()} | text_widths(self._config)
        names = {field.name for field in fields(type(build_network(model, {})))}
        arguments = {name: value for name, value in sizes.items() if name in names and name not in ("dtype", "scan")}
        module = build_network(model, arguments)
        stated = {field.name: getattr(module, field.name) for field in fields(module)}
        return model, Pretrained(None, network_shapes(model, module), {"notes": []}, {**stated, **configured})

    def _autoencoder_arguments(self) -> Mapping[str, Any]:
        """Those of Stable Diffusion 2's autoencoder with its U-Net; the module's defaults are those of version 3."""
        return sd_base.AUTOENCODER if sd_base.NETWORK in self._config["denoiser"] else {}

    def teacher(self, knob_name: str, *arguments: Any) -> tuple[Recipe, Params]:
        """Depends on a file."""
        _refuse(knob_name)

    def lora(self, knob_name: str, *arguments: Any) -> Params:
        """Depends on a file."""
        _refuse(knob_name)


@contextmanager
def placeholders(config: Config) -> Iterator[dict[str, Any]]:
    """A copy of a `recipe` section that names a file for every weight that training needs.

    Texts are read by value, so zeros of their sizes are written to a folder that lasts as long as the context. Files
    that the section names, and those that may be left out (a teacher's LoRA), stay as they are.
    """
    needed = [file.path for file in method_of(config).weight_files if file.role in READ_AS_SHAPES]
    section = with_values(config, {path: PLACEHOLDER for path in needed if value_at(config, path) == ""})
    with tempfile.TemporaryDirectory() as folder:
        if "text" in section and section["text"]["condition"] != "zero":
            zeros = {name: np.zeros(shape, np.float32) for name, shape in text_sizes(section).shapes.items()}
            path = Path(folder) / "text.safetensors"
            metadata = {"kind": "text", "text": {"encoders": {}}}
            save_weights(path, TextEmbedding(zeros["text"], zeros.get("pooled_text")).as_record(), metadata)
            names = [f"{name}_embedding" for name in (NULL, PROMPT, NEGATIVE)]
            section = with_values(section, {("text", name): str(path) for name in names})
        yield section


def _refuse(knob: str) -> NoReturn:
    raise ConfigError(
        f"{knob}: the step depends on weights whose shapes are known from their file only, and no file is read here: "
        "choose another method, or a teacher of the student's own network"
    )
