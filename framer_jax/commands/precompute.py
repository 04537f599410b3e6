"""`framer-jax precompute`: what frozen models say of a training set, computed once and written to disk.

`teacher`: crops, their degraded images, and the outputs of the recipe's teacher, which training then reads instead of
running it. A record depends on the configuration, the seed and its number only: not on batch, shards or a stop.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import grain
import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console
from rich.progress import track

from framer_jax.commands.provenance import manifest_of
from framer_jax.commands.train import least_side, open_source
from framer_jax.config import ConfigError, load_config, to_dict
from framer_jax.data.photos import TRAINING
from framer_jax.data.pipeline import as_stored, make_prepare, record_dataset
from framer_jax.data.records import Record, file_name, is_records, write_manifest, write_records
from framer_jax.degradations.presets import preset_by_name
from framer_jax.diffusion.noise import NoiseField
from framer_jax.recipes.augkd import ENTRIES
from framer_jax.recipes.base import Frozen, Recipe
from framer_jax.recipes.table import build_recipe
from framer_jax.training.state import TEACHER
from framer_jax.training.step import Prepare

KINDS = ("teacher",)

IMAGES = ("hr", "lr", *ENTRIES.values())
"""Entries that are pictures in [0, 1]."""

Compute = Callable[[Any, np.ndarray], Mapping[str, jax.Array]]
"""(batch as loaded, record numbers [B]) → entries of the records, [B, ...] each."""


class Work(NamedTuple):
    """How many records, and in what portions.

    Attributes:
      samples: records over all shards.
      per_file: records in a file.
      batch: records computed at a time, a multiple of the number of devices.
      shard: (i, n): the files whose number is i modulo n.
    """

    samples: int
    per_file: int = 256
    batch: int = 8
    shard: tuple[int, int] = (0, 1)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("what", choices=KINDS, help="teacher: degraded crops with the outputs of the recipe's teacher")
    parser.add_argument("--config", required=True, help="configuration of the training run that will read the records")
    parser.add_argument(
        "--set", dest="changes", action="append", default=[], metavar="KEY=VALUE", help="change one knob; repeatable"
    )
    parser.add_argument("--output", required=True, help="folder of the records; what it has already is kept")
    parser.add_argument("--samples", type=int, required=True, metavar="N", help="how many crops, over all shards")
    parser.add_argument("--per-file", type=int, default=256, help="records in one file")
    parser.add_argument("--batch", type=int, default=8, help="crops computed at a time")
    parser.add_argument("--shard", default="0/1", metavar="I/N", help="make only every N-th file, from file I")
    parser.add_argument("--overwrite", action="store_true", help="replace records that were made otherwise")


def run(arguments: argparse.Namespace) -> int:
    """Compute, write, report."""
    work = Work(arguments.samples, arguments.per_file, arguments.batch, parse_shard(arguments.shard))
    for name in ("samples", "per_file", "batch"):
        if getattr(work, name) < 1:
            raise ValueError(f"--{name.replace('_', '-')} must be at least 1; got {getattr(work, name)}")
    config = to_dict(load_config(arguments.config, arguments.changes))
    made, kept = precompute_teacher(config, Path(arguments.output), work, arguments.overwrite)
    print(f"{made} files of records written, {kept} were there; train with --set data.train={arguments.output}")
    return 0


def parse_shard(text: str) -> tuple[int, int]:
    """'I/N' as two numbers, 0 <= I < N.

    Raises:
      ValueError: it is not such a pair.
    """
    found = re.fullmatch(r"(\d+)/(\d+)", text)
    if not found or int(found[1]) >= int(found[2]):
        raise ValueError(f"--shard must be I/N with 0 <= I < N, such as 0/4; got {text!r}")
    return int(found[1]), int(found[2])


def precompute_teacher(config: dict[str, Any], folder: Path, work: Work, overwrite: bool = False) -> tuple[int, int]:
    """Write the records of a configuration's training set.

    Args:
      config: plain dict of a whole configuration; its seed is that of crops, degradations and the teacher's noise.
      folder: of the records.
      work: how many, and in what portions.
      overwrite: replace records of another configuration.

    Returns:
      numbers of files written, and found written already.

    Raises:
      ConfigError, ValueError, FileNotFoundError, ImportError: what cannot be used, in one line.
    """
    recipe, data, seed = build_recipe(config["recipe"]), config["data"], config["training"]["seed"]
    if recipe.precompute is None:
        raise ConfigError(f"the recipe {recipe.name!r} has no teacher to precompute: use one that distils")
    if is_records(data["train"]):
        raise ConfigError(f"data.train {data['train']} holds records already: name a folder of photographs")
    preset = preset_by_name(data["degradation"], recipe.scale)
    if Path(data["train"]).is_dir() and folder.resolve() == Path(data["train"]).resolve():
        raise ConfigError(f"--output {folder} is the folder of the photographs: name another one")
    source = open_source(data["train"], TRAINING, least_side(data))
    dataset = record_dataset(source, data["crop"], preset, seed, framing=data["framing"], turns=data["turns"])
    sharding = _sharding(work.batch)
    write_manifest(folder, manifest_of(config, work.samples, work.per_file, len(source)), overwrite)
    numbers = range(work.shard[0], -(-work.samples // work.per_file), work.shard[1])
    wanted = [number for number in numbers if not (folder / file_name(number)).is_file()]
    compute = _compute(recipe, make_prepare(preset), seed, sharding)
    for number in track(wanted, "files of records", console=Console(stderr=True)):
        write_records(folder / file_name(number), _records(dataset, compute, work, number))
    return len(wanted), len(numbers) - len(wanted)


def _records(dataset: grain.MapDataset, compute: Compute, work: Work, number: int) -> Iterator[Record]:
    """The records of file `number`."""
    first, end = number * work.per_file, min((number + 1) * work.per_file, work.samples)
    for start in range(first, end, work.batch):
        # The last batch is filled up with its last record: one shape, one program.
        places = np.minimum(np.arange(start, start + work.batch), end - 1).astype(np.int32)
        raw = jax.tree.map(lambda *leaves: np.stack(leaves), *[dataset[int(place)] for place in places])
        found = jax.device_get(compute(raw, places))
        for index in range(min(work.batch, end - start)):
            entries = {name: value[index] for name, value in found.items()}
            yield {name: as_stored(value) if name in IMAGES else value for name, value in entries.items()}


def _sharding(batch: int) -> jax.sharding.NamedSharding:
    """Records split over this host's devices (other hosts make other shards)."""
    devices = jax.local_devices()
    if batch % len(devices):
        raise ValueError(f"--batch {batch} must be a multiple of the {len(devices)} devices")
    mesh = jax.make_mesh((len(devices),), ("data",), (jax.sharding.AxisType.Auto,), devices=devices)
    return jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))


def _compute(recipe: Recipe, prepare: Prepare, seed: int, sharding: jax.sharding.NamedSharding) -> Compute:
    precompute, spec = recipe.precompute, sharding.spec
    assert precompute is not None
    key = jax.random.fold_in(jax.random.key(seed), TEACHER)
    record_by_record = jax.shard_map(prepare, mesh=sharding.mesh, in_specs=spec, out_specs=spec)

    @jax.jit
    def run(frozen: Frozen, batch: Any, numbers: jax.Array) -> dict[str, jax.Array]:
        ready = record_by_record(batch)
        keys = jax.vmap(lambda number: jax.random.fold_in(key, number))(numbers)
        noise = NoiseField(keys, jnp.zeros((numbers.shape[0], 2), jnp.int32))
        return {**ready, **precompute(frozen, ready, noise)}

    frozen = jax.device_put(recipe.frozen, jax.sharding.NamedSharding(sharding.mesh, jax.sharding.PartitionSpec()))
    return lambda batch, numbers: run(frozen, *jax.device_put((batch, numbers), sharding))
