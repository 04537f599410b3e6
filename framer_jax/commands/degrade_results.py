"""Photographs and results of `framer-jax degrade`: their files, and their lines in the manifest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from framer_jax.data.sources import Pixels
from framer_jax.data.whole_photos import photo_generator
from framer_jax.degradations.draw import DegradationParameters, draw_part
from framer_jax.degradations.manifest import to_json
from framer_jax.degradations.presets import DegradationPreset
from framer_jax.images.decode import read_rgb
from framer_jax.porting.files import check_outputs, sha256_of
from framer_jax.version import __version__

UNUSABLE = (ValueError, FileNotFoundError)
"""Errors of one photograph, which is left out: it is damaged, or was removed after its folder was listed."""


class Job(NamedTuple):
    """One photograph to be degraded.

    Attributes:
      source: its file.
      name: its path within the input.
      height, width: its size, cropped to multiples of the scale.
      lr, hr: paths of the results; `hr` is None if only LR images are written.
      note: how its pixels differ from the file's, such as a dropped alpha channel; '' for no difference.
    """

    source: Path
    name: str
    height: int
    width: int
    lr: Path
    hr: Path | None
    note: str


def read(job: Job) -> Pixels:
    """Read a photograph, cropped to multiples of the scale: uint8 [height, width, 3]."""
    pixels = read_rgb(job.source)[: job.height, : job.width]
    if pixels.shape[:2] != (job.height, job.width):
        raise ValueError(f"{job.source} has orientation data after its pixels: save the photograph upright")
    return pixels


def result_paths(job: Job) -> list[Path]:
    """The files that are written for a photograph."""
    return [path for path in (job.lr, job.hr) if path is not None]


def check_results(jobs: Sequence[Job], reports: Mapping[str, Path | None]) -> None:
    """Refuse results that would replace a photograph or one another.

    Args:
      jobs: from `plan`.
      reports: what an error calls a further file that is written → its path, None for none.

    Raises:
      ValueError: as of framer_jax.porting.files.check_outputs.
    """
    results = {f"the result of {job.name}": job.lr for job in jobs}
    results |= {f"the HR image of {job.name}": job.hr for job in jobs if job.hr is not None}
    remedy = "choose another output folder, or rename the photograph"
    check_outputs({**reports, **results}, {"the photograph": [job.source for job in jobs]}, remedy)


def refuse_existing(paths: Sequence[Path], overwrite: bool) -> None:
    """Raise FileExistsError before anything is computed, if a result would be replaced without --overwrite."""
    existing = [] if overwrite else [path for path in paths if path.exists()]
    if existing:
        raise FileExistsError(
            f"{existing[0]} exists ({len(existing)} of {len(paths)} results do): "
            "choose another folder or add --overwrite"
        )


def manifest_record(
    job: Job, parameters: DegradationParameters, preset: DegradationPreset, seed: int, folder: Path
) -> dict[str, Any]:
    """One line of the manifest; paths of results are relative to its folder."""
    part = {"part": draw_part(photo_generator(seed, job.name), preset).name} if preset.parts else {}
    return {
        "name": job.name,
        "sha256": sha256_of(job.source),
        "lr": job.lr.relative_to(folder).as_posix(),
        "hr": None if job.hr is None else job.hr.relative_to(folder).as_posix(),
        "hr_size": [job.height, job.width],
        "hr_sharpened": preset.sharpen_target,
        "preset": preset.name,
        **part,
        "scale": preset.scale,
        "geometry": preset.geometry,
        "seed": seed,
        "framer_jax": __version__,
        "parameters": to_json(parameters),
    }
