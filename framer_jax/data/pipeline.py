"""From a source of photographs or records to training batches.

Grain workers crop, flip and draw the degradation's parameters, each from its record's own random generator; the
degradation itself runs inside the jitted training step (`make_prepare`). Order, random draws and an example's place in
the global batch depend on the seed and the position only, not on threads, worker processes, hosts or interruptions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import grain
import jax
import jax.numpy as jnp
import numpy as np

from framer_jax.data.class_folders import LABEL, LabelledPhotos
from framer_jax.data.crops import make_crop, make_pair_crop
from framer_jax.data.embeddings import CaptionedPhotos
from framer_jax.data.latents import LatentFiles
from framer_jax.data.photo_pairs import PhotoPairs
from framer_jax.data.records import RecordFiles
from framer_jax.data.settings import CROP_MODES, UNSHARPENED
from framer_jax.data.sources import ImageFiles, Photo
from framer_jax.data.text import POOLED_TEXT, TEXT
from framer_jax.data.workers import WorkerBatches, check_main_module, start_quiet_tracker, start_worker
from framer_jax.degradations.draw import draw
from framer_jax.degradations.pipeline import apply, training_target
from framer_jax.degradations.presets import DegradationPreset

RawBatch = Mapping[str, Any]
"""'hr': uint8 [B, crop, crop, 3]; 'degradation': DegradationParameters with a leading [B], or of pairs 'lr': uint8
[B, crop / scale, crop / scale, 3]; 'record': int32 [B]."""

Prepare = Callable[[RawBatch], dict[str, jax.Array]]
"""The first part of the training step: loaded batch → the entries that losses use, on the device."""


def make_record(
    photo: Photo,
    rng: np.random.Generator,
    crop: int,
    preset: DegradationPreset,
    crop_mode: str = "crop",
    flip_and_rotate: bool = False,
) -> dict[str, Any]:
    """Take a random crop (`make_crop`) and draw its degradation.

    Args:
      photo: see `make_crop`.
      rng: the record's own generator.
      crop: see `make_crop`.
      preset: the distribution of the degradation.
      crop_mode: see `make_crop`.
      flip_and_rotate: see `make_crop`.

    Returns:
      'hr' uint8 [crop, crop, 3], 'degradation', 'record' int32.
    """
    record = make_crop(photo, rng, crop, crop_mode, flip_and_rotate)
    return {**record, "degradation": draw(rng, preset)}


def labelled_dataset(
    source: LabelledPhotos, crop: int, seed: int, *, crop_mode: str = "crop", epochs: int | None = None
) -> grain.MapDataset:
    """Random crops of shuffled photographs with their classes; arguments as of `make_batches`."""
    dataset = grain.MapDataset.source(source.photos).seed(seed).shuffle().repeat(epochs)
    crops = dataset.random_map(lambda photo, rng: make_crop(photo, rng, crop, crop_mode))
    return crops.map(source.with_label)


def record_dataset(
    source: ImageFiles,
    crop: int,
    preset: DegradationPreset,
    seed: int,
    *,
    crop_mode: str = "crop",
    flip_and_rotate: bool = False,
    epochs: int | None = None,
) -> grain.MapDataset:
    """Random crops of shuffled photographs with degradation parameters: the records that `make_batches` batches.

    Each record's generator depends on the seed and its position only. Arguments and errors as for `make_batches`.
    """
    if crop < 1 or crop % preset.scale:
        raise ValueError(f"the crop must be a multiple of the scale {preset.scale}; got {crop}")
    if crop_mode not in CROP_MODES:
        raise ValueError(f"crop_mode is {crop_mode!r}: choose one of {', '.join(CROP_MODES)}")
    dataset = grain.MapDataset.source(source).seed(seed).shuffle().repeat(epochs)
    return dataset.random_map(lambda photo, rng: make_record(photo, rng, crop, preset, crop_mode, flip_and_rotate))


def pair_dataset(
    source: PhotoPairs,
    crop: int,
    seed: int,
    *,
    crop_mode: str = "crop",
    flip_and_rotate: bool = False,
    epochs: int | None = None,
) -> grain.MapDataset:
    """Random crops of shuffled pairs, which are not degraded; arguments and errors as of `record_dataset`."""
    if crop < 1 or crop % source.scale:
        raise ValueError(f"the crop must be a multiple of the scale {source.scale}; got {crop}")
    if crop_mode != "crop":
        raise ValueError(f"crop_mode is {crop_mode!r}: pairs are not reduced, so it must be crop")
    dataset = grain.MapDataset.source(source).seed(seed).shuffle().repeat(epochs)
    return dataset.random_map(lambda pair, rng: make_pair_crop(pair, rng, crop, flip_and_rotate))


def make_batches(
    source: ImageFiles | PhotoPairs | CaptionedPhotos | LabelledPhotos | RecordFiles,
    crop: int,
    preset: DegradationPreset | None,
    global_batch: int,
    seed: int,
    *,
    crop_mode: str = "crop",
    flip_and_rotate: bool = False,
    num_threads: int = 4,
    num_workers: int = 0,
    epochs: int | None = None,
    rows: Sequence[int] | None = None,
) -> grain.DatasetIterator | WorkerBatches:
    """Shuffled batches of random crops or precomputed records, endless unless `epochs` is given.

    Args:
      source: photographs (anything with Grain's random-access protocol that yields `Photo`), pairs, either of them with
        caption embeddings, labelled photographs, or precomputed records, which are loaded as they are.
      crop: side of the HR crop in pixels, a multiple of the preset's scale.
      preset: the distribution of the degradations; None for pairs and labelled photographs, which are not degraded.
      global_batch: batch size over all hosts.
      seed: seed of order, crops, flips and degradations.
      crop_mode: see `make_record`.
      flip_and_rotate: see `make_record`.
      num_threads: reading threads; 0 reads in the caller's thread.
      num_workers: worker processes; rarely useful, since Pillow decodes in threads and each process has its own cache.
      epochs: passes over the source, each in another order and with other random draws; None never ends.
      rows: places in the global batch of the examples that this host loads, such as
        framer_jax.training.hosts.host_rows(settings); None: all.

    Returns:
      An iterator over `RawBatch`; `get_state` and `set_state` resume it exactly, `close` ends its threads. The state
      counts batches, so that it is the same on all hosts and for any number of them.

    Raises:
      ValueError: a crop that is not a multiple of the scale, rows outside of the batch, fewer records than one batch,
        or worker processes in a program that they cannot import (`check_main_module`).
    """
    check_main_module(num_workers)
    rows = range(global_batch) if rows is None else rows
    if not rows or not 0 <= min(rows) <= max(rows) < global_batch:
        raise ValueError(f"the batch must be positive and hold the rows of this host; got {global_batch}")
    if epochs is not None and epochs * len(source) < global_batch:
        raise ValueError(
            f"{epochs} epoch(s) of {len(source)} images are less than one batch of {global_batch}: "
            "use more epochs or a smaller batch"
        )
    dataset = _dataset_of(source, crop, preset, seed, crop_mode, flip_and_rotate, epochs)
    # All is drawn before splitting over hosts, so that a record's generator depends on its global position only.
    dataset = _HostRows(dataset, rows, global_batch).batch(len(rows), drop_remainder=True)
    batches = dataset.to_iter_dataset(grain.ReadOptions(num_threads=num_threads, prefetch_buffer_size=2 * num_threads))
    if num_workers > 0:
        _mark_absl_flags_as_parsed()
        start_quiet_tracker()
        workers = grain.MultiprocessingOptions(num_workers=num_workers)
        return WorkerBatches(iter(batches.mp_prefetch(workers, worker_init_fn=start_worker)))
    return iter(batches)


def _dataset_of(
    source: ImageFiles | PhotoPairs | CaptionedPhotos | LabelledPhotos | RecordFiles,
    crop: int,
    preset: DegradationPreset | None,
    seed: int,
    crop_mode: str,
    flip_and_rotate: bool,
    epochs: int | None,
) -> grain.MapDataset:
    """The records of a source in their order, with everything that is drawn at random."""
    if isinstance(source, RecordFiles):
        dataset = grain.MapDataset.source(source).seed(seed).shuffle().repeat(epochs)
    elif isinstance(source, LabelledPhotos):
        dataset = labelled_dataset(source, crop, seed, crop_mode=crop_mode, epochs=epochs)
    else:
        photos = source.photos if isinstance(source, CaptionedPhotos) else source
        options: dict[str, Any] = {"crop_mode": crop_mode, "flip_and_rotate": flip_and_rotate, "epochs": epochs}
        if isinstance(photos, PhotoPairs):
            dataset = pair_dataset(photos, crop, seed, **options)
        else:
            assert preset is not None
            dataset = record_dataset(photos, crop, preset, seed, **options)
    if isinstance(source, LatentFiles | CaptionedPhotos):
        dataset = dataset.random_map(source.with_text)
    return dataset


class _HostRows(grain.MapDataset[Any]):
    """The examples of a dataset at some places in each global batch; a last batch that is not full is left out."""

    def __init__(self, parent: grain.MapDataset[Any], rows: Sequence[int], global_batch: int) -> None:
        super().__init__(parent)
        self._rows, self._global_batch = tuple(rows), global_batch

    def __len__(self) -> int:
        return len(self._parent) // self._global_batch * len(self._rows)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return self.slice(index)
        batch, place = divmod(index, len(self._rows))
        return self._parent[batch * self._global_batch + self._rows[place]]


def _mark_absl_flags_as_parsed() -> None:
    """Allow Grain's worker processes to read absl flags, which only `absl.app.run` parses."""
    from absl import flags

    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()


def prepare_for(
    source: ImageFiles | PhotoPairs | CaptionedPhotos | RecordFiles,
    preset: DegradationPreset,
    entries: Sequence[str] = (),
) -> Prepare:
    """The function that turns loaded batches of a source into batches with the entries `source.batch_entries`.

    Args:
      source: what the batches are loaded from.
      preset: the preset that degradations of photographs are drawn from; unused for pairs.
      entries: the entries that a recipe needs; see `make_prepare`.
    """
    if isinstance(source, RecordFiles):
        return _make_prepare_records(source.batch_entries)
    photos = source.photos if isinstance(source, CaptionedPhotos) else source
    prepare_photos = _make_prepare_pairs(entries) if isinstance(photos, PhotoPairs) else make_prepare(preset, entries)
    if not isinstance(source, CaptionedPhotos):
        return prepare_photos

    def prepare(batch: RawBatch) -> dict[str, jax.Array]:
        texts = {name: jnp.asarray(batch[name]).astype(jnp.float32) for name in (TEXT, POOLED_TEXT)}
        return {**prepare_photos(batch), **texts}

    return prepare


def make_prepare(preset: DegradationPreset, entries: Sequence[str] = ()) -> Prepare:
    """The prepare function of photographs: crops and degradation parameters → HR and LR images.

    Args:
      preset: the preset that the batch's degradations were drawn from.
      entries: the entries that a recipe needs; 'hr_unsharpened' is made if it is among them.

    Returns:
      `prepare(batch)` → 'hr' [B, crop, crop, 3] (sharpened if the preset says so), 'lr' [B, crop / scale,
      crop / scale, 3] and, if needed, 'hr_unsharpened' [B, crop, crop, 3], float32 in [0, 1].
      A record contains all its randomness, so it gives the same pair wherever it is prepared.
      On a mesh, wrap it in `jax.shard_map` over the batch axis; otherwise XLA gathers the whole batch for each FFT.
    """

    def prepare(batch: RawBatch) -> dict[str, jax.Array]:
        plain = jnp.asarray(batch["hr"]).astype(jnp.float32) / 255.0
        hr = training_target(plain, preset)
        further = {UNSHARPENED: plain} if UNSHARPENED in entries else {}
        return {"hr": hr, "lr": apply(batch["degradation"], hr, preset), **further}

    return prepare


def _make_prepare_pairs(entries: Sequence[str]) -> Prepare:
    """The prepare function of pairs: uint8 images become float32 in [0, 1]; nothing is degraded or sharpened."""
    to_float32 = _make_prepare_records(PhotoPairs.batch_entries)

    def prepare(batch: RawBatch) -> dict[str, jax.Array]:
        images = to_float32(batch)
        return {**images, UNSHARPENED: images["hr"]} if UNSHARPENED in entries else images

    return prepare


def prepare_labelled(batch: RawBatch) -> dict[str, jax.Array]:
    """The prepare function of labelled photographs: 'hr' [B, crop, crop, 3] in [0, 1] and 'label' int32 [B]."""
    return {"hr": jnp.asarray(batch["hr"]).astype(jnp.float32) / 255.0, LABEL: jnp.asarray(batch[LABEL])}


def _make_prepare_records(entries: tuple[str, ...]) -> Prepare:
    """The prepare function of precomputed records: uint8 images and float16 arrays become float32."""

    def to_float32(value: jax.Array) -> jax.Array:
        if value.dtype == jnp.uint8:
            return value.astype(jnp.float32) / 255.0
        return value.astype(jnp.float32) if value.dtype == jnp.float16 else value

    return lambda batch: {name: to_float32(jnp.asarray(batch[name])) for name in entries}


def to_uint8_if_exact(image: np.ndarray) -> np.ndarray:
    """An image of a record, float32 in [0, 1], as uint8 if its values are multiples of 1/255, otherwise unchanged.

    Rounding errors of up to 1e-3 levels are ignored.
    """
    levels = np.round(image * 255.0)
    exact = np.all(np.abs(image * 255.0 - levels) < 1e-3)
    return levels.astype(np.uint8) if exact else image
