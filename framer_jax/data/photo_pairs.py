"""LR and HR photographs that were both taken, as in RealSR and DRealSR: two folders, paired by name, read in step."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple, SupportsIndex

import numpy as np

from framer_jax.data.alignment import alignment_summary, estimated_shift
from framer_jax.data.files import list_images, summary_of
from framer_jax.data.image_index import IndexEntry, indexed
from framer_jax.data.image_names import by_name, examples, partners
from framer_jax.data.sources import CACHE_BYTES, ImageFiles, Pixels
from framer_jax.paths import AnyPath, as_path

COMPARED = 24
"""Number of pairs, spread evenly over all of them, whose alignment is estimated."""


class PhotoPair(NamedTuple):
    """A decoded pair.

    Attributes:
      hr: uint8 [scale * h, scale * w, 3].
      lr: uint8 [h, w, 3].
      record: its number in the source.
    """

    hr: Pixels
    lr: Pixels
    record: int


class PhotoPairs:
    """Pairs by number, with Grain's random-access protocol.

    A pair with a damaged file is logged, counted and replaced by the next one, as by `ImageFiles`.

    Attributes:
      scale: HR pixels per LR pixel.
      names: names of the HR images within their folder.
      kind: the kind of training data: what batches hold is the same as of photographs.
      batch_entries: the entries of prepared batches.
    """

    kind = ImageFiles.kind
    batch_entries = ImageFiles.batch_entries

    def __init__(self, hr: ImageFiles, lr: ImageFiles, scale: int) -> None:
        """Join images of the same numbers, whose sizes differ by the scale; see `pair_source`."""
        self._hr, self._lr, self.scale, self.names = hr, lr, scale, hr.names

    def __len__(self) -> int:
        return len(self._hr)

    def __getitem__(self, index: SupportsIndex) -> PhotoPair:
        number = int(index)
        if not 0 <= number < len(self):
            raise IndexError(f"there are {len(self)} pairs; there is no number {number}")
        for offset in range(len(self)):
            record = (number + offset) % len(self)
            lr, hr = self._lr[record], self._hr[record]
            if lr.record == hr.record == record:
                return PhotoPair(hr.image, lr.image, record)
        raise ValueError("every pair has a damaged image")

    def __repr__(self) -> str:
        return f"PhotoPairs({self._hr!r}, {self._lr!r})"

    def digests(self) -> dict[str, str]:
        """Name of every file, below 'hr/' or 'lr/' → digest of its content."""
        sides = {"hr": self._hr, "lr": self._lr}
        return {f"{side}/{name}": value for side, files in sides.items() for name, value in files.digests().items()}

    def damage(self) -> str:
        """See `ImageFiles.damage`."""
        return "; ".join(report for report in (self._hr.damage(), self._lr.damage()) if report)

    def alignment(self) -> str:
        """One line on how well LR and HR images lie on each other (framer_jax.data.alignment)."""
        numbers = sorted(set(np.linspace(0, len(self) - 1, COMPARED).astype(int).tolist()))
        pairs = {pair.record: pair for pair in map(self.__getitem__, numbers)}
        shifts = [estimated_shift(pair.hr, pair.lr) for pair in pairs.values()]
        return alignment_summary([self.names[record] for record in pairs], shifts, len(self))


def pair_source(
    lr_folder: str | Path,
    hr_folder: str | Path,
    scale: int,
    crop: int = 1,
    cache_bytes: int = CACHE_BYTES,
    small_share: float = 0.0,
) -> PhotoPairs:
    """The pairs of two folders, each searched with its subfolders and with an index (framer_jax.data.image_index).

    Images pair by their names without the file format; where these repeat in a folder, by their paths within the
    folder; and otherwise by their names without known endings (framer_jax.data.image_names).

    Args:
      lr_folder: folder of the LR images.
      hr_folder: folder of the HR images.
      scale: HR pixels per LR pixel.
      crop: smallest allowed side of an HR image.
      cache_bytes: see `CACHE_BYTES`, of the images of each folder.
      small_share: see `ImageFiles`.

    Raises:
      FileNotFoundError: there is no such folder.
      ValueError: no images, files of the same name, images without a partner, sizes that do not differ by the scale,
        or as of `ImageFiles`.
    """
    folders = as_path(lr_folder), as_path(hr_folder)
    paths = _paired(_listed(folders[0], "LR"), _listed(folders[1], "HR"), folders)
    names = [
        {pair: path.relative_to(folder).as_posix() for pair, path in side.items()}
        for folder, side in zip(folders, paths, strict=True)
    ]
    entries = [_entries(folder, side) for folder, side in zip(folders, paths, strict=True)]
    in_order = sorted(names[1], key=names[1].__getitem__)
    readable = [pair for pair in in_order if not any(isinstance(side[pair], str) for side in entries)]
    _check_sizes([(names[1][pair], entries[0][pair], entries[1][pair]) for pair in readable], scale)

    def files(side: int, pairs: list[str], least: int, share: float) -> ImageFiles:
        damaged = {names[side][pair]: entry for pair, entry in entries[side].items() if isinstance(entry, str)}
        return ImageFiles(
            [paths[side][pair] for pair in pairs],
            [names[side][pair] for pair in pairs],
            least,
            cache_bytes,
            f"the folder {folders[side]}",
            share,
            damaged,
            [entries[side][pair] for pair in pairs],
        )

    hr = files(1, readable, crop, small_share)
    large_enough = set(hr.names)
    lr = files(0, [pair for pair in readable if names[1][pair] in large_enough], 1, 0.0)
    return PhotoPairs(hr, lr, scale)


def _listed(folder: AnyPath, role: str) -> tuple[AnyPath, ...]:
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder {folder}: give a folder of {role} images")
    paths, left_out = list_images(folder)
    if left_out:  # a partner may be among them
        raise ValueError(f"the folder {folder} cannot be read completely: {summary_of(left_out)}")
    if not paths:
        raise ValueError(f"the folder {folder} holds no image (.png, .jpg, .webp, .tif, …): give {role} images")
    return paths


def _paired(
    lr_paths: tuple[AnyPath, ...], hr_paths: tuple[AnyPath, ...], folders: tuple[AnyPath, AnyPath]
) -> tuple[dict[str, AnyPath], dict[str, AnyPath]]:
    """LR and HR file of each pair, by the same names."""
    sides = list(zip(folders, (lr_paths, hr_paths), strict=True))
    stems = [[path.stem for path in paths] for _, paths in sides]
    whole_path = any(len(set(each)) < len(each) for each in stems)
    lr, hr = (by_name(folder, paths, each, whole_path) for (folder, paths), each in zip(sides, stems, strict=True))
    missing = {name: path for name, path in lr.items() if name not in hr}
    renamed = partners(missing, hr.keys() - lr.keys())
    lr = {renamed.get(name, name): path for name, path in lr.items()}
    if alone := sorted(lr.keys() ^ hr.keys()):
        count = f"{len(alone)} of {len(lr.keys() | hr.keys())} images"
        raise ValueError(
            f"{count} of {folders[0]} (LR) or {folders[1]} (HR) have no partner of the same name ({examples(alone)}): "
            "give pairs the same names, or remove these"
        )
    return lr, hr


def _entries(folder: AnyPath, files: Mapping[str, AnyPath]) -> dict[str, IndexEntry | str]:
    by_path = indexed(folder, {path.relative_to(folder).as_posix(): path for path in files.values()})
    return dict(zip(files, by_path, strict=True))


def _check_sizes(sizes: list[tuple[str, IndexEntry | str, IndexEntry | str]], scale: int) -> None:
    differing = [
        f"{name}: {lr.width} x {lr.height} and {hr.width} x {hr.height}"
        for name, lr, hr in sizes
        if isinstance(lr, IndexEntry)
        and isinstance(hr, IndexEntry)
        and (hr.width, hr.height) != (scale * lr.width, scale * lr.height)
    ]
    if differing:
        raise ValueError(
            f"{len(differing)} of {len(sizes)} pairs have an HR image that is not {scale} times as large as the LR "
            f"image ({examples(differing)}): give pairs of the recipe's scale, LR images first"
        )
