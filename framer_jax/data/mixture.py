"""Photographs of several folders, each with its share of the examples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import SupportsIndex

import numpy as np

from framer_jax.data.sources import ImageFiles, Photo


class PhotoMixture:
    """The photographs of several sources under common numbers; a training set draws from each by its share.

    Args:
      parts: the sources.
      shares: the share of examples from each of them, above 0; only their ratios matter.

    Attributes:
      parts: the sources, with their first numbers, seen as sources of their own.
      names: names in logs and tables: '0/a.png' is the file a.png of the first source.
      shares: as given, summing to 1.
    """

    kind = "photos"
    batch_entries = ImageFiles.batch_entries

    def __init__(self, parts: Sequence[ImageFiles], shares: Sequence[float]) -> None:
        total = float(sum(shares))
        self._sources = tuple(parts)
        self._starts = np.cumsum([0, *(len(part) for part in parts)]).tolist()
        self.shares = tuple(share / total for share in shares)
        self.names = [f"{number}/{name}" for number, part in enumerate(parts) for name in part.names]

    @property
    def parts(self) -> tuple[MixturePart, ...]:
        """Each source, whose photographs have the numbers of the mixture."""
        return tuple(MixturePart(source, start) for source, start in zip(self._sources, self._starts, strict=False))

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getitem__(self, index: SupportsIndex) -> Photo:
        number = int(index)
        if not 0 <= number < len(self):
            raise IndexError(f"the mixture has {len(self)} images; there is no number {number}")
        place = int(np.searchsorted(self._starts, number, "right")) - 1
        return self.parts[place][number - self._starts[place]]

    def __repr__(self) -> str:
        return f"PhotoMixture({', '.join(map(repr, self._sources))})"

    def digests(self) -> dict[str, str]:
        """Name of every file → digest of its content."""
        return {
            f"{number}/{name}": digest
            for number, source in enumerate(self._sources)
            for name, digest in source.digests().items()
        }

    def damage(self) -> str:
        """A report on images that are damaged or too small, as of `ImageFiles.damage`; '' if there are none."""
        return "; ".join(report for source in self._sources if (report := source.damage()))


@dataclass(frozen=True)
class MixturePart:
    """One source of a mixture.

    Attributes:
      source: the source.
      start: the number of its first photograph in the mixture.
    """

    source: ImageFiles
    start: int

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: SupportsIndex) -> Photo:
        photo = self.source[index]
        return photo._replace(record=self.start + photo.record)
