"""Upscale image files and folders; a JSON sidecar next to every SR image records how it was made."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
from PIL import Image
from rich.console import Console
from rich.markup import escape
from rich.progress import TaskID

from framer_jax.data.files import NAMED
from framer_jax.images.decode import read_header, read_image
from framer_jax.images.frames import read_frames, read_timing
from framer_jax.images.image_data import ImageData
from framer_jax.inference.computed_tiles import NotFiniteError
from framer_jax.inference.estimate import MemoryEstimate, check_host_memory
from framer_jax.inference.formats import output_format
from framer_jax.inference.images import Animation, check_alpha, loss_note, pillow_frame
from framer_jax.inference.in_place import check_in_place, plan_in_place
from framer_jax.inference.job_checks import check_job, further_bytes
from framer_jax.inference.jobs import (
    Job,
    PathLike,
    Plan,
    Remaining,
    check_writable,
    impossible_jobs,
    plan_jobs,
    reason_of,
    remaining_jobs,
)
from framer_jax.inference.programs import preview_steps
from framer_jax.inference.records import Origin, image_entries, origin_entries
from framer_jax.inference.result_files import write_result
from framer_jax.inference.result_image import extended_size
from framer_jax.inference.result_settings import FileSettings, ResultSettings
from framer_jax.inference.settings import UpscaleSettings
from framer_jax.inference.streamed_files import is_streamed, upscale_into_file
from framer_jax.inference.transparency import flatten, parse_color
from framer_jax.inference.upscale_summary import Reasons, Summary
from framer_jax.inference.upscaler import (
    Upscaler,
    make_upscaler,
    reduced_settings,
    upscale_image,
)
from framer_jax.progress import Report
from framer_jax.recipes.base import Params, Recipe

OWN_SIZE, DEFAULT_FILES = ResultSettings(), FileSettings()

WHOLE = (0, 1)
"""The shard that is all of them."""


def upscale_files(
    inputs: PathLike | Iterable[PathLike],
    output: PathLike | None,
    recipe: Recipe,
    params: Params,
    settings: UpscaleSettings,
    *,
    result: ResultSettings = OWN_SIZE,
    files: FileSettings = DEFAULT_FILES,
    origin: Origin | None = None,
    recursive: bool = False,
    suffix: str = "",
    extension: str = ".png",
    overwrite: bool = False,
    skip_existing: bool = False,
    shard: tuple[int, int] = WHOLE,
    continue_on_error: bool = False,
    flatten_onto: str | None = None,
    console: Console | None = None,
    dry_run: bool = False,
) -> Summary:
    """Upscale image files and folders of them.

    All names, headers of images and output folders are checked before the first image is computed.

    Args:
      inputs: image files and folders.
      output: name of the SR image if the only input is a file and the name has an image suffix, else a folder; None if
        `files.in_place` is set.
      recipe: the recipe.
      params: the recipe's parameters.
      settings: settings of the upscaling.
      result: size and edges of the results, and how transparency is upsampled.
      files: quality, metadata and frames of the files, whether they replace the images, and whether they have records.
      origin: origin of the parameters, for the sidecars.
      recursive: whether to search subfolders, whose structure is kept below `output`.
      suffix: text appended to every file name, before the extension.
      extension: extension of the outputs if `output` is a folder.
      overwrite: whether existing outputs may be replaced.
      skip_existing: whether to skip images whose output exists.
      shard: (i, n) upscales every n-th image from image i on, for several machines that share the folders.
      continue_on_error: whether to list an image that cannot be upscaled in the summary and continue.
      flatten_onto: color of the ground that transparent images are put on, such as 'white'; None keeps transparency.
      console: console for progress and messages; None for neither.
      dry_run: whether to check everything and compute and write no image; `Summary.written` would be written.

    Returns:
      The summary; `Summary.exit_status` is the command's exit status.

    Raises:
      FileNotFoundError: an input or the checkpoint does not exist.
      FileExistsError: outputs exist, and neither `overwrite` nor `skip_existing` is set.
      OSError: a folder cannot be created or written to.
      ValueError: no image, two images with the same output, an output that is an input, or invalid settings.
      ValueError, MemoryError: an image that cannot be upscaled, if `continue_on_error` is not set.
    """
    ground = None if flatten_onto is None else parse_color(flatten_onto)
    background = None if files.background is None else parse_color(files.background)
    steps = preview_steps(recipe, settings)
    if files.in_place:
        check_in_place(output, suffix, overwrite, skip_existing, steps)
        if shard != WHOLE:
            raise ValueError("in place, images that are done are no inputs any more, so there are no fixed shards")
        plan = plan_in_place(inputs, recursive)
        jobs, skipped, odd = Remaining(plan.jobs, [], [])
    else:
        if output is None:
            raise ValueError("output is None: name a file or a folder")
        plan = plan_jobs(inputs, output, recursive=recursive, suffix=suffix, extension=extension, preview_steps=steps)
        jobs, skipped, odd = remaining_jobs(plan.jobs[shard[0] :: shard[1]], overwrite, skip_existing, files.record)
    common_entries = origin_entries(origin or Origin(), recipe) if jobs else {}
    upscaler = make_upscaler(recipe, settings)
    checks = partial(
        check_job, recipe=recipe, settings=settings, result=result, files=files, flattened=ground is not None
    )
    jobs, failed = _possible_jobs(jobs, checks, continue_on_error)
    for folder in sorted({job.target.parent for job in jobs}):
        check_writable(folder)
    if dry_run:
        targets = tuple(job.target for job in jobs)
        return Summary(targets, tuple(skipped), tuple(failed), tuple(_notes_of(plan) + odd), plan.left_out)
    weights = origin and origin.checkpoint
    run = _Run(
        upscaler, recipe, jax.device_put(params), settings, common_entries, ground, weights, result, files, background
    )
    written, failed_later, notes = _run_jobs(jobs, run, continue_on_error, console)
    failed, notes = failed + failed_later, _notes_of(plan) + odd + notes
    return Summary(tuple(written), tuple(skipped), tuple(failed), tuple(notes), plan.left_out)


def _possible_jobs(
    jobs: Sequence[Job], check: Callable[[Job], None], continue_on_error: bool
) -> tuple[list[Job], Reasons]:
    """(jobs that can be run, failures of the others), as far as the headers of the images tell."""
    failed = impossible_jobs(jobs, check)
    if failed and not continue_on_error:
        more = f" (and {len(failed) - 1} more cannot be upscaled)" if len(failed) > 1 else ""
        rest = len(jobs) - len(failed)
        others = f"; continue_on_error (--continue-on-error) upscales the other {rest}" if rest else ""
        raise ValueError(f"{failed[0][1]}{more}{others}")
    sources = {source for source, _ in failed}
    return [job for job in jobs if job.source not in sources], failed


def _notes_of(plan: Plan) -> Reasons:
    names = [path.name for path in plan.results]
    if not names:
        return []
    listed = ", ".join(names[:NAMED]) + (", ..." if len(names) > NAMED else "")
    what = "1 result of an earlier run is" if len(names) == 1 else f"{len(names)} results of earlier runs are"
    return [(plan.results[0].parent, f"{what} not upscaled again: {listed}")]


class _Run(NamedTuple):
    """What all jobs share.

    Attributes:
      upscaler: the upscaler.
      recipe: its recipe.
      params: parameters on the device.
      settings: the settings to begin with.
      common_entries: the sidecar entries that do not depend on the image.
      ground: color that transparent images are put on, or None.
      weights: where the parameters are from, or None.
      result: settings of the results.
      files: settings of their files.
      background: color that transparent images are put on where their format holds no transparency, or None.
    """

    upscaler: Upscaler
    recipe: Recipe
    params: Params
    settings: UpscaleSettings
    common_entries: Mapping[str, Any]
    ground: tuple[float, float, float] | None
    weights: Path | None
    result: ResultSettings
    files: FileSettings
    background: tuple[float, float, float] | None


def _run_jobs(
    jobs: Sequence[Job], run: _Run, continue_on_error: bool, console: Console | None
) -> tuple[list[Path], Reasons, Reasons]:
    """Read, upscale and write every job; returns (written, failed, notes) of `Summary`."""
    written: list[Path] = []
    failed: Reasons = []
    notes: Reasons = []
    said: set[str] = set()
    current = run.settings

    def say(text: str) -> None:
        if console is not None:
            console.print(escape(text), soft_wrap=True)

    def say_once(text: str) -> None:
        if text not in said:
            said.add(text)
            say(text)

    with Report(console) as bar:
        images = bar.add_task("images", total=len(jobs))
        for job in jobs:
            task = bar.add_task(escape(job.source.name), total=None)
            try:
                outcome = _upscale_job(job, run, current, partial(_update_bar, bar, task), say_once)
                notes += [(job.source, note) for note in outcome.notes]
                if (used := outcome.settings) != current:  # the next images start with what fitted into memory
                    say(f"device memory ran out: continuing with tile {used.tile} and tile_batch {used.tile_batch}")
                    current = used
                for step, preview in outcome.previews.items():  # first: a result stands for a complete job
                    record = {**outcome.record, "preview_after_steps": step}
                    write_result(job.previews[step], preview, record, run.files)
                if outcome.image is not None:
                    write_result(job.target, outcome.image, outcome.record, run.files)
                written.append(job.target)
            except (OSError, ValueError, MemoryError, jax.errors.JaxRuntimeError) as error:
                named = _named(job.source, error, run.weights)
                if not continue_on_error:
                    raise named from error
                failed.append((job.source, str(named)))
                say(f"failed: {named}")
            bar.remove_task(task)
            bar.advance(images)
    return written, failed, notes


class _Outcome(NamedTuple):
    """One upscaled job.

    Attributes:
      image: what is to be written; None for a result that was written while it was computed.
      previews: number of steps → the preview after them.
      settings: the settings in effect.
      record: the sidecar.
      notes: what reading, upscaling and writing it loses or changes.
    """

    image: ImageData | Animation | None
    previews: Mapping[int, ImageData]
    settings: UpscaleSettings
    record: Mapping[str, Any]
    notes: tuple[str, ...]


def _upscale_job(
    job: Job,
    run: _Run,
    settings: UpscaleSettings,
    progress: Callable[[int, int, int, int], None],
    say: Callable[[str], None],
) -> _Outcome:
    """Read and upscale the image of a job, or all of its frames; `progress` gets (frame, frames, tiles, all tiles).

    A result in strips is also written.
    """
    count = read_header(job.source).frames if run.files.frames else 1
    sources = map(partial(_prepared, job, run), read_frames(job.source) if count > 1 else [read_image(job.source)])
    frames: list[Image.Image] = []
    used = settings
    for index, source in enumerate(sources):
        fitting, estimate = _fit_memory(job.target, source, run, used, count)
        say(str(estimate))
        of_frame = partial(progress, index, count)
        if estimate.streamed:
            return _stream_job(job, run, source, fitting, of_frame)
        upscaled = upscale_image(run.upscaler, run.recipe.scale, run.params, source, of_frame, fitting, run.result)
        used = upscaled.settings
        if index == 0:
            first, image = source, upscaled
        if count > 1:
            frames.append(pillow_frame(job.target, upscaled.image))
    animation = Animation(tuple(frames), read_timing(job.source), image.image) if count > 1 else None
    record = _record(job, run, first, count, used)
    return _Outcome(animation or image.image, image.previews, used, record, _job_notes(job, run, first, count))


def _stream_job(
    job: Job, run: _Run, image: ImageData, settings: UpscaleSettings, progress: Callable[[int, int], None]
) -> _Outcome:
    """As `_upscale_job`, of an image whose result is written while it is computed."""
    record_of = partial(_record, job, run, image, 1)
    used = upscale_into_file(
        job.target, run.upscaler, run.recipe, run.params, image, settings, run.files, record_of, progress
    )
    return _Outcome(None, {}, used, record_of(used), _job_notes(job, run, image))


def _record(job: Job, run: _Run, image: ImageData, frames: int, used: UpscaleSettings) -> dict[str, Any]:
    """The sidecar of a job, whose image, or first frame, this is."""
    size = run.result.size(image.pixels.shape[0], image.pixels.shape[1], run.recipe.scale)
    entries = image_entries(job.source, image, size, frames, used, run.settings, run.result, run.files)
    return {**run.common_entries, **entries}


def _job_notes(job: Job, run: _Run, image: ImageData, frames: int = 1) -> tuple[str, ...]:
    height, width, _ = image.pixels.shape
    lost = loss_note(job.target, image, run.files, frames)
    return tuple(filter(None, (*image.notes, lost, run.result.note(height, width, run.recipe.scale))))


def _prepared(job: Job, run: _Run, image: ImageData) -> ImageData:
    """An image without transparency where another color takes its place, or where it cannot be written."""
    ground = run.ground if run.ground is not None or output_format(job.target).alpha else run.background
    image = image if ground is None else flatten(image, ground)
    check_alpha(job.target, image)
    return image


def _fit_memory(
    target: Path, image: ImageData, run: _Run, settings: UpscaleSettings, frames: int
) -> tuple[UpscaleSettings, MemoryEstimate]:
    """Settings that fit into memory, where the device computes in main memory, and the estimate for them.

    Raises:
      MemoryError: no smaller batch or tile does.
    """
    size = image.pixels.shape[0], image.pixels.shape[1]
    height, width = extended_size(*size, run.result)
    result_size, alpha = run.result.size(*size, run.recipe.scale), image.alpha is not None
    more = further_bytes(size, result_size, run.recipe.scale, run.result, alpha, frames)
    while True:
        streamed = is_streamed(target, run.recipe, size, settings, run.result, run.files, alpha, frames)
        estimate = run.upscaler.estimate(run.params, height, width, settings, streamed)
        if jax.default_backend() != "cpu":
            return settings, estimate
        try:
            device = estimate.temporary or 0
            check_host_memory(run.recipe, height, width, settings, alpha, device + more, streamed)
            return settings, estimate
        except MemoryError:
            if (smaller := reduced_settings(run.recipe, settings)) is None:
                raise
            settings = smaller


def _named(source: Path, error: Exception, weights: Path | None) -> Exception:
    """The error with the name of the image, and of the weights where they are the likely cause."""
    text = reason_of(source, error)
    if isinstance(error, NotFiniteError) and weights is not None:
        text += f" ({weights})"
    if isinstance(error, jax.errors.JaxRuntimeError):
        text += ": a smaller --tile or --tile-batch needs less memory" if "RESOURCE_EXHAUSTED" in text else ""
    for kind in (OSError, MemoryError):
        if isinstance(error, kind):
            return kind(text)
    return ValueError(text)


def _update_bar(bar: Report, task: TaskID, frame: int, frames: int, done: int, total: int) -> None:
    bar.update(task, completed=frame * total + done, total=frames * total)
