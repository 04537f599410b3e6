"""Names by which the files of two folders pair: equal ones, and those that are equal without known endings.

Such endings are those of 'baby_x4' and 'baby', or of 'Canon_001_LR4' and 'Canon_001_HR'.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from types import MappingProxyType

from framer_jax.paths import AnyPath

ENDING = re.compile(r"(?<=.)(?:[-_ .]?x[1-9](?:\.\d+)?|[-_ .](?:sr|hr|lr[1-9]?|gt|hq|lq|out|output))$", re.IGNORECASE)
"""Endings that name the role of an image: a scale, with or without a separator, or a word after one."""

MOST_ENDINGS = 3
"""Number of endings that are removed from one name, as in 'photo_LR_x4_SR'."""


def without_endings(name: str) -> str:
    """A name without its known endings."""
    for _ in range(MOST_ENDINGS):
        name = ENDING.sub("", name)
    return name


def examples(names: Sequence[str]) -> str:
    """The first names of a list, in one line."""
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")


def by_name(folder: AnyPath, files: Sequence[AnyPath], stems: Sequence[str], whole_path: bool) -> dict[str, AnyPath]:
    """Name to file; the name is the stem, or the path within the folder without its file format.

    Raises:
      ValueError: two files have the same name.
    """
    named: dict[str, AnyPath] = {}
    for path, stem in zip(files, stems, strict=True):
        name = path.relative_to(folder).with_name(stem).as_posix() if whole_path else stem
        if name in named:
            raise ValueError(f"{named[name]} and {path} have the same name: rename or remove one of them")
        named[name] = path
    return named


def partners(
    images: Mapping[str, AnyPath],
    references: Collection[str],
    stated: Mapping[str, str] = MappingProxyType({}),
    hint: str = "",
) -> dict[str, str]:
    """Name of an image → name of its reference, for images and references of different names.

    Args:
      images: name → file of the images without a reference of the same name.
      references: names of the references without an image of the same name.
      stated: name of an image → name of the reference that a record next to it states; it goes before its own name.
      hint: what an error advises besides folders.

    Raises:
      ValueError: two images have the same partner.
    """
    paired = {name: reference for name, reference in stated.items() if reference in references}
    remaining: dict[str, list[str]] = {}
    for reference in sorted(set(references) - set(paired.values())):
        remaining.setdefault(without_endings(reference), []).append(reference)
    for name in sorted(images.keys() - paired.keys()):
        candidates = remaining.get(without_endings(name), [])
        if len(candidates) == 1:
            paired[name] = candidates[0]
    for reference in sorted(set(paired.values())):
        rivals = [name for name, partner in paired.items() if partner == reference]
        if len(rivals) > 1:
            raise ValueError(
                f"{images[rivals[0]]} and {images[rivals[1]]} both pair with the reference {reference}: put them into "
                f"folders of their own{hint}"
            )
    return paired
