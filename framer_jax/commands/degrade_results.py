"""Results of `framer-jax degrade`: their files, their lines in the manifest, and what an earlier run finished."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from framer_jax.data.whole_photos import photo_generator
from framer_jax.degradations.draw import DegradationParameters, draw
from framer_jax.degradations.manifest import to_json
from framer_jax.degradations.presets import DegradationPreset
from framer_jax.porting.files import check_outputs, sha256_of
from framer_jax.version import __version__


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


def finished_results(jobs: Sequence[Job], preset: DegradationPreset, seed: int, manifest: Path) -> dict[str, Any]:
    """Results of an earlier run of the same command that ended early: name of the photograph → line of the manifest.

    Such a run is continued. A result is kept if it exists and the photograph, by its digest, is still the same.

    Raises:
      FileExistsError: the manifest is another one: of other photographs, settings or versions, or damaged.
    """
    if not manifest.is_file():
        return {}
    present = {job.name: job for job in jobs}
    kept = {}
    try:
        lines = [json.loads(line) for line in manifest.read_text(encoding="utf-8").splitlines()]
        for line in lines:
            job = present[line["name"]]
            new = manifest_record(job, draw(photo_generator(seed, job.name), preset), preset, seed, manifest.parent)
            if line != json.loads(json.dumps(new)):
                raise ValueError
            if all(path.is_file() for path in result_paths(job)):
                kept[job.name] = line
    except (ValueError, KeyError, TypeError):  # another program's, or another command's
        raise FileExistsError(
            f"{manifest} exists, of other photographs or settings: choose another folder or add --overwrite"
        ) from None
    return kept


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
    return {
        "name": job.name,
        "sha256": sha256_of(job.source),
        "lr": job.lr.relative_to(folder).as_posix(),
        "hr": None if job.hr is None else job.hr.relative_to(folder).as_posix(),
        "hr_size": [job.height, job.width],
        "hr_sharpened": preset.sharpen_target,
        "preset": preset.name,
        "scale": preset.scale,
        "geometry": preset.geometry,
        "seed": seed,
        "framer_jax": __version__,
        "parameters": to_json(parameters),
    }
