"""`framer-jax degrade`: make LR images from a folder of HR photographs, with a manifest of all drawn parameters."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from itertools import groupby
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from PIL import Image, ImageDraw
from rich.console import Console

from framer_jax.commands.degrade_results import (
    Job,
    check_results,
    finished_results,
    manifest_record,
    refuse_existing,
    result_paths,
)
from framer_jax.commands.quiet_option import add_quiet_option
from framer_jax.console import message_console
from framer_jax.data.files import SUFFIXES, Listing, list_images, summary_of
from framer_jax.data.sources import Pixels
from framer_jax.data.whole_photos import canvas_size, degrade_photos, photo_generator
from framer_jax.degradations.draw import DegradationParameters, draw
from framer_jax.degradations.presets import GEOMETRIES, PRESETS, SCALES, DegradationPreset, preset_by_name
from framer_jax.images.decode import read_header, read_rgb
from framer_jax.porting.files import atomic_write
from framer_jax.progress import track
from framer_jax.training.logging import to_uint8

MANIFEST, PREVIEW = "manifest.jsonl", "preview.png"

PREVIEW_SIDE, PREVIEW_PHOTOS = 256, 6
"""Side of the HR center crops in the contact sheet, and the number of photographs in it."""

NOTHING_KEPT: Mapping[str, Any] = MappingProxyType({})


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
    parser.add_argument("--json", action="store_true", help="print the summary as JSON")
    add_quiet_option(parser)


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
    listing = find(Path(arguments.input), output)
    jobs = plan(listing.paths, Path(arguments.input), output, preset.scale, pairs=arguments.pairs)
    preview = output / PREVIEW if arguments.preview else None
    check_results(jobs, {"the manifest": output / MANIFEST, "--preview": preview})
    kept = {} if arguments.overwrite else finished_results(jobs, preset, arguments.seed, output / MANIFEST)
    notes = []
    if preview and preview.exists() and kept:
        notes.append(f"  note: {preview} is that of the run before: --overwrite replaces it")
        preview = None
    reports = [path for path in (None if kept else output / MANIFEST, preview) if path]
    results = [*reports, *(path for job in jobs if job.name not in kept for path in result_paths(job))]
    refuse_existing(results, arguments.overwrite)
    console = message_console(arguments.quiet)
    if preview:
        write_preview(jobs, preset, arguments.seed, arguments.preview, preview)
    workers = arguments.workers
    failed = degrade_files(jobs, preset, arguments.seed, output / MANIFEST, arguments.batch, workers, console, kept)
    notes += [f"  note: {job.source}: {job.note}" for job in jobs if job.note and job.name not in kept]
    if arguments.json:
        print(json.dumps(_as_json(jobs, kept, failed, listing, output), indent=1))
        return int(bool(failed or listing.left_out))
    counts = f"{len(jobs) - len(kept) - len(failed)} degraded by {preset.name} ({preset.geometry} geometry)"
    counts += f", {len(kept)} were there" if kept else ""
    counts += f", {len(failed)} failed: repair or remove them and run this again" if failed else ""
    failures = [f"  failed: {reason}" for reason in failed.values()]
    failures += [f"  left out: {item}" for item in listing.left_out]
    print("\n".join([f"{counts}; parameters in {output / MANIFEST}", *notes, *failures]))
    return int(bool(failed or listing.left_out))


def _as_json(
    jobs: Sequence[Job], kept: Mapping[str, Any], failed: Mapping[str, str], listing: Listing, output: Path
) -> dict[str, Any]:
    """What was done, as plain JSON."""
    done = [job for job in jobs if job.name not in failed]
    return {
        "manifest": str(output / MANIFEST),
        "degraded": [str(job.lr) for job in done if job.name not in kept],
        "kept": [str(job.lr) for job in done if job.name in kept],
        "failed": [{"image": name, "reason": reason} for name, reason in failed.items()],
        "notes": [{"image": str(job.source), "note": job.note} for job in done if job.note and job.name not in kept],
        "left_out": [{"path": str(item.path), "reason": item.reason} for item in listing.left_out],
    }


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


def plan(paths: Sequence[Path], source: Path, output: Path, scale: int, pairs: bool = False) -> list[Job]:
    """Read the sizes of the photographs, and name the results.

    Args:
      paths: the photographs.
      source: the input, one of them or their folder.
      output: folder of the results.
      scale: downsampling factor.
      pairs: whether HR images are written too.

    Raises:
      ValueError: a photograph is damaged or smaller than the scale, or two have the same result path.
    """
    root = source.parent if source.is_file() else source
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
        jobs.append(Job(path, name.as_posix(), height, width, lr, hr, header.loss))
    return jobs


def degrade_files(
    jobs: Sequence[Job],
    preset: DegradationPreset,
    seed: int,
    manifest: Path,
    batch: int = 1,
    workers: int = 2,
    console: Console | None = None,
    kept: Mapping[str, Any] = NOTHING_KEPT,
) -> dict[str, str]:
    """Degrade every photograph and write results and manifest; a result depends only on seed, name and pixels.

    A damaged photograph is left out.

    Args:
      jobs: from `plan`.
      preset: distributions of the degradation parameters.
      seed: seed of all draws.
      manifest: path of the manifest, JSON lines in the order of `jobs`; if the run is interrupted or fails, it lists
        the results that were written.
      batch: number of photographs with the same canvas that are computed at a time.
      workers: number of threads that read and write.
      console: console of the progress bar; None for no progress bar.
      kept: results that exist, from `finished_results`; their lines are written again.

    Returns:
      Name of each damaged photograph → the reason.

    Raises:
      ValueError: every photograph is damaged.
      OSError: a result cannot be written.
    """
    records: dict[str, dict[str, Any]] = dict(kept)
    failed: dict[str, str] = {}
    groups = list(batches([job for job in jobs if job.name not in kept], preset.scale, batch))

    def finish(job: Job, job_parameters: DegradationParameters, hr: np.ndarray, lr: np.ndarray) -> None:
        write(job, hr, lr)
        records[job.name] = manifest_record(job, job_parameters, preset, seed, manifest.parent)

    try:
        with ThreadPoolExecutor(workers) as pool:  # on exit, also after an error, pending writes are completed
            reading = read_ahead(groups, pool)
            writing: list[Future[None]] = []
            for group in track(groups, "degrading", console):
                photos = dict(_readable(group, next(reading), failed))
                parameters = [draw(photo_generator(seed, job.name), preset) for job in photos]
                pairs = degrade_photos(list(photos.values()), parameters, preset, batch) if photos else []
                for previous in writing:
                    previous.result()
                writing = [
                    pool.submit(finish, job, job_parameters, *pair)
                    for job, job_parameters, pair in zip(photos, parameters, pairs, strict=True)
                ]
            for previous in writing:
                previous.result()
    finally:
        _write_manifest(manifest, [records[job.name] for job in jobs if job.name in records])
    if not records:
        raise ValueError(f"{next(iter(failed.values()))} (no photograph of {len(jobs)} can be read)")
    return failed


def _write_manifest(manifest: Path, records: Sequence[Mapping[str, Any]]) -> None:
    """Write the manifest, unless there is no record."""
    if records:
        with atomic_write(manifest) as temporary:
            temporary.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")


def _readable(
    group: Sequence[Job], reading: Sequence[Future[Pixels]], failed: dict[str, str]
) -> Iterator[tuple[Job, Pixels]]:
    """The photographs that can be read; for others, the reason is added to `failed`."""
    for job, pixels in zip(group, reading, strict=True):
        try:
            yield job, pixels.result()
        except ValueError as error:
            failed[job.name] = str(error)


def batches(jobs: Sequence[Job], scale: int, batch: int) -> Iterator[list[Job]]:
    """Group jobs with the same canvas, at most `batch` in a group."""

    def canvas(job: Job) -> tuple[int, int]:
        return canvas_size(job.height, job.width, scale)

    for _, jobs_of_canvas in groupby(sorted(jobs, key=canvas), canvas):
        group = list(jobs_of_canvas)
        yield from (group[start : start + batch] for start in range(0, len(group), batch))


def read_ahead(groups: Sequence[Sequence[Job]], pool: Executor) -> Iterator[list[Future[Pixels]]]:
    """Yield the pixels of each group; the next group is read while the current one is computed."""
    following = [pool.submit(read, job) for job in groups[0]] if groups else []
    for index in range(len(groups)):
        current = following
        following = [pool.submit(read, job) for job in groups[index + 1]] if index + 1 < len(groups) else []
        yield current


def read(job: Job) -> Pixels:
    """Read a photograph, cropped to multiples of the scale: uint8 [height, width, 3]."""
    pixels = read_rgb(job.source)[: job.height, : job.width]
    if pixels.shape[:2] != (job.height, job.width):
        raise ValueError(f"{job.source} has orientation data after its pixels: save the photograph upright")
    return pixels


def write(job: Job, hr: np.ndarray, lr: np.ndarray) -> None:
    """Write the LR image and, if requested, the HR image, each atomically."""
    for path, pixels in ((job.lr, lr), (job.hr, hr)):
        if path is not None:
            with atomic_write(path) as temporary:
                Image.fromarray(to_uint8(pixels)).save(temporary, format="PNG")


def write_preview(jobs: Sequence[Job], preset: DegradationPreset, seed: int, count: int, path: Path) -> None:
    """Write a contact sheet: center crops of the first photographs, each with `count` possible LR images.

    A crop is degraded as a separate photograph, so its noise and JPEG blocks differ from those of the whole photograph.
    Damaged photographs are left out; if all are damaged, nothing is written.
    """
    rows: list[tuple[list[np.ndarray], list[str]]] = []
    for job in jobs:
        if len(rows) == PREVIEW_PHOTOS:
            break
        try:
            photo = read(job)
        except ValueError:
            continue
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
    if not rows:
        return
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
