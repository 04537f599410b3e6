"""TSD-SR's weights: its authors' folder of LoRAs, and runs as whole networks."""

from __future__ import annotations

from pathlib import Path

import jax
import numpy as np

from framer_jax.models.mmdit import JointTransformer, block_structure, match_block_layout, unstack_blocks
from framer_jax.porting.table import map_named
from framer_jax.porting.weights import is_ours
from framer_jax.recipes.base import Params, Recipe, expected_params
from framer_jax.recipes.components import spaces
from framer_jax.recipes.components.adapters import merge_factors
from framer_jax.recipes.components.base_model import BASE, base_file, cast_frozen, check_same_size
from framer_jax.recipes.components.latent_space import AUTOENCODER
from framer_jax.recipes.components.networks import execution_knobs
from framer_jax.recipes.method import (
    PHOTOS,
    Build,
    Config,
    MergedNetwork,
    Published,
    TrainedRun,
    WeightReader,
)
from framer_jax.recipes.tsd_sr.recipe import ENCODER, STUDENT
from framer_jax.trees import check_same_structure

BASE_FILE = base_file("tsd_sr")

NETWORK = "mmdit"
"""Weight map of the transformer."""

AUTOENCODER_NETWORK = spaces.AUTOENCODER_MAPS["kl"]

LORA_FILES = ("transformer.safetensors", "vae.safetensors")
"""LoRAs of the transformer and of the autoencoder in the folder that the authors publish."""

PUBLISHED_LORAS = {
    STUDENT: (LORA_FILES[0], NETWORK, BASE),
    ENCODER: (LORA_FILES[1], AUTOENCODER_NETWORK, AUTOENCODER),
}
"""Group → file in the authors' folder, weight map of the network it lies on, and that network's entry of `frozen`."""


def read_transformer(path: str, config: Config, widths: dict[str, int], reader: WeightReader) -> Params:
    """The parameters of Stable Diffusion 3's transformer, unstacked.

    Raises:
      FileNotFoundError, ImportError, ValueError: it cannot be read, or is of another size than configured.
    """
    size = config["denoiser"][NETWORK]
    _, base = reader.transformer(BASE_FILE.knob, path, (NETWORK,), "Stable Diffusion 3's transformer", size)
    source = f"{BASE_FILE.knob} {path}, {map_named(NETWORK).describe(base.arguments)},"
    check_same_size(base.arguments, {**size, **widths}, f"recipe.denoiser.{NETWORK}", source)
    return base.params


def read_published(path: Path, config: Config, recipe: Recipe, reader: WeightReader) -> Params:
    """The exported groups as the authors publish them: a folder with a LoRA for each network.

    Args:
      path: the folder, or a single file where the encoder has no LoRA.
      config: the `recipe` section.
      recipe: the recipe that it describes, with weights.
      reader: reads the files.

    Raises:
      FileNotFoundError, ValueError: a file is missing, or of another size than configured; one line.
    """
    size, scale = config["denoiser"][NETWORK], config["tsd_sr"]["lora_scale"]
    model = JointTransformer(**block_structure(size), scan=size["scan"])
    groups = {}
    for group in recipe.exported:
        file, name, network = PUBLISHED_LORAS[group]
        params = recipe.frozen[network]
        params = unstack_blocks(params, model) if network == BASE else params
        factors = reader.lora("weights", str(path / file if path.is_dir() else path), name, params)
        factors = jax.tree_util.tree_map_with_path(
            lambda path, leaf: leaf / np.float32(scale) if path[-1].key == "up" else leaf, factors
        )
        groups[group] = match_block_layout(factors, model) if network == BASE else factors
    check_same_structure(groups, expected_params(recipe), str(path))
    return groups


def published_by(build: Build) -> Published:
    """The authors' folder of LoRAs as a model of TSD-SR, or as what training starts from."""

    def matches(path: Path, config: Config) -> bool:
        return in_folder(path) if path.is_dir() else path.is_file() and not is_ours(path)

    def in_folder(folder: Path) -> bool:
        return (folder / LORA_FILES[0]).is_file()

    def open_published(path: Path, config: Config, purpose: str, reader: WeightReader) -> tuple[Recipe, Params]:
        recipe = build(config, purpose, PHOTOS, reader)
        return recipe, read_published(path, config, recipe, reader)

    return Published(matches, in_folder, open_published, read_published, LORA_FILES, "tsd_sr_sd3")


def merge(run: TrainedRun, model: str) -> MergedNetwork:
    """A run as one whole network: the base's, with the run's LoRA merged.

    Args:
      run: the run.
      model: 'mmdit' or 'kl_autoencoder'.

    Raises:
      ValueError: the run has no LoRA on that network.
    """
    config = run.config
    scale = config["tsd_sr"]["lora_scale"]
    file, group = (BASE_FILE, STUDENT) if model == NETWORK else (spaces.WEIGHT_FILE, ENCODER)
    if group not in run.groups:
        raise ValueError(f"{run.path}: its {model} is the base's own, as recipe.tsd_sr.{group}_modules is empty")
    size = config["denoiser"][NETWORK]
    unstacked = JointTransformer(**block_structure(size))
    factors = match_block_layout(run.groups[group], unstacked)  # leaves the autoencoder's factors as they are
    dependency = run.dependency(file.path)
    if model == NETWORK:
        arguments = {name: value for name, value in size.items() if name not in {"taps", *execution_knobs(NETWORK)}}
        weights = read_transformer(str(dependency), config, {}, run.reader)
        weights = cast_frozen(weights, config["tsd_sr"]["base_dtype"])
    else:
        network = run.reader.network(file.knob, str(dependency), AUTOENCODER_NETWORK, "the autoencoder")
        shift = config["space"].get("shift")
        weights, arguments = network.params, network.arguments | ({} if shift is None else {"shift": shift})
    try:
        merged = merge_factors(weights, factors, scale)
    except ValueError as error:
        raise ValueError(f"{run.path}: {error}") from error
    params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float32), merged)
    return MergedNetwork(params, arguments, factors, lambda rank: scale * rank, (dependency,))
