"""Images to score and their references: paired by name, of equal sizes."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from framer_jax.data.files import LeftOut
from framer_jax.degradations.presets import SCALES
from framer_jax.evaluation.files import image_files, image_size, read_pixels


class Pair(NamedTuple):
    """An image to score and its optional reference; `name` is unique among the pairs."""

    name: str
    image: Path
    reference: Path | None


class Pairing(NamedTuple):
    """The images to score.

    Attributes:
      pairs: the pairs, sorted by name.
      unmatched: names without a partner, which are skipped.
      left_out: what may be an image, or hold images, and cannot be read.
    """

    pairs: tuple[Pair, ...]
    unmatched: tuple[str, ...]
    left_out: tuple[LeftOut, ...]


class PairSize(NamedTuple):
    """Sizes of a pair, cropped as requested.

    Attributes:
      image: (height, width) of the image, or the reason why it cannot be read.
      reference: the same of the reference; None without one.
    """

    image: tuple[int, int] | str
    reference: tuple[int, int] | str | None


def pair_files(
    sr_dir: str | Path, reference_dir: str | Path | None = None, allow_unmatched: bool = False, suffix: str = ""
) -> Pairing:
    """Pair the images of two folders (searched recursively) by stem, whatever their file formats.

    If a stem occurs twice in a folder, paths within the folders are compared in place of stems.

    Args:
      sr_dir: the images to score.
      reference_dir: their references, or None.
      allow_unmatched: skip images without a partner instead of raising an error.
      suffix: end of the stems of the images that those of the references lack, as of `framer-jax upscale --suffix`.

    Raises:
      FileNotFoundError: no such folder.
      ValueError: no images, two files with the same name, or images without a partner.
    """
    folders = [(Path(sr_dir), suffix), *([] if reference_dir is None else [(Path(reference_dir), "")])]
    listings = [image_files(folder) for folder, _ in folders]
    listed = [(folder, listing.paths, ending) for (folder, ending), listing in zip(folders, listings, strict=True)]
    left_out = tuple(item for listing in listings for item in listing.left_out)
    whole_path = any(len({_stem(path, ending) for path in files}) < len(files) for _, files, ending in listed)
    named = [_by_name(folder, files, ending, whole_path) for folder, files, ending in listed]
    images, references = named[0], named[-1]
    if reference_dir is None:
        return Pairing(tuple(Pair(name, images[name], None) for name in sorted(images)), (), left_out)
    common = sorted(images.keys() & references.keys())
    unmatched = sorted(images.keys() ^ references.keys())
    hint = _suffix_hint(images, references) if unmatched and not suffix else ""
    if not common:
        raise ValueError(
            f"no image of {sr_dir} has a reference of the same name in {reference_dir} "
            f"({examples(sorted(images))} against {examples(sorted(references))}){hint}"
        )
    if unmatched and not allow_unmatched:
        raise ValueError(_without_partner(images, references, sr_dir, reference_dir) + hint)
    pairs = tuple(Pair(name, images[name], references[name]) for name in common)
    return Pairing(pairs, tuple(unmatched), left_out)


def examples(names: Sequence[str]) -> str:
    """The first names of a list, in one line."""
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")


def _stem(path: Path, suffix: str) -> str:
    return path.stem.removesuffix(suffix) or path.stem


def _by_name(folder: Path, files: Sequence[Path], suffix: str, whole_path: bool) -> dict[str, Path]:
    """Name to file; the name is the stem, or the path within the folder without its file format."""
    named: dict[str, Path] = {}
    for path in files:
        stem = _stem(path, suffix)
        name = path.relative_to(folder).with_name(stem).as_posix() if whole_path else stem
        if name in named:
            raise ValueError(f"{named[name]} and {path} have the same name: rename or remove one of them")
        named[name] = path
    return named


def _without_partner(
    images: Collection[str], references: Collection[str], sr_dir: str | Path, reference_dir: str | Path
) -> str:
    sides = (
        (sorted(set(images) - set(references)), sr_dir, "reference"),
        (sorted(set(references) - set(images)), reference_dir, "result"),
    )
    parts = [
        f"{len(names)} of {folder} without a {partner} ({examples(names)})" for names, folder, partner in sides if names
    ]
    return f"images without a partner: {'; '.join(parts)}; --allow-unmatched scores the others"


def _suffix_hint(images: Mapping[str, Path], references: Mapping[str, Path]) -> str:
    """The option that pairs more names, if all images have names of references with one ending."""
    first = min(images)
    endings = [first.removeprefix(name) for name in references if first.startswith(name)]
    pairing = [
        ending
        for ending in endings
        if ending and all(name.endswith(ending) and name.removesuffix(ending) in references for name in images)
    ]
    return f": the names pair with --suffix {pairing[0]}" if pairing else ""


def pair_sizes(pairs: Sequence[Pair], mod_crop: int = 1) -> list[PairSize]:
    """The sizes of each pair, from the files' headers; files that cannot be read have a reason in place of a size.

    Args:
      pairs: from `pair_files`.
      mod_crop: sides are cropped to multiples of this.

    Raises:
      ValueError: an image and its reference differ in size, or a side is smaller than `mod_crop`.
    """
    sizes = [
        PairSize(_size(pair.image, mod_crop), None if pair.reference is None else _size(pair.reference, mod_crop))
        for pair in pairs
    ]
    differing = [
        (pair.name, size.image, size.reference)
        for pair, size in zip(pairs, sizes, strict=True)
        if isinstance(size.image, tuple) and isinstance(size.reference, tuple) and size.image != size.reference
    ]
    if differing:
        texts = [f"{name} {sr[1]}x{sr[0]} against {other[1]}x{other[0]}" for name, sr, other in differing]
        raise ValueError(
            f"{len(differing)} image(s) differ in size (width x height) from their reference: {examples(texts)}"
            + _crop_hint([(sr, other) for _, sr, other in differing])
        )
    return sizes


def _size(path: Path, mod_crop: int) -> tuple[int, int] | str:
    try:
        size = image_size(path)
    except (ValueError, OSError) as error:
        return str(error)
    height, width = (side - side % mod_crop for side in size)
    if not height or not width:
        raise ValueError(f"{path} is {size[1]}x{size[0]}, smaller than --mod-crop {mod_crop}: remove it")
    return height, width


def _crop_hint(differing: Sequence[tuple[tuple[int, int], tuple[int, int]]]) -> str:
    """The crop that makes all sizes equal, where a scale did not divide the sides of the references."""
    for scale in SCALES:
        if all(tuple(side - side % scale for side in other) == sr for sr, other in differing):
            return (
                f": the references are larger by less than a scale of {scale}: crop the references at the right and "
                f"the bottom, or add --mod-crop {scale}"
            )
    return ""


def read_cropped(path: Path, mod_crop: int = 1) -> npt.NDArray[np.float32]:
    """The pixels of an image, [H, W, 3] float32 in [0, 1], with sides cropped to multiples of `mod_crop`.

    Raises:
      ValueError: not an image, or damaged.
    """
    pixels = read_pixels(path)
    height, width = (side - side % mod_crop for side in pixels.shape[:2])
    return pixels[:height, :width]
