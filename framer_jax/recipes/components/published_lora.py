"""LoRAs of one-step students as files: those that a method's authors publish, and merged checkpoints."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from framer_jax.porting.lora import LoraLayers
from framer_jax.porting.weights import is_ours
from framer_jax.recipes.base import Params, Recipe
from framer_jax.recipes.components import spaces
from framer_jax.recipes.components.adapters import merge_factors
from framer_jax.recipes.components.one_step import ENCODER
from framer_jax.recipes.method import PHOTOS, Build, Config, MergedNetwork, Published, TrainedRun, WeightReader
from framer_jax.trees import flatten_names, nest_names

AUTOENCODER_NETWORK = spaces.AUTOENCODER_MAPS["kl"]
"""Weight map of the autoencoder whose encoder gets a LoRA."""


def published_factors(layers: LoraLayers, expected: Mapping[str, Any], scale: float, source: str, knobs: str) -> Params:
    """A group's factors from the LoRA that a method's authors publish.

    Args:
      layers: the published LoRA; the alpha of a module without one is its rank.
      expected: shapes of the group.
      scale: alpha / rank with which the group is applied.
      source: what errors call the file.
      knobs: what the names of the group's knobs begin with, such as 'recipe.osediff.lora'.

    Raises:
      ValueError: other modules, or another rank, than configured; the message names the knob.
    """
    read, configured = (
        {
            name.removesuffix("/down"): leaf.shape[-1]
            for name, leaf in flatten_names(tree)[0].items()
            if name.endswith("/down")  # modules may be called so too: encoder/down_0_to_coarse
        }
        for tree in (layers.factors, expected)
    )
    if differing := sorted(read.keys() ^ configured.keys()):
        held = "the file has factors of" if differing[0] in read else "the file has no factors of"
        raise ValueError(
            f"{source}: {held} {differing[0]!r} ({len(differing)} modules differ): set {knobs}_modules to a pattern of "
            "the modules in the file"
        )
    if ranks := {rank for path, rank in read.items() if rank != configured[path]}:
        raise ValueError(f"{source}: its rank is {min(ranks)}: set {knobs}_rank={min(ranks)}")
    leaves = flatten_names(layers.factors)[0]
    for module, rank in read.items():
        leaves[f"{module}/up"] = leaves[f"{module}/up"] * np.float32(layers.alphas.get(module, rank) / rank / scale)
    return nest_names(leaves)


def published_pickle(
    build: Build,
    read: Callable[[Path, Config, Recipe, WeightReader], Params],
    example: str,
    content: Callable[[TrainedRun], dict[str, Any]] | None = None,
) -> Published:
    """One file of LoRAs that a method's authors publish, as a model of the method or as what training starts from.

    Args:
      build: builds the recipe.
      read: (path, config, recipe, reader) → the exported groups.
      example: name of a shipped configuration.
      content: (run) → what such a file of it holds.
    """

    def matches(path: Path, config: Config) -> bool:
        return path.is_file() and not is_ours(path)

    def open_published(path: Path, config: Config, purpose: str, reader: WeightReader) -> tuple[Recipe, Params]:
        recipe = build(config, purpose, PHOTOS, reader)
        return recipe, read(path, config, recipe, reader)

    return Published(matches, lambda folder: False, open_published, read, (), example, content)


def merged_network(
    run: TrainedRun,
    base: Params,
    arguments: Mapping[str, Any],
    factors: Params,
    scale: float,
    dependency: Path,
) -> MergedNetwork:
    """A run as a merged checkpoint: a network's parameters with the run's LoRA merged.

    Args:
      run: the run.
      base: parameters of the network that the LoRA lies on.
      arguments: its constructor arguments.
      factors: the trained LoRA.
      scale: alpha / rank.
      dependency: the file of these parameters.

    Raises:
      ValueError: the LoRA is of another network; the message begins with the run's path.
    """
    try:
        merged = merge_factors(base, factors, scale)
    except ValueError as error:
        raise ValueError(f"{run.path}: {error}") from error
    params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float32), merged)
    return MergedNetwork(params, dict(arguments), factors, lambda rank: scale * rank, (dependency,))


def merged_autoencoder(run: TrainedRun, scale: float) -> MergedNetwork:
    """The autoencoder of a run whose encoder has a LoRA; arguments and errors as of `merged_network`."""
    file = spaces.WEIGHT_FILE
    dependency = run.dependency(file.path)
    network = run.reader.network(file.knob, str(dependency), AUTOENCODER_NETWORK, "the autoencoder")
    shift = run.config["space"].get("shift")
    arguments = network.arguments | ({} if shift is None else {"shift": shift})
    return merged_network(run, network.params, arguments, run.groups[ENCODER], scale, dependency)


def check_group(run: TrainedRun, group: str, model: str, knob: str) -> None:
    """Raise ValueError where a run has trained nothing of the network that is to be merged."""
    if group not in run.groups:
        raise ValueError(f"{run.path}: its {model} is the base's own, as {knob} is empty")
