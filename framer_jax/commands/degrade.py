"""`framer-jax degrade`: make LR images from a folder of HR photographs, with a manifest of all drawn parameters."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from rich.console import Console

from framer_jax.commands.degrade_manifest import NOTHING, Earlier, Manifest, earlier_results, join_manifests
from framer_jax.commands.degrade_plan import find, plan, root_of
from framer_jax.commands.degrade_preview import write_preview
from framer_jax.commands.degrade_results import (
    UNUSABLE,
    Job,
    check_results,
    manifest_record,
    read,
    refuse_existing,
    result_paths,
)
from framer_jax.commands.engine_option import Plan, ShardedCommand, add_engine_options, run_sharded
from framer_jax.commands.quiet_option import add_quiet_option
from framer_jax.commands.shard_option import ALL, add_shard_option, parse_shard
from framer_jax.console import message_console
from framer_jax.data.files import LeftOut
from framer_jax.data.sources import Pixels
from framer_jax.data.whole_photos import canvas_size, degrade_photos, photo_generator
from framer_jax.degradations.draw import DegradationParameters, draw
from framer_jax.degradations.lookup import MIXTURE_EXAMPLE, SCALES, preset_by_name
from framer_jax.degradations.presets import GEOMETRIES, PRESETS, DegradationPreset
from framer_jax.porting.files import atomic_write
from framer_jax.porting.shard_files import shard_file
from framer_jax.progress import track
from framer_jax.training.logging import to_uint8

MANIFEST, PREVIEW = "manifest.jsonl", "preview.png"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("input", help="folder of HR photographs (searched recursively), or one file")
    parser.add_argument("output", help="folder; results keep their names within the input, as .png")
    parser.add_argument(
        "--preset", required=True, help=f"one of {', '.join(sorted(PRESETS))}, or a mixture such as {MIXTURE_EXAMPLE}"
    )
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
    add_shard_option(parser, "only every N-th photograph, from photograph I on, for job arrays")
    parser.add_argument("--json", action="store_true", help="print the summary as JSON")
    add_engine_options(parser)
    add_quiet_option(parser)


class Degraded(NamedTuple):
    """What one call did.

    Attributes:
      jobs: the photographs of the call whose sizes are known.
      kept: names of those whose results were there.
      failed: name → why it could not be degraded.
      left_out: what may be an image of the input, and cannot be read.
      notes: what else is reported.
      manifest: path of the manifest.
    """

    jobs: tuple[Job, ...]
    kept: frozenset[str]
    failed: Mapping[str, str]
    left_out: tuple[LeftOut, ...]
    notes: tuple[str, ...]
    manifest: Path


class _Prepared(NamedTuple):
    """A call before anything is computed.

    Attributes:
      preset: distributions of the degradation parameters.
      names: of all photographs, also those of other shards.
      earlier: results of earlier runs.
      preview: path of the contact sheet, or None.
      degraded: what will be done; its failures are the photographs whose sizes are not known, or are too small.
    """

    preset: DegradationPreset
    names: tuple[str, ...]
    earlier: Earlier
    preview: Path | None
    degraded: Degraded


def run(arguments: argparse.Namespace) -> int:
    """Degrade the photographs and print a summary."""
    refused = {"--preview shows photographs of all shards: omit it": bool(arguments.preview)}
    return run_sharded(arguments, ShardedCommand(_check, _compute, _merge, _report), refused)


def _check(arguments: argparse.Namespace) -> Plan[_Prepared]:
    prepared = _prepare(arguments)
    return Plan(len(prepared.names), prepared)


def _prepare(arguments: argparse.Namespace) -> _Prepared:
    """Refuse what cannot be done, and see what an earlier run has done."""
    geometry = arguments.geometry or ("aligned" if arguments.pairs else "released")
    preset = preset_by_name(arguments.preset, arguments.scale, geometry)
    for name in ("batch", "workers", "preview"):
        if (value := getattr(arguments, name)) is not None and value < 1:
            raise ValueError(f"--{name} must be at least 1, got {value}")
    if arguments.seed < 0:
        raise ValueError(f"--seed must not be negative, got {arguments.seed}")
    shard = parse_shard(arguments.shard)
    for name in ("preview", "overwrite"):
        if shard[1] > 1 and getattr(arguments, name):
            raise ValueError(f"--{name} concerns the results of all shards: omit it, or --shard")
    source, output = Path(arguments.input), Path(arguments.output)
    listing = find(source, output)
    names = tuple(path.relative_to(root_of(source)).as_posix() for path in listing.paths)
    jobs, failed = plan(listing.paths, source, output, preset.scale, arguments.pairs, shard)
    if arguments.shard == ALL:
        check_any(jobs, failed)
    manifest, preview = shard_file(output / MANIFEST, shard), output / PREVIEW if arguments.preview else None
    check_results(jobs, {"the manifest": manifest, "--preview": preview})
    earlier = NOTHING
    if not arguments.overwrite:
        known = [name for name in names if name not in failed]
        earlier = earlier_results(jobs, preset, arguments.seed, output / MANIFEST, known)
    notes = []
    if preview and preview.exists() and earlier.kept:
        notes.append(f"  note: {preview} is that of the run before: --overwrite replaces it")
        preview = None
    reports = [path for path in (None if earlier.lines else manifest, preview) if path]
    results = [*reports, *(path for job in jobs if job.name not in earlier.lines for path in result_paths(job))]
    refuse_existing(results, arguments.overwrite)
    notes += [f"  note: {job.source}: {job.note}" for job in jobs if job.note and job.name not in earlier.kept]
    degraded = Degraded(jobs, earlier.kept, failed, listing.left_out, tuple(notes), manifest)
    return _Prepared(preset, names, earlier, preview, degraded)


def _compute(arguments: argparse.Namespace) -> Degraded:
    preset, names, earlier, preview, degraded = _prepare(arguments)
    jobs, manifest = degraded.jobs, degraded.manifest
    if preview:
        write_preview(jobs, preset, arguments.seed, arguments.preview, preview)
    if not jobs:  # of a shard; a folder without photographs is refused
        return degraded
    console = message_console(arguments.quiet)
    failed = {
        **degraded.failed,
        **degrade_files(jobs, preset, arguments.seed, manifest, arguments.batch, arguments.workers, console, earlier),
    }
    if arguments.shard == ALL:
        check_any(jobs, failed)
        join_manifests(names, manifest)
    return degraded._replace(failed=failed)


def _merge(arguments: argparse.Namespace, prepared: _Prepared, parts: Sequence[Degraded]) -> Degraded:
    """What all shards did; a photograph of a shard that ended with an error counts as failed."""
    join_manifests(prepared.names, prepared.degraded.manifest)
    reached = {job.name for part in parts for job in part.jobs} | prepared.earlier.kept
    jobs = prepared.degraded.jobs
    lost = {job.name: f"{job.source}: its shard ended with an error" for job in jobs if job.name not in reached}
    of_parts = {name: reason for part in parts for name, reason in part.failed.items()}
    failed = {**prepared.degraded.failed, **of_parts, **lost}
    check_any(jobs, failed)
    return prepared.degraded._replace(failed=failed)


def _report(arguments: argparse.Namespace, degraded: Degraded) -> int:
    jobs, kept, failed, left_out, notes, manifest = degraded
    status = int(bool(failed or left_out))
    if arguments.json:
        print(json.dumps(_as_json(degraded), indent=1))
        return status
    geometry = arguments.geometry or ("aligned" if arguments.pairs else "released")
    done = sum(job.name not in kept and job.name not in failed for job in jobs)
    counts = f"{done} degraded by {arguments.preset} ({geometry} geometry)"
    counts += f", {len(kept)} were there" if kept else ""
    counts += f", {len(failed)} failed: repair or remove them and run this again" if failed else ""
    failures = [f"  failed: {reason}" for reason in failed.values()]
    failures += [f"  left out: {item}" for item in left_out]
    print("\n".join([f"{counts}; parameters in {manifest}", *notes, *failures]))
    return status


def _as_json(degraded: Degraded) -> dict[str, Any]:
    """What was done, as plain JSON."""
    jobs, kept, failed, left_out, _, manifest = degraded
    done = [job for job in jobs if job.name not in failed]
    return {
        "manifest": str(manifest),
        "degraded": [str(job.lr) for job in done if job.name not in kept],
        "kept": [str(job.lr) for job in done if job.name in kept],
        "failed": [{"image": name, "reason": reason} for name, reason in failed.items()],
        "notes": [{"image": str(job.source), "note": job.note} for job in done if job.note and job.name not in kept],
        "left_out": [{"path": str(item.path), "reason": item.reason} for item in left_out],
    }


def degrade_files(
    jobs: Sequence[Job],
    preset: DegradationPreset,
    seed: int,
    manifest: Path,
    batch: int = 1,
    workers: int = 2,
    console: Console | None = None,
    earlier: Earlier = NOTHING,
) -> dict[str, str]:
    """Degrade every photograph and write results and manifest; a result depends only on seed, name and pixels.

    A damaged photograph is left out.

    Args:
      jobs: from `plan`.
      preset: distributions of the degradation parameters.
      seed: seed of all draws.
      manifest: path of the manifest, JSON lines in the order of `jobs`; if the run is interrupted or fails, it lists
        the results that were written, and may list some that were not.
      batch: number of photographs with the same canvas that are computed at a time.
      workers: number of threads that read and write.
      console: console of the progress bar; None for no progress bar.
      earlier: results that exist, whose lines are written again.

    Returns:
      Name of each damaged photograph → the reason.

    Raises:
      OSError: a result cannot be written.
    """
    lines = Manifest(manifest, earlier.lines)
    failed: dict[str, str] = {}
    groups = list(batches([job for job in jobs if job.name not in earlier.kept], preset.scale, batch))

    def finish(job: Job, job_parameters: DegradationParameters, hr: np.ndarray, lr: np.ndarray) -> None:
        lines.add(job.name, manifest_record(job, job_parameters, preset, seed, manifest.parent))
        write(job, hr, lr)

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
        lines.finish([job.name for job in jobs])
    return failed


def check_any(jobs: Sequence[Job], failed: Mapping[str, str]) -> None:
    """Raise a ValueError if every photograph is damaged or too small."""
    if all(job.name in failed for job in jobs):
        raise ValueError(f"{next(iter(failed.values()))} (no photograph of {len(failed)} can be used)")


def _readable(
    group: Sequence[Job], reading: Sequence[Future[Pixels]], failed: dict[str, str]
) -> Iterator[tuple[Job, Pixels]]:
    """The photographs that can be read; for others, the reason is added to `failed`."""
    for job, pixels in zip(group, reading, strict=True):
        try:
            yield job, pixels.result()
        except UNUSABLE as error:
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


def write(job: Job, hr: np.ndarray, lr: np.ndarray) -> None:
    """Write the LR image and, if requested, the HR image, each atomically."""
    for path, pixels in ((job.lr, lr), (job.hr, hr)):
        if path is not None:
            with atomic_write(path) as temporary:
                Image.fromarray(to_uint8(pixels)).save(temporary, format="PNG")
