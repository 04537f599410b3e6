"""`framer-jax degrade`: make LR images from a folder of HR photographs, with a manifest of all drawn parameters."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageDraw
from rich.console import Console
from rich.progress import track

from framer_jax.data.files import image_paths
from framer_jax.data.sources import Pixels, read_header, read_image
from framer_jax.data.whole_photos import canvas_size, degrade_photos, photo_generator
from framer_jax.degradations.draw import DegradationParameters, draw
from framer_jax.degradations.manifest import to_json
from framer_jax.degradations.presets import GEOMETRIES, PRESETS, SCALES, DegradationPreset, preset_by_name
from framer_jax.porting.files import atomic_write
from framer_jax.training.logging import to_uint8
from framer_jax.version import __version__

MANIFEST, PREVIEW = "manifest.jsonl", "preview.png"

PREVIEW_SIDE, PREVIEW_PHOTOS = 256, 6
"""Side of the HR center crops in the contact sheet, and the number of photographs in it."""


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


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("input", help="folder of HR photographs (searched recursively), or one file")
    parser.add_argument("output", help="folder; results keep their names within the input, as .png")
    parser.add_argument("--preset", required=True, help=f"one of {', '.join(sorted(PRESETS))}")
    parser.add_argument(
        "--scale", type=int, default=4, help=f"one of {', '.join(map(str, SCALES))}; published numbers are for 4"
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="seed of all draws; those of a photograph also depend on its name"
    )
    parser.add_argument(
        "--pairs",
        action="store_true",
        help="write hr/ (cropped to the scale, sharpened if the preset says so) next to lr/",
    )
    parser.add_argument(
        "--geometry",
        choices=GEOMETRIES,
        help="released: the LR image is stretched by less than one pixel, as in the published pipelines; aligned: it "
        "lies where the HR image does, as scores need it (default: aligned with --pairs, otherwise released)",
    )
    parser.add_argument("--preview", type=int, metavar="N", help=f"also write {PREVIEW}: HR and N different LR images")
    parser.add_argument("--batch", type=int, default=1, help="photographs with the same canvas computed at a time")
    parser.add_argument("--workers", type=int, default=2, help="threads that read and write")
    parser.add_argument("--overwrite", action="store_true", help="replace existing results")


def run(arguments: argparse.Namespace) -> int:
    """Degrade the photographs and print a summary."""
    geometry = arguments.geometry or ("aligned" if arguments.pairs else "released")
    preset = preset_by_name(arguments.preset, arguments.scale, geometry)
    for name in ("batch", "workers", "preview"):
        if (value := getattr(arguments, name)) is not None and value < 1:
            raise ValueError(f"--{name} must be at least 1, got {value}")
    if arguments.seed < 0:
        raise ValueError(f"--seed must not be negative, got {arguments.seed}")
    output = Path(arguments.output)
    jobs = plan(Path(arguments.input), output, preset.scale, pairs=arguments.pairs)
    reports = [MANIFEST, *([PREVIEW] if arguments.preview else [])]
    results = [*(output / name for name in reports), *(path for job in jobs for path in result_paths(job))]
    refuse_existing(results, arguments.overwrite)
    console = Console(stderr=True)
    if arguments.preview:
        write_preview(jobs, preset, arguments.seed, arguments.preview, output / PREVIEW)
    degrade_files(jobs, preset, arguments.seed, output / MANIFEST, arguments.batch, arguments.workers, console)
    notes = [f"  note: {job.source}: {job.note}" for job in jobs if job.note]
    degradation = f"{preset.name} ({preset.geometry} geometry)"
    print("\n".join([f"{len(jobs)} degraded by {degradation}; parameters in {output / MANIFEST}", *notes]))
    return 0


def plan(source: Path, output: Path, scale: int, pairs: bool = False) -> list[Job]:
    """Find the photographs, read their sizes, and name the results.

    Raises:
      FileNotFoundError: the input does not exist.
      ValueError: the input holds no photograph, one that is damaged or smaller than the scale, or two with the same
        result path; or the output lies inside the input, where the next run would read it as input.
    """
    if source.is_file():
        paths, root = [source], source.parent
    elif source.is_dir():
        paths, root = image_paths(source), source
        if output.resolve().is_relative_to(source.resolve()):
            raise ValueError(f"the output {output} lies inside the input {source}: choose a folder outside of it")
    else:
        raise FileNotFoundError(f"{source}: no such file or folder")
    if not paths:
        raise ValueError(f"the folder {source} holds no image (.png, .jpg, .webp, .tif, …)")
    jobs: list[Job] = []
    names: dict[Path, Path] = {}
    for path in paths:
        name = path.relative_to(root)
        result = name.with_suffix(".png")
        if result in names:
            raise ValueError(f"{names[result]} and {name} would both become {result}: rename one of them")
        names[result] = name
        header = read_header(path)
        height, width = (side - side % scale for side in header[:2])
        if not height or not width:
            raise ValueError(f"{path} has a side smaller than {scale} pixels: remove it")
        lr, hr = (output / "lr" / result, output / "hr" / result) if pairs else (output / result, None)
        if path.resolve() in {target.resolve() for target in (lr, hr) if target is not None}:
            raise ValueError(f"{path} would be replaced by its own result: choose another output folder")
        jobs.append(Job(path, name.as_posix(), height, width, lr, hr, header.loss))
    return jobs


def result_paths(job: Job) -> list[Path]:
    """The files that are written for a photograph."""
    return [path for path in (job.lr, job.hr) if path is not None]


def refuse_existing(paths: Sequence[Path], overwrite: bool) -> None:
    """Raise FileExistsError before anything is computed, if a result would be replaced without --overwrite."""
    existing = [] if overwrite else [path for path in paths if path.exists()]
    if existing:
        raise FileExistsError(
            f"{existing[0]} exists ({len(existing)} of {len(paths)} results do): "
            "choose another folder or add --overwrite"
        )


def degrade_files(
    jobs: Sequence[Job],
    preset: DegradationPreset,
    seed: int,
    manifest: Path,
    batch: int = 1,
    workers: int = 2,
    console: Console | None = None,
) -> None:
    """Degrade every photograph and write results and manifest; a result depends only on seed, name and pixels.

    Args:
      jobs: from `plan`.
      preset: distributions of the degradation parameters.
      seed: seed of all draws.
      manifest: path of the manifest, JSON lines in the order of `jobs`; if the run is interrupted or fails, it lists
        the results that were written.
      batch: number of photographs with the same canvas that are computed at a time.
      workers: number of threads that read and write.
      console: console of the progress bar; None for no progress bar.

    Raises:
      ValueError: a photograph is damaged.
      OSError: a result cannot be written.
    """
    records: dict[str, dict[str, Any]] = {}
    groups = list(batches(jobs, preset.scale, batch))

    def finish(job: Job, job_parameters: DegradationParameters, hr: np.ndarray, lr: np.ndarray) -> None:
        write(job, hr, lr)
        records[job.name] = manifest_record(job, job_parameters, preset, seed, manifest.parent)

    try:
        with ThreadPoolExecutor(workers) as pool:  # on exit, also after an error, pending writes are completed
            reading = read_ahead(groups, pool)
            writing: list[Future[None]] = []
            for group in track(groups, "degrading", console=console, disable=console is None):
                parameters = [draw(photo_generator(seed, job.name), preset) for job in group]
                photos = [pixels.result() for pixels in next(reading)]
                pairs = degrade_photos(photos, parameters, preset, batch)
                for previous in writing:
                    previous.result()
                writing = [
                    pool.submit(finish, job, job_parameters, *pair)
                    for job, job_parameters, pair in zip(group, parameters, pairs, strict=True)
                ]
            for previous in writing:
                previous.result()
    finally:
        with atomic_write(manifest) as temporary:
            written = (records[job.name] for job in jobs if job.name in records)
            temporary.write_text("".join(json.dumps(record) + "\n" for record in written), encoding="utf-8")


def batches(jobs: Sequence[Job], scale: int, batch: int) -> Iterator[list[Job]]:
    """Group jobs with the same canvas, at most `batch` in a group."""

    def canvas(job: Job) -> tuple[int, int]:
        return canvas_size(job.height, job.width, scale)

    for _, jobs_of_canvas in groupby(sorted(jobs, key=canvas), canvas):
        group = list(jobs_of_canvas)
        yield from (group[start : start + batch] for start in range(0, len(group), batch))


def read_ahead(groups: Sequence[Sequence[Job]], pool: Executor) -> Iterator[list[Future[Pixels]]]:
    """Yield the pixels of each group; the next group is read while the current one is computed."""
    following = [pool.submit(read, job) for job in groups[0]]
    for index in range(len(groups)):
        current = following
        following = [pool.submit(read, job) for job in groups[index + 1]] if index + 1 < len(groups) else []
        yield current


def read(job: Job) -> Pixels:
    """Read a photograph, cropped to multiples of the scale: uint8 [height, width, 3]."""
    pixels = read_image(job.source)[: job.height, : job.width]
    if pixels.shape[:2] != (job.height, job.width):
        raise ValueError(f"{job.source} has orientation data after its pixels: save the photograph upright")
    return pixels


def write(job: Job, hr: np.ndarray, lr: np.ndarray) -> None:
    """Write the LR image and, if requested, the HR image, each atomically."""
    for path, pixels in ((job.lr, lr), (job.hr, hr)):
        if path is not None:
            with atomic_write(path) as temporary:
                Image.fromarray(to_uint8(pixels)).save(temporary, format="PNG")


def manifest_record(
    job: Job, parameters: DegradationParameters, preset: DegradationPreset, seed: int, folder: Path
) -> dict[str, Any]:
    """One line of the manifest; paths of results are relative to its folder."""
    return {
        "name": job.name,
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


def write_preview(jobs: Sequence[Job], preset: DegradationPreset, seed: int, count: int, path: Path) -> None:
    """Write a contact sheet: center crops of the first photographs, each with `count` possible LR images.

    A crop is degraded as a separate photograph, so its noise and JPEG blocks differ from those of the whole photograph.
    """
    rows = []
    for job in jobs[:PREVIEW_PHOTOS]:
        photo = read(job)
        height, width = (min(side, PREVIEW_SIDE - PREVIEW_SIDE % preset.scale) for side in photo.shape[:2])
        top, left = (photo.shape[0] - height) // 2, (photo.shape[1] - width) // 2
        crop = np.ascontiguousarray(photo[top : top + height, left : left + width])
        generator = photo_generator(seed, job.name)  # its first draw is that of the photograph's result
        images, labels = [crop], [job.name]
        for _ in range(count):
            parameters = draw(generator, preset)
            ((_, lr),) = degrade_photos([crop], [parameters], preset)
            images.append(to_uint8(lr).repeat(preset.scale, axis=0).repeat(preset.scale, axis=1))
            labels.append(summary(parameters, preset))
        rows.append((images, labels))
    sheet = contact_sheet(rows)
    with atomic_write(path) as temporary:
        sheet.save(temporary, format="PNG")


def summary(parameters: DegradationParameters, preset: DegradationPreset) -> str:
    """A short description of the most important parameters, one line per stage."""
    lines = []
    stages = [("1", preset.first, parameters.first), ("2", preset.second, parameters.second)]
    for number, stage_preset, stage in stages:
        if stage_preset is None or (number == "2" and not parameters.has_second):
            continue
        level = stage.noise_level * 255 if stage.noise_kind == 1 else stage.noise_level
        kind = ("", "gauss", "poisson")[int(stage.noise_kind)]
        gray = " gray" if stage.noise_gray and kind else ""
        lines.append(f"{number}: x {stage.scale:.2f} {kind} {level:.1f}{gray} q{stage.jpeg_quality:.0f}")
    return "\n".join(lines)


def contact_sheet(rows: Sequence[tuple[Sequence[np.ndarray], Sequence[str]]]) -> Image.Image:
    """Rows of images with two lines of text above each."""
    label, gap = 30, 4
    cell = PREVIEW_SIDE + gap
    columns = max(len(images) for images, _ in rows)
    sheet = Image.new("RGB", (columns * cell - gap, len(rows) * (cell + label) - gap), "white")
    text = ImageDraw.Draw(sheet)
    for row, (images, labels) in enumerate(rows):
        for column, (image, caption) in enumerate(zip(images, labels, strict=True)):
            left, top = column * cell, row * (cell + label)
            text.text((left + 2, top + 2), caption, fill="black", spacing=2)
            sheet.paste(Image.fromarray(image), (left, top + label))
    return sheet
