"""What every kind of precomputed records shares: portions and shards, crops of photographs, one sharded program."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import grain
import jax
import numpy as np
from rich.console import Console
from rich.progress import track

from framer_jax.commands.training_data import least_side, open_source
from framer_jax.config import ConfigError
from framer_jax.data.photos import TRAINING
from framer_jax.data.pipeline import make_prepare, record_dataset
from framer_jax.data.records import Record, file_name, is_records, write_records
from framer_jax.data.sources import ImageFiles
from framer_jax.degradations.presets import DegradationPreset, preset_by_name
from framer_jax.recipes.base import Frozen

Compute = Callable[[Any, np.ndarray], Mapping[str, jax.Array]]
"""(batch as loaded, record numbers [B]) → entries of the records, [B, ...] each."""

Entries = Callable[[Frozen, dict[str, jax.Array], jax.Array], dict[str, jax.Array]]
"""(frozen weights, 'hr' and 'lr' in [0, 1], keys [B]) → entries of the records, [B, ...] each."""


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


class Crops(NamedTuple):
    """Degraded crops of a configuration's photographs.

    Attributes:
      source: the photographs.
      dataset: crops with their degradations drawn; each depends on the seed and its position alone.
      preset: of the degradations.
    """

    source: ImageFiles
    dataset: grain.MapDataset
    preset: DegradationPreset


def add_config_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of what is made of a configuration's crops."""
    parser.add_argument("--config", required=True, help="configuration of the training run that will read the records")
    parser.add_argument(
        "--set", dest="changes", action="append", default=[], metavar="KEY=VALUE", help="change one knob; repeatable"
    )
    parser.add_argument("--output", required=True, help="folder of the records; what it has already is kept")
    parser.add_argument("--samples", type=int, required=True, metavar="N", help="how many crops, over all shards")


def add_portions(parser: argparse.ArgumentParser, what: str) -> None:
    """Declare the arguments of the portions that records are made in."""
    parser.add_argument("--per-file", type=int, default=256, help="records in one file")
    parser.add_argument("--batch", type=int, default=8, help=f"{what} computed at a time")
    parser.add_argument("--shard", default="0/1", metavar="I/N", help="make only every N-th file, from file I")
    parser.add_argument("--overwrite", action="store_true", help="replace records that were made otherwise")


def work_of(arguments: argparse.Namespace, samples: int) -> Work:
    """The portions that the arguments ask for.

    Raises:
      ValueError: a number below one, or no shard.
    """
    work = Work(samples, arguments.per_file, arguments.batch, parse_shard(arguments.shard))
    for name in ("samples", "per_file", "batch"):
        if getattr(work, name) < 1:
            raise ValueError(f"--{name.replace('_', '-')} must be at least 1; got {getattr(work, name)}")
    return work


def parse_shard(text: str) -> tuple[int, int]:
    """'I/N' as two numbers, 0 <= I < N.

    Raises:
      ValueError: it is not such a pair.
    """
    found = re.fullmatch(r"(\d+)/(\d+)", text)
    if not found or int(found[1]) >= int(found[2]):
        raise ValueError(f"--shard must be I/N with 0 <= I < N, such as 0/4; got {text!r}")
    return int(found[1]), int(found[2])


def open_crops(config: dict[str, Any], output: Path) -> Crops:
    """The crops that a configuration trains on.

    Args:
      config: plain dict of a whole configuration; its seed is that of crops and degradations.
      output: where the records will be.

    Raises:
      ConfigError, ValueError, FileNotFoundError: the photographs cannot be used, in one line.
    """
    data = config["data"]
    if is_records(data["train"]):
        raise ConfigError(f"data.train {data['train']} holds records already: name a folder of photographs")
    preset = preset_by_name(data["degradation"], config["recipe"]["scale"])
    if Path(data["train"]).is_dir() and output.resolve() == Path(data["train"]).resolve():
        raise ConfigError(f"--output {output} is the folder of the photographs: name another one")
    source = open_source(data["train"], TRAINING, least_side(data))
    seed = config["training"]["seed"]
    dataset = record_dataset(
        source, data["crop"], preset, seed, crop_mode=data["crop_mode"], flip_and_rotate=data["flip_and_rotate"]
    )
    return Crops(source, dataset, preset)


def write_files(folder: Path, work: Work, records_of: Callable[[int, int], Iterable[Record]]) -> tuple[int, int]:
    """Write this shard's files that are not there yet, with a progress bar.

    Args:
      folder: of the records, with its manifest.
      work: how many, and in what portions.
      records_of: (first, end) → the records of these numbers.

    Returns:
      numbers of files written, and found written already.
    """
    numbers = range(work.shard[0], -(-work.samples // work.per_file), work.shard[1])
    wanted = [number for number in numbers if not (folder / file_name(number)).is_file()]
    for number in track(wanted, "files of records", console=Console(stderr=True)):
        first, end = number * work.per_file, min((number + 1) * work.per_file, work.samples)
        write_records(folder / file_name(number), records_of(first, end))
    return len(wanted), len(numbers) - len(wanted)


def computed(
    dataset: grain.MapDataset, compute: Compute, batch: int, stored: Callable[[str, np.ndarray], np.ndarray]
) -> Callable[[int, int], Iterator[Record]]:
    """Records (first, end) → computed in batches; `stored` (name, value of one record) → as it is written."""

    def records_of(first: int, end: int) -> Iterator[Record]:
        for start in range(first, end, batch):
            # The last batch is filled up with its last record: one shape, one program.
            places = np.minimum(np.arange(start, start + batch), end - 1).astype(np.int32)
            raw = jax.tree.map(lambda *leaves: np.stack(leaves), *[dataset[int(place)] for place in places])
            found = jax.device_get(compute(raw, places))
            for index in range(min(batch, end - start)):
                yield {name: stored(name, value[index]) for name, value in found.items()}

    return records_of


def devices_of(batch: int) -> jax.sharding.NamedSharding:
    """Records split over this host's devices (other hosts make other shards).

    Raises:
      ValueError: the batch cannot be split evenly.
    """
    devices = jax.local_devices()
    if batch % len(devices):
        raise ValueError(f"--batch {batch} must be a multiple of the {len(devices)} devices")
    mesh = jax.make_mesh((len(devices),), ("data",), (jax.sharding.AxisType.Auto,), devices=devices)
    return jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))


def compute_on(
    sharding: jax.sharding.NamedSharding, preset: DegradationPreset, frozen: Frozen, entries: Entries, key: jax.Array
) -> Compute:
    """One jitted program: degrade a batch, then compute entries, each record with a key of its own.

    Args:
      sharding: from `devices_of`.
      preset: of the degradations.
      frozen: weights, copied to every device.
      entries: see Entries.
      key: that records fold their numbers into.
    """
    spec = sharding.spec
    degrade = jax.shard_map(make_prepare(preset), mesh=sharding.mesh, in_specs=spec, out_specs=spec)

    @jax.jit
    def run(frozen: Frozen, batch: Any, numbers: jax.Array) -> dict[str, jax.Array]:
        return entries(frozen, degrade(batch), jax.vmap(lambda number: jax.random.fold_in(key, number))(numbers))

    placed = jax.device_put(frozen, jax.sharding.NamedSharding(sharding.mesh, jax.sharding.PartitionSpec()))
    return lambda batch, numbers: run(placed, *jax.device_put((batch, numbers), sharding))
