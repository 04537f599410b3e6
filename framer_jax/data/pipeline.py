"""From a source of photographs to training batches.

Grain workers crop, flip and draw the degradation's parameters, each from its record's own generator; the degradation
itself runs inside the jitted training step (`make_prepare`). Order and draws depend on the seed and the position only:
not on threads, worker processes, hosts, or a stop in between.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

import grain
import jax
import jax.numpy as jnp
import numpy as np

from framer_jax.data.embeddings import CaptionedPhotos
from framer_jax.data.latents import LatentFiles
from framer_jax.data.records import RecordFiles
from framer_jax.data.sources import ImageFiles, Photo
from framer_jax.data.text import POOLED, PROMPT
from framer_jax.degradations.draw import draw
from framer_jax.degradations.pipeline import apply, training_target
from framer_jax.degradations.presets import DegradationPreset

RawBatch = Mapping[str, Any]
"""'hr': uint8 [B, crop, crop, 3]; 'degradation': DegradationParameters with a leading [B]; 'record': int32 [B]."""


FRAMINGS = ("crop", "square")
"""What of a photograph is trained on: a random crop of its pixels, or its largest square, reduced to the crop."""


def make_record(
    photo: Photo,
    rng: np.random.Generator,
    crop: int,
    preset: DegradationPreset,
    framing: str = "crop",
    turns: bool = False,
) -> dict[str, Any]:
    """Cut a random crop, flip it or not, and draw its degradation.

    Args:
      photo: the photograph, at least `crop` a side (smaller ones are reflected to that for 'square').
      rng: the record's own generator.
      crop: side of the HR crop in pixels.
      preset: what the degradation is drawn from.
      framing: of `FRAMINGS`; 'square' is a random square as wide as the shorter side, reduced by averaging areas.
      turns: also flip it upside down or not, and transpose it or not.

    Returns:
      'hr' uint8 [crop, crop, 3], 'degradation', 'record' int32.
    """
    height, width = photo.size
    if framing == "square" and min(height, width) < crop:
        missing = [(0, max(crop - length, 0)) for length in (height, width)]
        photo = photo._replace(image=np.pad(photo.crop(0, 0, height, width), (*missing, (0, 0)), mode="reflect"))
        height, width = photo.size
    side = min(height, width) if framing == "square" else crop
    top, left = int(rng.integers(height - side + 1)), int(rng.integers(width - side + 1))
    hr = photo.crop(top, left, side, side)
    if side != crop:
        areas = area_matrix(side, crop)
        reduced = np.einsum("ij,jkc,lk->ilc", areas, hr.astype(np.float32), areas, optimize=True)
        hr = np.clip(np.round(reduced), 0, 255).astype(np.uint8)
    if rng.integers(2):
        hr = hr[:, ::-1]
    if turns and rng.integers(2):
        hr = hr[::-1]
    if turns and rng.integers(2):
        hr = hr.transpose(1, 0, 2)
    return {"hr": np.ascontiguousarray(hr), "degradation": draw(rng, preset), "record": np.int32(photo.record)}


@lru_cache(maxsize=64)
def area_matrix(size: int, new_size: int) -> np.ndarray:
    """[new_size, size] float32: the share of each old pixel in each new one's area, as OpenCV's INTER_AREA weighs."""
    edges = np.arange(new_size + 1) * (size / new_size)
    starts = np.arange(size)
    overlap = np.minimum(edges[1:, None], starts + 1) - np.maximum(edges[:-1, None], starts)
    return (np.maximum(overlap, 0.0) * (new_size / size)).astype(np.float32)


def record_dataset(
    source: ImageFiles,
    crop: int,
    preset: DegradationPreset,
    seed: int,
    *,
    framing: str = "crop",
    turns: bool = False,
    epochs: int | None = None,
) -> grain.MapDataset:
    """Random crops of shuffled photographs with their degradations drawn: what `make_batches` makes batches of.

    Each record's generator depends on the seed and its position alone. Arguments and errors as of `make_batches`.
    """
    if crop < 1 or crop % preset.scale:
        raise ValueError(f"the crop must be a multiple of the scale {preset.scale}; got {crop}")
    if framing not in FRAMINGS:
        raise ValueError(f"data.framing must be one of {', '.join(FRAMINGS)}, not {framing!r}")
    dataset = grain.MapDataset.source(source).seed(seed).shuffle().repeat(epochs)
    return dataset.random_map(lambda photo, rng: make_record(photo, rng, crop, preset, framing, turns))


def make_batches(
    source: ImageFiles | CaptionedPhotos | RecordFiles,
    crop: int,
    preset: DegradationPreset,
    global_batch: int,
    seed: int,
    *,
    framing: str = "crop",
    turns: bool = False,
    num_threads: int = 4,
    num_workers: int = 0,
    epochs: int | None = None,
    process_index: int | None = None,
    process_count: int | None = None,
) -> grain.DatasetIterator:
    """Endless (or `epochs` long) shuffled batches of random crops.

    Args:
      source: photographs; anything with Grain's random-access protocol that yields `Photo`. Or such with the
        embeddings of their captions. Or records computed beforehand, which come as they are.
      crop: side of the HR crop in pixels, a multiple of the preset's scale.
      preset: what degradations are drawn from.
      global_batch: batch over all hosts; each host gets its own part of the same global batches.
      seed: of order, crops, flips and degradations.
      framing: see `make_record`.
      turns: see `make_record`.
      num_threads: reading threads; 0 reads in the caller's thread.
      num_workers: worker processes; rarely worth it: Pillow decodes in threads, and each process keeps its own cache.
      epochs: passes over the source; None never ends. Each one has another order and other draws.
      process_index: this host, from 0; jax's by default.
      process_count: number of hosts; jax's by default.

    Returns:
      An iterator over `RawBatch`; `get_state` / `set_state` resume it exactly, `close` ends its threads.

    Raises:
      ValueError: a crop that is no multiple of the scale, a batch that hosts cannot share evenly, or fewer records
        than one batch.
    """
    index = jax.process_index() if process_index is None else process_index
    count = jax.process_count() if process_count is None else process_count
    if global_batch < 1 or global_batch % count:
        raise ValueError(f"the batch must be a positive multiple of the {count} host(s); got {global_batch}")
    if epochs is not None and epochs * len(source) < global_batch:
        raise ValueError(
            f"{epochs} epoch(s) of {len(source)} images are less than one batch of {global_batch}: "
            "use more epochs or a smaller batch"
        )
    if isinstance(source, RecordFiles):
        dataset = grain.MapDataset.source(source).seed(seed).shuffle().repeat(epochs)
        if isinstance(source, LatentFiles):
            dataset = dataset.random_map(source.with_text)
    else:
        # Drawn before the hosts part: a record's generator then depends on its global position alone.
        photos = source.photos if isinstance(source, CaptionedPhotos) else source
        dataset = record_dataset(photos, crop, preset, seed, framing=framing, turns=turns, epochs=epochs)
        if isinstance(source, CaptionedPhotos):
            dataset = dataset.random_map(source.with_text)
    dataset = dataset[index::count].batch(global_batch // count, drop_remainder=True)
    batches = dataset.to_iter_dataset(grain.ReadOptions(num_threads=num_threads, prefetch_buffer_size=2 * num_threads))
    if num_workers > 0:
        _let_grain_read_its_flags()
        batches = batches.mp_prefetch(grain.MultiprocessingOptions(num_workers=num_workers))
    return iter(batches)


def _let_grain_read_its_flags() -> None:
    """Grain's worker processes read absl flags, which nobody parses outside of `absl.app.run`."""
    from absl import flags

    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()


def make_prepare(preset: DegradationPreset) -> Callable[[RawBatch], dict[str, jax.Array]]:
    """The first part of the training step: raw batch → images, on the device.

    Args:
      preset: what the batch's degradations were drawn from.

    Returns:
      `prepare(batch)` → 'hr' [B, crop, crop, 3] (sharpened, where the preset says so) and 'lr' [B, crop / scale,
      crop / scale, 3], float32 in [0, 1]; and the texts of photographs with captions, float32.
      A record brings all its randomness, so it gives the same pair wherever it is prepared.
      On a mesh, wrap it in `jax.shard_map` over the batch axis: left alone, XLA gathers the whole batch for each FFT.
    """

    def prepare(batch: RawBatch) -> dict[str, jax.Array]:
        hr = training_target(jnp.asarray(batch["hr"]).astype(jnp.float32) / 255.0, preset)
        texts = {name: jnp.asarray(batch[name]).astype(jnp.float32) for name in (PROMPT, POOLED) if name in batch}
        return {"hr": hr, "lr": apply(batch["degradation"], hr, preset), **texts}

    return prepare


def images_of_records(batch: RawBatch) -> dict[str, jax.Array]:
    """As the result of `make_prepare`, for batches of precomputed records: float32 images, and what else they bring.

    What was stored as float16 comes as float32, too.
    """

    def widened(value: jax.Array) -> jax.Array:
        if value.dtype == jnp.uint8:
            return value.astype(jnp.float32) / 255.0
        return value.astype(jnp.float32) if value.dtype == jnp.float16 else value

    return {name: widened(jnp.asarray(value)) for name, value in batch.items() if name != "record"}


def as_stored(image: np.ndarray) -> np.ndarray:
    """An image of a record, float32 in [0, 1]: as uint8 if it has 256 levels (to a rounding error), else as it is."""
    levels = np.round(image * 255.0)
    exact = np.all(np.abs(image * 255.0 - levels) < 1e-3)
    return levels.astype(np.uint8) if exact else image
