"""`framer-jax precompute teacher`: crops, their degraded images, and the outputs of the recipe's teacher.

Training then reads them instead of running the teacher. A record depends only on the configuration, the seed and its
number, not on batch size, shards or interruptions.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from framer_jax.checkpoints.open import build_recipe
from framer_jax.commands.engine_option import Plan
from framer_jax.commands.precompute import work as shared
from framer_jax.commands.precompute.work import Work, Written
from framer_jax.commands.provenance import manifest_of
from framer_jax.config import ConfigError, load_config, to_dict
from framer_jax.data.pipeline import to_uint8_if_exact
from framer_jax.data.records import write_manifest
from framer_jax.diffusion.noise import NoiseField
from framer_jax.recipes.base import PIXELS, Frozen, Recipe
from framer_jax.training.state import TEACHER


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    shared.add_config_arguments(parser)
    shared.add_portions(parser, "crops")


def check(arguments: argparse.Namespace) -> Plan[None]:
    """The number of files; refuses an unusable configuration."""
    load_config(arguments.config, arguments.overrides)
    return shared.plan_of(shared.work_of(arguments, arguments.samples))


def compute(arguments: argparse.Namespace) -> Written:
    """Compute the records of the shard and write them."""
    work = shared.work_of(arguments, arguments.samples)
    config = to_dict(load_config(arguments.config, arguments.overrides))
    return Written(*precompute_teacher(config, Path(arguments.output), work, arguments.overwrite))


def report(arguments: argparse.Namespace, written: Written) -> int:
    """Print the number of files."""
    counts = f"{written.new} files of records written, {written.existing} were there"
    print(f"{counts}; train with --set data.train={arguments.output}")
    return 0


def precompute_teacher(config: dict[str, Any], folder: Path, work: Work, overwrite: bool = False) -> tuple[int, int]:
    """Write the records of a configuration's training set.

    Args:
      config: plain dict of a whole configuration; its seed determines crops, degradations and the teacher's noise.
      folder: folder of the records.
      work: number of records, and sizes of files and batches.
      overwrite: replace records of another configuration.

    Returns:
      the number of files written, and of files that existed already.

    Raises:
      ConfigError, ValueError, FileNotFoundError, ImportError: an input that cannot be used, in one line.
    """
    recipe, seed = build_recipe(config["recipe"], "precompute"), config["training"]["seed"]
    if recipe.precompute is None:
        raise ConfigError(
            f"the recipe {recipe.name!r} has no teacher whose outputs could be precomputed: use one that distills"
        )
    crops = shared.open_crops(config, folder)
    sharding = shared.devices_of(work.batch)
    write_manifest(folder, manifest_of(config, work.samples, work.per_file, crops.source.digests()), overwrite)
    key = jax.random.fold_in(jax.random.key(seed), TEACHER)
    compute = shared.compute_on(sharding, crops.preset, recipe.frozen, _entries(recipe), key)
    images = (*PIXELS, *recipe.precomputed_images)
    records_of = shared.computed(
        crops.dataset, compute, work.batch, lambda name, value: to_uint8_if_exact(value) if name in images else value
    )
    return shared.write_files(folder, work, records_of)


def _entries(recipe: Recipe) -> shared.Entries:
    precompute = recipe.precompute
    assert precompute is not None

    def entries(frozen: Frozen, batch: dict[str, jax.Array], keys: jax.Array) -> dict[str, jax.Array]:
        noise = NoiseField(keys, jnp.zeros((keys.shape[0], 2), jnp.int32))
        return {**batch, **precompute(frozen, batch, noise)}

    return entries
