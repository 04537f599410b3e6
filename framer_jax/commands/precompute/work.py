"""Shared by all kinds of precomputed records: files and shards, crops of photographs, one sharded program."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import grain
import jax
import numpy as np

from framer_jax.commands.engine_option import Plan, add_engine_options
from framer_jax.commands.override_option import add_override_option
from framer_jax.commands.shard_option import add_shard_option, parse_shard
from framer_jax.commands.training_data import open_photos
from framer_jax.config import ConfigError
from framer_jax.console import message_console
from framer_jax.data.pipeline import make_prepare, record_dataset
from framer_jax.data.records import Record, file_name, is_records, write_records
from framer_jax.data.settings import degradation_preset
from framer_jax.data.sources import ImageFiles
from framer_jax.degradations.presets import DegradationPreset
from framer_jax.porting.files import check_output_folder
from framer_jax.progress import track
from framer_jax.recipes.base import Frozen

Compute = Callable[[Any, np.ndarray], Mapping[str, jax.Array]]
"""(batch as loaded, record numbers [B]) → entries of the records, [B, ...] each."""

Entries = Callable[[Frozen, dict[str, jax.Array], jax.Array], dict[str, jax.Array]]
"""(frozen weights, 'hr' and 'lr' in [0, 1], keys [B]) → entries of the records, [B, ...] each."""


class Work(NamedTuple):
    """Number of records, and sizes of files and batches.

    Attributes:
      samples: number of records over all shards.
      per_file: number of records in a file.
      batch: number of records computed at a time, a multiple of the number of devices.
      shard: (i, n) selects the files whose number is i modulo n.
      quiet: whether progress is not reported.
    """

    samples: int
    per_file: int = 256
    batch: int = 8
    shard: tuple[int, int] = (0, 1)
    quiet: bool = False


class Written(NamedTuple):
    """What one call wrote.

    Attributes:
      new: number of files, or of captions, that were computed.
      existing: number of those that were there.
      notes: what else is reported.
    """

    new: int
    existing: int
    notes: tuple[str, ...] = ()


class Crops(NamedTuple):
    """Degraded crops of a configuration's photographs.

    Attributes:
      source: the photographs.
      dataset: crops with drawn degradation parameters; each depends on the seed and its position only.
      preset: preset of the degradations.
    """

    source: ImageFiles
    dataset: grain.MapDataset
    preset: DegradationPreset


def add_config_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of records that are computed from a configuration's crops."""
    parser.add_argument("--config", required=True, help="configuration of the training run that will read the records")
    add_override_option(parser)
    parser.add_argument("--output", required=True, help="folder of the records; existing files are kept")
    parser.add_argument("--samples", type=int, required=True, metavar="N", help="number of crops over all shards")


def add_portions(parser: argparse.ArgumentParser, what: str) -> None:
    """Declare the arguments of files, batches and shards."""
    parser.add_argument("--per-file", type=int, default=256, help="number of records in a file (256)")
    parser.add_argument("--batch", type=int, default=8, help=f"number of {what} computed at a time (8)")
    add_shard_option(parser, "write only every N-th file, from file I on")
    parser.add_argument("--overwrite", action="store_true", help="replace records that were made with other settings")
    add_engine_options(parser)


def work_of(arguments: argparse.Namespace, samples: int) -> Work:
    """The number of records and the sizes of files and batches that the arguments state.

    Raises:
      ValueError: a number below one, or an invalid shard.
    """
    work = Work(samples, arguments.per_file, arguments.batch, parse_shard(arguments.shard), arguments.quiet)
    for name in ("samples", "per_file", "batch"):
        if getattr(work, name) < 1:
            raise ValueError(f"--{name.replace('_', '-')} must be at least 1; got {getattr(work, name)}")
    return work


def plan_of(work: Work) -> Plan[None]:
    """The number of files."""
    return Plan(-(-work.samples // work.per_file), None)


def merge(arguments: argparse.Namespace, facts: Any, parts: Sequence[Written]) -> Written:
    """What all shards wrote; see framer_jax.commands.engine_option.ShardedCommand."""
    notes = dict.fromkeys(note for part in parts for note in part.notes)
    return Written(sum(part.new for part in parts), sum(part.existing for part in parts), tuple(notes))


def open_crops(config: dict[str, Any], output: Path) -> Crops:
    """The crops that a configuration trains on.

    Args:
      config: plain dict of a whole configuration; its seed determines crops and degradations.
      output: folder of the records.

    Raises:
      ConfigError, ValueError, FileNotFoundError: the photographs cannot be used, in one line.
    """
    data = config["data"]
    if is_records(data["train"]):
        raise ConfigError(f"data.train {data['train']} holds records already: name a folder of photographs")
    if data.get("pairs"):
        raise ConfigError("data.pairs: precomputed records are of degraded photographs; train on the pairs themselves")
    if data.get("mixture"):
        raise ConfigError("data.mixture: records are precomputed for one folder; train on the mixture itself")
    preset = degradation_preset(data, config["recipe"]["scale"])
    photos = [data["train"]] if Path(data["train"]).is_dir() else []
    check_output_folder("--output", output, {"the photographs": photos})
    source = open_photos(data)
    seed = config["training"]["seed"]
    dataset = record_dataset(
        source, data["crop"], preset, seed, crop_mode=data["crop_mode"], flip_and_rotate=data["flip_and_rotate"]
    )
    return Crops(source, dataset, preset)


def write_files(folder: Path, work: Work, records_of: Callable[[int, int], Iterable[Record]]) -> tuple[int, int]:
    """Write the files of this shard that do not exist yet, with a progress bar.

    Args:
      folder: folder of the records, with its manifest.
      work: number of records, and sizes of files and batches.
      records_of: (first, end) → the records of these numbers.

    Returns:
      the number of files written, and of files that existed already.
    """
    numbers = range(work.shard[0], -(-work.samples // work.per_file), work.shard[1])
    missing = [number for number in numbers if not (folder / file_name(number)).is_file()]
    for number in track(missing, "files of records", message_console(work.quiet)):
        first, end = number * work.per_file, min((number + 1) * work.per_file, work.samples)
        write_records(folder / file_name(number), records_of(first, end))
    return len(missing), len(numbers) - len(missing)


def computed(
    dataset: grain.MapDataset, compute: Compute, batch: int, stored: Callable[[str, np.ndarray], np.ndarray]
) -> Callable[[int, int], Iterator[Record]]:
    """The function (first, end) → records, computed in batches.

    Args:
      dataset: the crops.
      compute: computes a batch.
      batch: number of records in it.
      stored: (name, value of one record) → the value as it is written.
    """

    def records_of(first: int, end: int) -> Iterator[Record]:
        for start in range(first, end, batch):
            # The last batch is padded with its last record, so that all batches run the same program.
            numbers = np.minimum(np.arange(start, start + batch), end - 1).astype(np.int32)
            raw = jax.tree.map(lambda *leaves: np.stack(leaves), *[dataset[int(number)] for number in numbers])
            entries = jax.device_get(compute(raw, numbers))
            for index in range(min(batch, end - start)):
                yield {name: stored(name, value[index]) for name, value in entries.items()}

    return records_of


def devices_of(batch: int) -> jax.sharding.NamedSharding:
    """The sharding of records over this host's devices (other hosts write other shards).

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
    """One jitted program that degrades a batch and computes entries, each record with its own key.

    Args:
      sharding: from `devices_of`.
      preset: preset of the degradations.
      frozen: weights, copied to every device.
      entries: see `Entries`.
      key: the key into which the numbers of records are folded.
    """
    spec = sharding.spec
    degrade = jax.shard_map(make_prepare(preset), mesh=sharding.mesh, in_specs=spec, out_specs=spec)

    @jax.jit
    def run(frozen: Frozen, batch: Any, numbers: jax.Array) -> dict[str, jax.Array]:
        return entries(frozen, degrade(batch), jax.vmap(lambda number: jax.random.fold_in(key, number))(numbers))

    placed = jax.device_put(frozen, jax.sharding.NamedSharding(sharding.mesh, jax.sharding.PartitionSpec()))
    return lambda batch, numbers: run(placed, *jax.device_put((batch, numbers), sharding))
