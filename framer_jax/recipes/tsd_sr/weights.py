"""TSD-SR's weights: its authors' folder of LoRAs, and runs as merged checkpoints."""

from __future__ import annotations

from pathlib import Path

from framer_jax.models.mmdit import JointTransformer, block_structure, match_block_layout, unstack_blocks
from framer_jax.porting.lora import LoraLayers
from framer_jax.porting.table import map_named
from framer_jax.porting.weights import is_ours
from framer_jax.recipes.base import Params, Recipe, expected_params
from framer_jax.recipes.components.base_model import BASE, base_file, cast_frozen, check_same_size
from framer_jax.recipes.components.latent_space import AUTOENCODER
from framer_jax.recipes.components.networks import execution_knobs
from framer_jax.recipes.components.one_step import ENCODER, STUDENT
from framer_jax.recipes.components.published_lora import (
    AUTOENCODER_NETWORK,
    check_group,
    merged_autoencoder,
    merged_network,
    published_factors,
)
from framer_jax.recipes.method import (
    PHOTOS,
    Build,
    Config,
    MergedNetwork,
    Published,
    TrainedRun,
    WeightReader,
)
from framer_jax.trees import check_same_structure

BASE_FILE = base_file("tsd_sr")

NETWORK = "mmdit"
"""Weight map of the transformer."""

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
      FileNotFoundError, ValueError: a file is missing, or of another size, rank or choice of modules than configured;
        one line that names the knob.
    """
    size, scale = config["denoiser"][NETWORK], config["tsd_sr"]["lora_scale"]
    expected = expected_params(recipe)
    model = JointTransformer(**block_structure(size), scan=size["scan"])
    groups = {}
    for group in recipe.exported:
        file, name, network = PUBLISHED_LORAS[group]
        params = recipe.frozen[network]
        params = unstack_blocks(params, model) if network == BASE else params
        source = str(path / file if path.is_dir() else path)
        factors = reader.lora("weights", source, name, params)  # every alpha is the rank
        factors = match_block_layout(factors, model) if network == BASE else factors
        layers = LoraLayers(factors, {})
        groups[group] = published_factors(layers, expected[group], scale, source, f"recipe.tsd_sr.{group}")
    check_same_structure(groups, expected, str(path))
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
    """A run as a merged checkpoint: a network of the base, with the run's LoRA merged.

    Args:
      run: the run.
      model: 'mmdit' or 'kl_autoencoder'.

    Raises:
      ValueError: the run has no LoRA on that network.
    """
    config = run.config
    scale = config["tsd_sr"]["lora_scale"]
    group = STUDENT if model == NETWORK else ENCODER
    check_group(run, group, model, f"recipe.tsd_sr.{group}_modules")
    if model != NETWORK:
        return merged_autoencoder(run, scale)
    size = config["denoiser"][NETWORK]
    dependency = run.dependency(BASE_FILE.path)
    arguments = {name: value for name, value in size.items() if name not in {"taps", *execution_knobs(NETWORK)}}
    weights = read_transformer(str(dependency), config, {}, run.reader)
    weights = cast_frozen(weights, config["tsd_sr"]["base_dtype"])
    factors = match_block_layout(run.groups[group], JointTransformer(**block_structure(size)))
    return merged_network(run, weights, arguments, factors, scale, dependency)
