"""Upscale image files and folders; a JSON sidecar next to every SR image records how it was made."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import Progress as ProgressBar

from framer_jax.checkpoints.paths import digest_of
from framer_jax.data.files import NAMED, LeftOut
from framer_jax.images.decode import read_image
from framer_jax.images.image_data import ImageData
from framer_jax.inference.computed_tiles import NotFiniteError, Progress, can_stream
from framer_jax.inference.estimate import check_host_memory
from framer_jax.inference.images import check_alpha, depth_note, encode_strips, flatten, parse_color
from framer_jax.inference.jobs import (
    Job,
    PathLike,
    Plan,
    check_writable,
    impossible_jobs,
    plan_jobs,
    reason_of,
    remaining_jobs,
)
from framer_jax.inference.programs import out_of_memory, preview_steps
from framer_jax.inference.result_files import write_encoded, write_result
from framer_jax.inference.settings import UpscaleSettings
from framer_jax.inference.upscaler import (
    Upscaler,
    make_upscaler,
    reduced_settings,
    upscale_image,
)
from framer_jax.porting.files import sha256_of
from framer_jax.porting.ncnn import is_ncnn
from framer_jax.recipes.base import Params, Recipe
from framer_jax.version import __version__

Reasons = list[tuple[Path, str]]
"""(image, one sentence)."""


class Origin(NamedTuple):
    """Origin of the parameters, for the sidecars.

    Attributes:
      checkpoint: weights file or checkpoint folder, or None.
      config: configuration of the model, overrides included, as plain JSON.
      frozen_weights: configuration path → digest of the frozen weights, such as the autoencoder.
      overrides: configuration path → value of what was changed for this use.
    """

    checkpoint: Path | None = None
    config: Mapping[str, Any] | None = None
    frozen_weights: Mapping[str, str] = MappingProxyType({})
    overrides: Mapping[str, Any] = MappingProxyType({})


class Summary(NamedTuple):
    """Results of `upscale_files`.

    Attributes:
      written: SR images that were written.
      skipped: outputs that existed and were not touched (skip_existing).
      failed: (source, reason) of the images that could not be upscaled.
      notes: (image, what reading or writing it lost, or what is odd about it).
      left_out: what may be an image of the input, or hold images, and cannot be read.
    """

    written: tuple[Path, ...]
    skipped: tuple[Path, ...]
    failed: tuple[tuple[Path, str], ...]
    notes: tuple[tuple[Path, str], ...]
    left_out: tuple[LeftOut, ...] = ()

    @property
    def exit_status(self) -> int:
        """0 if every image was written or skipped, and nothing left out, else 1."""
        return int(bool(self.failed or self.left_out))

    def __str__(self) -> str:
        counts = f"{len(self.written)} written, {len(self.skipped)} skipped, {len(self.failed)} failed"
        counts += f", {len(self.left_out)} left out" if self.left_out else ""
        lines = [counts]
        lines += [f"  note: {source}: {note}" for source, note in self.notes]
        lines += [f"  failed: {reason}" for _, reason in self.failed]
        lines += [f"  left out: {item}" for item in self.left_out]
        return "\n".join(lines)


def upscale_files(
    inputs: PathLike | Iterable[PathLike],
    output: PathLike,
    recipe: Recipe,
    params: Params,
    settings: UpscaleSettings,
    *,
    origin: Origin | None = None,
    recursive: bool = False,
    suffix: str = "",
    extension: str = ".png",
    overwrite: bool = False,
    skip_existing: bool = False,
    continue_on_error: bool = False,
    flatten_onto: str | None = None,
    console: Console | None = None,
) -> Summary:
    """Upscale image files and folders of them.

    All names, headers of images and output folders are checked before the first image is computed.

    Args:
      inputs: image files and folders.
      output: name of the SR image if the only input is a file and the name has an image suffix, else a folder.
      recipe: the recipe.
      params: the recipe's parameters.
      settings: settings of the upscaling.
      origin: origin of the parameters, for the sidecars.
      recursive: whether to search subfolders, whose structure is kept below `output`.
      suffix: text appended to every file name, before the extension.
      extension: extension of the outputs if `output` is a folder.
      overwrite: whether existing outputs may be replaced.
      skip_existing: whether to skip images whose output exists.
      continue_on_error: whether to list an image that cannot be upscaled in the summary and continue.
      flatten_onto: color of the ground that transparent images are put on, such as 'white'; None keeps transparency.
      console: console for progress and messages; None for neither.

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
    steps = preview_steps(recipe, settings)
    plan = plan_jobs(inputs, output, recursive=recursive, suffix=suffix, extension=extension, preview_steps=steps)
    jobs, skipped, odd = remaining_jobs(plan.jobs, overwrite, skip_existing)
    common_entries = origin_entries(origin or Origin(), recipe) if jobs else {}
    upscaler = make_upscaler(recipe, settings)
    jobs, failed = _possible_jobs(jobs, recipe, settings, ground is not None, continue_on_error)
    for folder in sorted({job.target.parent for job in jobs}):
        check_writable(folder)
    run = _Run(upscaler, recipe, jax.device_put(params), settings, common_entries, ground, origin and origin.checkpoint)
    written, failed_later, notes = _run_jobs(jobs, run, continue_on_error, console)
    failed, notes = failed + failed_later, _notes_of(plan) + odd + notes
    return Summary(tuple(written), tuple(skipped), tuple(failed), tuple(notes), plan.left_out)


def _possible_jobs(
    jobs: Sequence[Job], recipe: Recipe, settings: UpscaleSettings, flattened: bool, continue_on_error: bool
) -> tuple[list[Job], Reasons]:
    """(jobs that can be run, failures of the others), as far as the headers of the images tell."""

    def check(height: int, width: int, alpha: bool, target: Path) -> None:
        streamed = _is_streamed(recipe, target, height, width, alpha, settings)
        check_host_memory(recipe, height, width, settings, alpha, 0, streamed)

    failed = impossible_jobs(jobs, recipe.scale, check, flattened)
    if failed and not continue_on_error:
        more = f" (and {len(failed) - 1} more cannot be upscaled)" if len(failed) > 1 else ""
        raise ValueError(f"{failed[0][1]}{more}")
    sources = {source for source, _ in failed}
    return [job for job in jobs if job.source not in sources], failed


def _notes_of(plan: Plan) -> Reasons:
    names = [path.name for path in plan.results]
    if not names:
        return []
    listed = ", ".join(names[:NAMED]) + (", ..." if len(names) > NAMED else "")
    return [(plan.results[0].parent, f"{len(names)} results of earlier runs in it are no inputs: {listed}")]


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
    """

    upscaler: Upscaler
    recipe: Recipe
    params: Params
    settings: UpscaleSettings
    common_entries: Mapping[str, Any]
    ground: tuple[float, float, float] | None
    weights: Path | None


def _run_jobs(
    jobs: Sequence[Job], run: _Run, continue_on_error: bool, console: Console | None
) -> tuple[list[Path], Reasons, Reasons]:
    """Read, upscale and write every job; returns (written, failed, notes) of `Summary`."""
    written: list[Path] = []
    failed: Reasons = []
    notes: Reasons = []
    printed_estimates: set[str] = set()
    current = run.settings

    def say(text: str) -> None:
        if console is not None:
            console.print(escape(text))

    with _progress_bar(console) as bar:
        images = bar.add_task("images", total=len(jobs))
        for job in jobs:
            task = bar.add_task(escape(job.source.name), total=None)
            try:
                image = _read(job, run)
                notes += [(job.source, note) for note in (*image.notes, depth_note(job.target, image)) if note]
                fitting, estimate = _fit_memory(job.target, image, run, current)
                if estimate not in printed_estimates:
                    printed_estimates.add(estimate)
                    say(estimate)
                used = _upscale_one(job, image, run, fitting, partial(_update_bar, bar, task))
                if used != current:  # the next images start with the settings that fitted into memory
                    say(f"device memory ran out: continuing with tile {used.tile} and tile_batch {used.tile_batch}")
                    current = used
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


def _is_streamed(recipe: Recipe, target: Path, height: int, width: int, alpha: bool, settings: UpscaleSettings) -> bool:
    """Whether a result is computed and written in strips: a large one, opaque, as PNG."""
    return target.suffix.lower() == ".png" and not alpha and can_stream(recipe, height, width, settings)


def _upscale_one(
    job: Job, image: ImageData, run: _Run, settings: UpscaleSettings, progress: Progress
) -> UpscaleSettings:
    """Upscale and write one image; returns the settings that fitted into the device's memory."""
    height, width, _ = image.pixels.shape
    if _is_streamed(run.recipe, job.target, height, width, image.alpha is not None, settings):
        return _stream(job, image, run, settings, progress)
    upscaled = upscale_image(run.upscaler, run.recipe.scale, run.params, image, progress, settings)
    record = {**run.common_entries, **_sidecar_entries(job, image, upscaled.settings, run.settings)}
    for step, preview in upscaled.previews.items():  # first: a result stands for a complete job
        write_result(job.previews[step], preview, {**record, "preview_after_steps": step})
    write_result(job.target, upscaled.image, record)
    return upscaled.settings


def _stream(job: Job, image: ImageData, run: _Run, settings: UpscaleSettings, progress: Progress) -> UpscaleSettings:
    """As `_upscale_one`, strip by strip; where device memory runs out, the file is begun again with smaller tiles."""
    size = image.pixels.shape[0] * run.recipe.scale, image.pixels.shape[1] * run.recipe.scale
    while True:
        record = {**run.common_entries, **_sidecar_entries(job, image, settings, run.settings)}
        strips = run.upscaler.strips(run.params, image.pixels, progress, settings)
        try:
            write_encoded(job.target, partial(_encode_strips, job.target, strips, size, image), record)
            return settings
        except jax.errors.JaxRuntimeError as error:
            smaller = reduced_settings(run.recipe, settings) if out_of_memory(error) else None
            if smaller is None:
                raise
            settings = smaller


def _encode_strips(
    target: Path, strips: Iterable[np.ndarray], size: tuple[int, int], image: ImageData, file: Path
) -> None:
    encode_strips(file, target, strips, size, image)


def _read(job: Job, run: _Run) -> ImageData:
    image = read_image(job.source)
    if run.ground is not None:
        image = flatten(image, run.ground)
    check_alpha(job.target, image)
    return image


def _fit_memory(target: Path, image: ImageData, run: _Run, settings: UpscaleSettings) -> tuple[UpscaleSettings, str]:
    """Settings that fit into memory, where the device computes in main memory, and the estimate in words.

    Raises:
      MemoryError: no smaller batch or tile does.
    """
    height, width, _ = image.pixels.shape
    while True:
        streamed = _is_streamed(run.recipe, target, height, width, image.alpha is not None, settings)
        estimate = run.upscaler.estimate(run.params, height, width, settings, streamed)
        if jax.default_backend() != "cpu":
            return settings, str(estimate)
        try:
            device = estimate.temporary or 0
            check_host_memory(run.recipe, height, width, settings, image.alpha is not None, device, streamed)
            return settings, str(estimate)
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


def _update_bar(bar: ProgressBar, task: TaskID, done: int, total: int) -> None:
    bar.update(task, completed=done, total=total)


def _progress_bar(console: Console | None) -> ProgressBar:
    return ProgressBar(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console,
        disable=console is None,
    )


def origin_entries(origin: Origin, recipe: Recipe) -> dict[str, Any]:
    """The entries of a sidecar that do not depend on the image: versions, device, recipe, and digests of all weights.

    Raises:
      FileNotFoundError: the checkpoint does not exist.
    """
    checkpoint = None
    if origin.checkpoint is not None:
        several = origin.checkpoint.is_dir() or is_ncnn(origin.checkpoint)
        digest = digest_of(origin.checkpoint, "transformer") if several else sha256_of(origin.checkpoint)
        checkpoint = {"path": str(origin.checkpoint), "sha256": digest}
    return {
        "framer_jax": __version__,
        "jax": jax.__version__,
        "device": jax.devices()[0].device_kind,
        "recipe": recipe.name,
        "scale": recipe.scale,
        "checkpoint": checkpoint,
        "weights": dict(origin.frozen_weights),
        "config": None if origin.config is None else dict(origin.config),
        "changes": dict(origin.overrides),
    }


def _sidecar_entries(job: Job, image: ImageData, used: UpscaleSettings, requested: UpscaleSettings) -> dict[str, Any]:
    height, width = image.pixels.shape[:2]
    return {
        "settings": asdict(used),
        "settings_asked_for": asdict(requested),
        "input": {
            "name": job.source.name,
            "width": width,
            "height": height,
            "mode": image.mode,
            "bits": image.bits,
            "notes": list(image.notes),
        },
    }
