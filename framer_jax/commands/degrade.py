"""`framer-jax degrade`: make LR photographs from a folder of HR ones, with a manifest of every drawn parameter."""

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
from framer_jax.degradations.presets import PRESETS, SCALES, DegradationPreset, preset_by_name
from framer_jax.porting.files import replacing
from framer_jax.training.logging import to_uint8
from framer_jax.version import __version__

MANIFEST, PREVIEW = "manifest.jsonl", "preview.png"

PREVIEW_SIDE, PREVIEW_PHOTOS = 256, 6
"""HR pixels of a photograph's middle in the contact sheet, and of how many photographs."""


class Job(NamedTuple):
    """One photograph: its file, its name within the input, its size cut to the scale, where its results go, a note."""

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
    parser.add_argument("--scale", type=int, default=4, help=f"one of {', '.join(map(str, SCALES))}; published: 4")
    parser.add_argument("--seed", type=int, default=0, help="of all draws; a photograph's also depend on its name")
    parser.add_argument(
        "--pairs", action="store_true", help="write hr/ (cut to the scale, sharpened if the preset says so) beside lr/"
    )
    parser.add_argument("--preview", type=int, metavar="N", help=f"also write {PREVIEW}: HR and N different LR images")
    parser.add_argument("--batch", type=int, default=1, help="photographs of one canvas computed at a time")
    parser.add_argument("--workers", type=int, default=2, help="threads that read and write")
    parser.add_argument("--overwrite", action="store_true", help="replace existing results")


def run(arguments: argparse.Namespace) -> int:
    """Degrade and report."""
    preset = preset_by_name(arguments.preset, arguments.scale)
    for name in ("batch", "workers", "preview"):
        if (value := getattr(arguments, name)) is not None and value < 1:
            raise ValueError(f"--{name} must be at least 1; got {value}")
    if arguments.seed < 0:
        raise ValueError(f"--seed must not be negative; got {arguments.seed}")
    output = Path(arguments.output)
    jobs = plan(Path(arguments.input), output, preset.scale, pairs=arguments.pairs)
    own = [MANIFEST, *([PREVIEW] if arguments.preview else [])]
    refuse_existing([*(output / name for name in own), *(path for job in jobs for path in targets(job))], arguments)
    console = Console(stderr=True)
    if arguments.preview:
        write_preview(jobs, preset, arguments.seed, arguments.preview, output / PREVIEW)
    degrade_files(jobs, preset, arguments.seed, output / MANIFEST, arguments.batch, arguments.workers, console)
    notes = [f"  note: {job.source}: {job.note}" for job in jobs if job.note]
    print("\n".join([f"{len(jobs)} degraded by {preset.name}; parameters in {output / MANIFEST}", *notes]))
    return 0


def plan(source: Path, output: Path, scale: int, pairs: bool = False) -> list[Job]:
    """Find the photographs, read their sizes, and name the results.

    Raises:
      FileNotFoundError: there is no such input.
      ValueError: no photograph in it, one that is damaged or smaller than the scale, two with one result, or an output
        inside the input, where the next run would take it for input.
    """
    if source.is_file():
        found, root = [source], source.parent
    elif source.is_dir():
        found, root = image_paths(source), source
        if output.resolve().is_relative_to(source.resolve()):
            raise ValueError(f"the output {output} lies inside the input {source}: choose a folder outside of it")
    else:
        raise FileNotFoundError(f"{source}: no such file or folder")
    if not found:
        raise ValueError(f"the folder {source} holds no image (.png, .jpg, .webp, .tif, …)")
    jobs: list[Job] = []
    names: dict[Path, Path] = {}
    for path in found:
        name = path.relative_to(root)
        result = name.with_suffix(".png")
        if result in names:
            raise ValueError(f"{names[result]} and {name} would both become {result}: rename one of them")
        names[result] = name
        header = read_header(path)
        height, width = (side - side % scale for side in header[:2])
        if not height or not width:
            raise ValueError(f"{path} is smaller than {scale} pixels a side: remove it")
        lr, hr = (output / "lr" / result, output / "hr" / result) if pairs else (output / result, None)
        if path.resolve() in {target.resolve() for target in (lr, hr) if target is not None}:
            raise ValueError(f"{path} would be replaced by its own result: choose another output folder")
        jobs.append(Job(path, name.as_posix(), height, width, lr, hr, header.loss))
    return jobs


def targets(job: Job) -> list[Path]:
    """The files that a photograph becomes."""
    return [path for path in (job.lr, job.hr) if path is not None]


def refuse_existing(paths: Sequence[Path], arguments: argparse.Namespace) -> None:
    """Stop before anything is computed, if something would be replaced."""
    existing = [] if arguments.overwrite else [path for path in paths if path.exists()]
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
    """Degrade every photograph and write results and manifest; a result depends on seed, name and pixels alone.

    Args:
      jobs: from `plan`.
      preset: what degradations are drawn from.
      seed: of the draws.
      manifest: JSON lines in the order of `jobs`; of what was done, if the run is stopped or fails.
      batch: photographs of one canvas computed at a time.
      workers: threads that read and write.
      console: for the progress bar; none if None.

    Raises:
      ValueError: a photograph is damaged.
      OSError: a result cannot be written.
    """
    records: dict[str, dict[str, Any]] = {}
    groups = list(batches(jobs, preset.scale, batch))

    def finish(job: Job, drawn: DegradationParameters, hr: np.ndarray, lr: np.ndarray) -> None:
        write(job, hr, lr)
        records[job.name] = record_of(job, drawn, preset, seed, manifest.parent)

    try:
        with ThreadPoolExecutor(workers) as pool:  # at its end, whatever the reason, what is being written is finished
            reading = read_ahead(groups, pool)
            writing: list[Future[None]] = []
            for group in track(groups, "degrading", console=console, disable=console is None):
                parameters = [draw(photo_generator(seed, job.name), preset) for job in group]
                photos = [pixels.result() for pixels in next(reading)]
                pairs = degrade_photos(photos, parameters, preset, batch)
                for previous in writing:
                    previous.result()
                writing = [
                    pool.submit(finish, job, drawn, *pair)
                    for job, drawn, pair in zip(group, parameters, pairs, strict=True)
                ]
            for previous in writing:
                previous.result()
    finally:
        with replacing(manifest) as temporary:
            done = (records[job.name] for job in jobs if job.name in records)
            temporary.write_text("".join(json.dumps(record) + "\n" for record in done), encoding="utf-8")


def batches(jobs: Sequence[Job], scale: int, batch: int) -> Iterator[list[Job]]:
    """Jobs of one canvas together, at most `batch` of them."""

    def canvas(job: Job) -> tuple[int, int]:
        return canvas_size(job.height, job.width, scale)

    for _, same in groupby(sorted(jobs, key=canvas), canvas):
        group = list(same)
        yield from (group[start : start + batch] for start in range(0, len(group), batch))


def read_ahead(groups: Sequence[Sequence[Job]], pool: Executor) -> Iterator[list[Future[Pixels]]]:
    """The pixels of each group; the next one is read while one is computed."""
    following = [pool.submit(read, job) for job in groups[0]]
    for place in range(len(groups)):
        current = following
        following = [pool.submit(read, job) for job in groups[place + 1]] if place + 1 < len(groups) else []
        yield current


def read(job: Job) -> Pixels:
    """uint8 [height, width, 3], cut to the scale."""
    pixels = read_image(job.source)[: job.height, : job.width]
    if pixels.shape[:2] != (job.height, job.width):
        raise ValueError(f"{job.source} is turned by data behind its pixels: save it upright")
    return pixels


def write(job: Job, hr: np.ndarray, lr: np.ndarray) -> None:
    """Write the LR image and, where it is wanted, the HR image; each appears whole or not at all."""
    for path, pixels in ((job.lr, lr), (job.hr, hr)):
        if path is not None:
            with replacing(path) as temporary:
                Image.fromarray(to_uint8(pixels)).save(temporary, format="PNG")


def record_of(
    job: Job, drawn: DegradationParameters, preset: DegradationPreset, seed: int, folder: Path
) -> dict[str, Any]:
    """One line of the manifest; results are named within its folder."""
    return {
        "name": job.name,
        "lr": job.lr.relative_to(folder).as_posix(),
        "hr": None if job.hr is None else job.hr.relative_to(folder).as_posix(),
        "hr_size": [job.height, job.width],
        "hr_sharpened": preset.sharpen_target,
        "preset": preset.name,
        "scale": preset.scale,
        "seed": seed,
        "framer_jax": __version__,
        "parameters": to_json(drawn),
    }


def write_preview(jobs: Sequence[Job], preset: DegradationPreset, seed: int, count: int, path: Path) -> None:
    """A contact sheet: the middles of the first photographs, each with `count` of its possible LR images.

    The middle is degraded as a photograph of its own, so its noise and blocks are not those of the whole one.
    """
    rows = []
    for job in jobs[:PREVIEW_PHOTOS]:
        photo = read(job)
        height, width = (min(side, PREVIEW_SIDE - PREVIEW_SIDE % preset.scale) for side in photo.shape[:2])
        top, left = (photo.shape[0] - height) // 2, (photo.shape[1] - width) // 2
        middle = np.ascontiguousarray(photo[top : top + height, left : left + width])
        generator = photo_generator(seed, job.name)  # its first draw is the one of the real result
        images, labels = [middle], [job.name]
        for _ in range(count):
            drawn = draw(generator, preset)
            ((_, lr),) = degrade_photos([middle], [drawn], preset)
            images.append(to_uint8(lr).repeat(preset.scale, axis=0).repeat(preset.scale, axis=1))
            labels.append(summary(drawn, preset))
        rows.append((images, labels))
    sheet = contact_sheet(rows)
    with replacing(path) as temporary:
        sheet.save(temporary, format="PNG")


def summary(drawn: DegradationParameters, preset: DegradationPreset) -> str:
    """The strongest parameters in a few words, a line for each stage."""
    words = []
    stages = [("1", preset.first, drawn.first), ("2", preset.second, drawn.second)]
    for number, stage, own in stages:
        if stage is None or (number == "2" and not drawn.has_second):
            continue
        level = own.noise_level * 255 if own.noise_kind == 1 else own.noise_level
        kind = ("", "gauss", "poisson")[int(own.noise_kind)]
        gray = " gray" if own.noise_gray and kind else ""
        words.append(f"{number}: x {own.scale:.2f} {kind} {level:.1f}{gray} q{own.jpeg_quality:.0f}")
    return "\n".join(words)


def contact_sheet(rows: Sequence[tuple[Sequence[np.ndarray], Sequence[str]]]) -> Image.Image:
    """Rows of pictures with two lines of text above each."""
    label, gap = 30, 4
    cell = PREVIEW_SIDE + gap
    columns = max(len(images) for images, _ in rows)
    sheet = Image.new("RGB", (columns * cell - gap, len(rows) * (cell + label) - gap), "white")
    text = ImageDraw.Draw(sheet)
    for row, (images, labels) in enumerate(rows):
        for column, (image, words) in enumerate(zip(images, labels, strict=True)):
            place = (column * cell, row * (cell + label))
            text.text((place[0] + 2, place[1] + 2), words, fill="black", spacing=2)
            sheet.paste(Image.fromarray(image), (place[0], place[1] + label))
    return sheet
