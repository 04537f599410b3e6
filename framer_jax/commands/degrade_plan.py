"""What `framer-jax degrade` would do: the photographs of its input, their sizes, and the names of the results."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from framer_jax.commands.degrade_results import UNUSABLE, Job
from framer_jax.data.files import SUFFIXES, Listing, list_images, summary_of
from framer_jax.images.decode import read_header


def find(source: Path, output: Path) -> Listing:
    """The photographs of the input, and what is left out.

    Raises:
      FileNotFoundError: the input does not exist.
      ValueError: it holds no photograph; or the output lies inside it, where the next run would read it as input, or
        has the name of an image.
    """
    if output.suffix.lower() in SUFFIXES and not output.is_dir():
        raise ValueError(f"the output {output} has the name of an image, and is a folder: choose another name")
    if source.is_file():
        return Listing((source,), ())
    if not source.is_dir():
        raise FileNotFoundError(f"{source}: no such file or folder")
    if output.resolve().is_relative_to(source.resolve()):
        raise ValueError(f"the output {output} lies inside the input {source}: choose a folder outside of it")
    listing = list_images(source)
    if not listing.paths:
        more = f"; {summary_of(listing.left_out)}" if listing.left_out else ""
        raise ValueError(f"the folder {source} holds no image (.png, .jpg, .webp, .tif, …){more}")
    return listing


def root_of(source: Path) -> Path:
    """The folder from which the photographs of an input have their names."""
    return source.parent if source.is_file() else source


class Planned(NamedTuple):
    """The photographs of a call before anything is computed.

    Attributes:
      jobs: those that can be degraded, as far as their headers say.
      failed: name of each other one → why it cannot.
    """

    jobs: tuple[Job, ...]
    failed: dict[str, str]


def plan(
    paths: Sequence[Path],
    source: Path,
    output: Path,
    scale: int,
    pairs: bool = False,
    shard: tuple[int, int] = (0, 1),
) -> Planned:
    """Read the sizes of the photographs, and name the results.

    A photograph that is damaged or smaller than the scale is left out, with the reason.

    Args:
      paths: the photographs.
      source: the input, one of them or their folder.
      output: folder of the results.
      scale: downsampling factor.
      pairs: whether HR images are written too.
      shard: (i, n) selects every n-th photograph, from photograph i on.

    Raises:
      ValueError: two photographs have the same result path.
    """
    root = root_of(source)
    jobs: list[Job] = []
    failed: dict[str, str] = {}
    names: dict[Path, Path] = {}
    for number, path in enumerate(paths):
        name = path.relative_to(root)
        result = name.with_suffix(".png")
        if result in names:
            raise ValueError(f"{names[result]} and {name} would both become {result}: rename one of them")
        names[result] = name
        if number % shard[1] != shard[0]:
            continue
        try:
            header = read_header(path)
        except UNUSABLE as error:
            failed[name.as_posix()] = str(error)
            continue
        height, width = (side - side % scale for side in header[:2])
        if not height or not width:
            failed[name.as_posix()] = f"{path}: has a side smaller than {scale} pixels: remove it"
            continue
        lr, hr = (output / "lr" / result, output / "hr" / result) if pairs else (output / result, None)
        jobs.append(Job(path, name.as_posix(), height, width, lr, hr, header.loss))
    return Planned(tuple(jobs), failed)
