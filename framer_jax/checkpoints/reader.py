"""How recipes read the weights that their configuration names: the parts of `WeightReader` that need no recipe."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from framer_jax.checkpoints.groups import read_groups
from framer_jax.checkpoints.networks import load_network, log_notes, read_network
from framer_jax.checkpoints.paths import required_path
from framer_jax.errors import KINDS, with_message
from framer_jax.porting.diffusers_folder import read_scheduler
from framer_jax.porting.lora import assumption, read_layers
from framer_jax.porting.lora_files import read_lora
from framer_jax.porting.stated import Statement
from framer_jax.porting.table import OtherModelError, Ported, map_named, model_in
from framer_jax.porting.weights import is_ours, read_metadata
from framer_jax.recipes.base import Params, Recipe, expected_params
from framer_jax.recipes.components.networks import network_section
from framer_jax.recipes.method import Config, Pretrained
from framer_jax.trees import check_same_structure, flatten_names, nest_names


class NetworkReader:
    """Reads networks, groups and LoRAs; see framer_jax.recipes.method.WeightReader for every function."""

    def network(
        self, knob_name: str, path: str, model: str, what: str, dtype: Any = None, **demands: Any
    ) -> Pretrained:
        """The published network at `path`."""
        path = required_path(path, knob_name, what, model, folder=bool(map_named(model).folder))
        with _naming(knob_name):
            return load_network(model, path, dtype=dtype or jnp.float32, **demands)

    def transformer(
        self, knob_name: str, path: str, models: tuple[str, ...], what: str, configured: Mapping[str, Any]
    ) -> tuple[str, Pretrained]:
        """The published network at `path` and its weight map, the first of `models` that the file is of."""
        path = required_path(path, knob_name, what, models[0], folder=True)
        with _naming(knob_name):
            model, ported = _read_first(path, models, [Statement("the configuration", configured)])
        if not is_ours(path):
            log_notes(path, *ported.source["notes"])
        return model, Pretrained(None, ported.params, ported.source, ported.arguments)

    def trained(self, knob_name: str, path: str, what: str, config: Config, recipe: Recipe) -> Params:
        """The exported groups of a trained or published model that fits `recipe`."""
        path = required_path(path, knob_name, what, network_section(config)[1])
        with _naming(knob_name):
            params = read_groups(path, config).params
            check_same_structure(params, expected_params(recipe), path)
        return params

    def lora(self, knob_name: str, path: str, model: str, params: Params) -> Params:
        """The factors of a LoRA in a file of PEFT, diffusers or kohya's scripts, scaled so that alphas equal ranks."""
        if not Path(path).exists():
            raise FileNotFoundError(f"{knob_name}: there is no file {path!r} (a LoRA): correct the path")
        with _naming(knob_name):
            weights = map_named(model)
            file = read_lora(path, weights.folder)
            (layers,) = read_layers(
                weights, params, file.tensors, str(path), stated=file.stated, adapter_name=lambda adapter: ""
            ).values()
        log_notes(path, *file.notes, assumption(file.tensors, file.stated))
        leaves = flatten_names(layers.factors)[0]
        for module, alpha in layers.alphas.items():
            up = leaves[f"{module}/up"]
            leaves[f"{module}/up"] = up * np.float32(alpha / up.shape[-2])
        return nest_names(leaves)

    def scheduler(self, knob_name: str, path: str) -> Mapping[str, Any] | None:
        """The configuration of the scheduler in the pipeline that the network at `path` belongs to."""
        with _naming(knob_name):
            return read_scheduler(path)

    def note(self, knob_name: str, text: str) -> None:
        """Log what was assumed for a knob."""
        log_notes(knob_name, text)


def _read_first(path: str, models: tuple[str, ...], statements: Sequence[Statement]) -> tuple[str, Ported]:
    """(weight map, network) of a file: the map that a ported file states, else the first that takes its tensors."""
    if Path(path).is_file() and is_ours(path):
        stated = model_in(read_metadata(path))
        model = stated if stated in models else models[0]
        return model, read_network(model, path, statements=statements)
    try:
        return models[0], read_network(models[0], path, statements=statements)
    except OtherModelError as error:
        if error.model not in models:
            raise
        return error.model, read_network(error.model, path, statements=statements)


@contextmanager
def _naming(knob: str) -> Iterator[None]:
    """Errors begin with the knob's name."""
    try:
        yield
    except KINDS as error:
        raise with_message(error, f"{knob}: {error}") from error
