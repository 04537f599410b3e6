"""Photographs with a class each: a folder of folders, one for each class, as ImageNet and CIFAR are kept."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from framer_jax.data.settings import CROP_MODES
from framer_jax.data.sources import ImageFiles, folder_source
from framer_jax.knobs import changed_repr, check_knobs, knob
from framer_jax.paths import check_local

LABEL = "label"
"""The batch entry of classes: int32 [B], the number of the class."""


@dataclass(frozen=True)
class ClassDataSettings:
    """The section `data` of a classifier's training."""

    train: str = knob("", "Folder with a folder of images for each class.", empty=True)
    validation: str = knob("", "Such a folder of held-out images, of the same classes; '': no validation.", empty=True)
    validation_count: int = knob(
        50_000, "Largest number of validation images, spread evenly over the files.", at_least=1, at_most=10_000_000
    )
    crop: int = knob(128, "Side of a training crop.", unit="pixels", at_least=2, at_most=16_384)
    crop_mode: str = knob(
        "square",
        "square (the photograph's random largest square, reduced to the crop's side) or crop (random pixels of it).",
        choices=CROP_MODES,
    )
    small_share: float = knob(
        0.05,
        "Largest share of the photographs that may be smaller than the crop; they are left out and counted.",
        unit="fraction",
        at_least=0,
        at_most=1,
        execution=True,
    )
    threads: int = knob(2, "Decoding threads of this process.", at_least=0, at_most=1024, execution=True)
    workers: int = knob(
        0,
        "Decoding processes; a checkpoint resumes only with the same number.",
        at_least=0,
        at_most=1024,
        execution=True,
    )

    __repr__ = changed_repr

    def __post_init__(self) -> None:
        check_knobs(self)


class LabelledPhotos:
    """Photographs by number; `with_label` adds a photograph's class to a training record.

    Attributes:
      photos: the photographs.
      classes: names of the classes, in the order of their numbers.
      labels: int32, the class of every photograph.
      names: names for logs.
      kind: the kind of training data.
      batch_entries: the entries of prepared batches.
    """

    kind = "labelled photos"
    batch_entries = ("hr", LABEL)

    def __init__(self, photos: ImageFiles, classes: Sequence[str]) -> None:
        """Label photographs whose names begin with the folder of their class.

        Args:
          photos: as of `framer_jax.data.sources.folder_source`.
          classes: the classes; at least those of the photographs.
        """
        numbers = {name: number for number, name in enumerate(classes)}
        self.photos, self.classes, self.names = photos, tuple(classes), photos.names
        self.labels = np.asarray([numbers[_class_of(name)] for name in photos.names], np.int32)

    def __len__(self) -> int:
        return len(self.photos)

    def with_label(self, record: Mapping[str, Any]) -> dict[str, Any]:
        """Add 'label' to a record of a photograph; of one that replaces a damaged file, it is its own class."""
        return {**record, LABEL: self.labels[int(record["record"])]}

    def digests(self) -> dict[str, str]:
        """See `ImageFiles.digests`."""
        return self.photos.digests()

    def damage(self) -> str:
        """See `ImageFiles.damage`."""
        return self.photos.damage()


def class_folders(
    folder: str | Path, crop: int = 1, small_share: float = 0.0, classes: Sequence[str] = ()
) -> LabelledPhotos:
    """The photographs of a folder whose subfolders are classes; deeper folders belong to theirs.

    Args:
      folder: the folder.
      crop: smallest side, see `ImageFiles`.
      small_share: see `ImageFiles`.
      classes: the classes that there must be, such as those of the training set; () for those of the folder.

    Raises:
      FileNotFoundError: no such folder.
      ValueError: fewer than two classes, a class without images, images outside of the classes, other classes than
        those given, or as of `framer_jax.data.sources.folder_source`.
    """
    check_local(folder, "a folder of classes")
    photos = folder_source(folder, crop=crop, small_share=small_share, keep_index=True)
    if outside := [name for name in photos.names if "/" not in name]:
        raise ValueError(
            f"the folder {folder} holds images of no class, such as {outside[0]}: every image belongs into the folder "
            "of its class"
        )
    counts = Counter(_class_of(name) for name in photos.names)
    present = sorted(path.name for path in Path(folder).iterdir() if path.is_dir() and not path.name.startswith("."))
    if empty := [name for name in present if not counts[name]]:
        reason = f" of at least {crop} pixels" if crop > 1 else ""
        raise ValueError(f"the class {empty[0]} of the folder {folder} has no image{reason}: add some, or remove it")
    if len(present) < 2:
        raise ValueError(
            f"the folder {folder} has {len(present)} class: a classifier needs at least two, a folder of images each"
        )
    if classes and (other := sorted(set(classes).symmetric_difference(present))):
        raise ValueError(
            f"the folder {folder} has other classes than the training set, such as {other[0]!r}: both need the same"
        )
    return LabelledPhotos(photos, classes or present)


def _class_of(name: str) -> str:
    return name.partition("/")[0]
