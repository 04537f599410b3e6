"""Upscale image files and folders; a JSON sidecar next to every SR image records how it was made."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from tempfile import TemporaryFile
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from framer_jax.checkpoints.paths import digest_of
from framer_jax.data.files import image_paths
from framer_jax.inference.images import FORMATS, ImageData, output_format, read_image, write_image
from framer_jax.inference.settings import UpscaleSettings
from framer_jax.inference.upscaler import Upscaler, make_upscaler, upscale_image
from framer_jax.porting.files import atomic_write, sha256_of
from framer_jax.recipes.base import Params, Recipe
from framer_jax.version import __version__

PathLike = str | os.PathLike[str]


class Job(NamedTuple):
    """One image to upscale.

    Attributes:
      source: LR image file to read.
      target: SR image file to write.
    """

    source: Path
    target: Path


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
      notes: (source, what reading it lost).
    """

    written: tuple[Path, ...]
    skipped: tuple[Path, ...]
    failed: tuple[tuple[Path, str], ...]
    notes: tuple[tuple[Path, str], ...]

    @property
    def exit_status(self) -> int:
        """0 if every image was written or skipped, else 1."""
        return int(bool(self.failed))

    def __str__(self) -> str:
        lines = [f"{len(self.written)} written, {len(self.skipped)} skipped, {len(self.failed)} failed"]
        lines += [f"  note: {source}: {note}" for source, note in self.notes]
        lines += [f"  failed: {reason}" for _, reason in self.failed]
        return "\n".join(lines)


def sidecar_path(target: PathLike) -> Path:
    """The sidecar next to an SR image: photo.png.json for photo.png."""
    target = Path(target)
    return target.with_name(target.name + ".json")


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
    console: Console | None = None,
) -> Summary:
    """Upscale image files and folders of them.

    All names are checked, and all output folders are created and tested, before the first image is computed.

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
      console: console for progress and messages; None for neither.

    Returns:
      The summary; `Summary.exit_status` is the command's exit status.

    Raises:
      FileNotFoundError: an input or the checkpoint does not exist.
      FileExistsError: outputs exist, and neither `overwrite` nor `skip_existing` is set.
      OSError: a folder cannot be created or written to.
      ValueError: no image, two images with the same output, an output that is an input, or invalid settings; or an
        image that cannot be upscaled, if `continue_on_error` is not set.
    """
    if overwrite and skip_existing:
        raise ValueError("overwrite and skip_existing exclude each other: choose one")
    jobs = plan_jobs(inputs, output, recursive=recursive, suffix=suffix, extension=extension)
    jobs, skipped = _remaining_jobs(jobs, overwrite, skip_existing)
    common_entries = _common_sidecar_entries(origin or Origin(), recipe) if jobs else {}
    for folder in sorted({job.target.parent for job in jobs}):
        _check_writable(folder)
    run = _Run(
        make_upscaler(recipe, settings), recipe.scale, jax.device_put(params), settings, common_entries, overwrite
    )
    written, failed, notes = _run_jobs(jobs, run, continue_on_error, console)
    return Summary(tuple(written), tuple(skipped), tuple(failed), tuple(notes))


def plan_jobs(
    inputs: PathLike | Iterable[PathLike],
    output: PathLike,
    *,
    recursive: bool = False,
    suffix: str = "",
    extension: str = ".png",
) -> list[Job]:
    """Find the images and name their outputs; arguments and errors as in `upscale_files`.

    Images that differ in their extension only (a.jpg, a.png) get it into their names (a_jpg.png, a_png.png).
    """
    paths = [Path(inputs)] if isinstance(inputs, str | os.PathLike) else [Path(path) for path in inputs]
    output = Path(output)
    if not paths:
        raise ValueError("no input: give a file or a folder")
    if len(paths) == 1 and paths[0].is_file() and output.suffix.lower() in FORMATS and not output.is_dir():
        jobs = [Job(paths[0], output.with_name(output.stem + suffix + output.suffix))]
    else:
        if output.is_file():
            raise ValueError(f"{output} is a file: give a folder for the outputs")
        extension = extension if extension.startswith(".") else f".{extension}"
        output_format(f"output{extension}")
        images = [image for path in paths for image in _find_images(path, output, recursive)]
        jobs = _name_outputs(images, output, suffix, extension)
    sources = {job.source.resolve() for job in jobs}
    for job in jobs:
        if job.target.resolve() in sources:
            raise ValueError(f"{job.target} would replace an input: give a suffix or another output folder")
    return jobs


def _find_images(path: Path, output: Path, recursive: bool) -> list[tuple[Path, Path]]:
    """(image, its path relative to the input): the file itself, or the sorted images of the folder."""
    if path.is_file():
        return [(path, Path(path.name))]
    if not path.is_dir():
        raise FileNotFoundError(f"{path}: no such file or folder")
    may_hold_outputs = output.resolve() != path.resolve()
    images = [
        (file, file.relative_to(path))
        for file in image_paths(path, recursive)
        # outputs of an earlier run, in a subfolder of the input, are not inputs
        if not (may_hold_outputs and file.resolve().is_relative_to(output.resolve()))
    ]
    if not images:
        hint = "" if recursive else " (subfolders are searched with recursive)"
        raise ValueError(f"{path}: no image in this folder{hint}")
    return images


def _name_outputs(images: list[tuple[Path, Path]], output: Path, suffix: str, extension: str) -> list[Job]:
    def default_target(relative: Path) -> Path:
        return output / relative.with_name(f"{relative.stem}{suffix}{extension}")

    def case_folded(path: Path) -> str:
        return str(path).casefold()  # some file systems do not distinguish A.png from a.png

    counts = Counter(case_folded(default_target(relative)) for _, relative in images)
    jobs = []
    for source, relative in images:
        target = default_target(relative)
        if counts[case_folded(target)] > 1:
            target = output / relative.with_name(
                f"{relative.stem}_{relative.suffix.lower().lstrip('.')}{suffix}{extension}"
            )
        jobs.append(Job(source, target))
    sources: dict[str, Path] = {}
    for source, target in jobs:
        other = sources.setdefault(case_folded(target), source)
        if other is not source:
            raise ValueError(f"{other} and {source} would both be written to {target}: upscale them separately")
    return jobs


def _remaining_jobs(jobs: list[Job], overwrite: bool, skip_existing: bool) -> tuple[list[Job], list[Path]]:
    """(jobs to run, outputs to skip), after checking every file that would be written."""
    skipped = [job.target for job in jobs if skip_existing and job.target.exists()]
    skipped_targets = set(skipped)
    jobs = [job for job in jobs if job.target not in skipped_targets]
    existing = [path for job in jobs for path in (job.target, sidecar_path(job.target)) if path.exists()]
    if existing and not overwrite:
        more = f" and {len(existing) - 3} more" if len(existing) > 3 else ""
        names = ", ".join(map(str, existing[:3]))
        raise FileExistsError(f"{names}{more} exist: choose another output, skip existing ones or allow overwriting")
    if folders := [path for path in existing if path.is_dir()]:
        raise ValueError(f"{folders[0]} is a folder where a file is to be written")
    return jobs, skipped


def _check_writable(folder: Path) -> None:
    """Create a folder and a file in it: permissions alone do not reveal read-only or full disks."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OSError(f"{folder}: cannot write there ({error.strerror}): choose another output") from error


class _Run(NamedTuple):
    """What all jobs share; `common_entries` are the sidecar entries that do not depend on the image."""

    upscaler: Upscaler
    scale: int
    params: Params
    settings: UpscaleSettings
    common_entries: Mapping[str, Any]
    overwrite: bool


def _run_jobs(
    jobs: list[Job], run: _Run, continue_on_error: bool, console: Console | None
) -> tuple[list[Path], list[tuple[Path, str]], list[tuple[Path, str]]]:
    """Read, upscale and write every job; returns (written, failed, notes) of `Summary`."""
    written: list[Path] = []
    failed: list[tuple[Path, str]] = []
    notes: list[tuple[Path, str]] = []
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
                image = read_image(job.source)
                notes += [(job.source, note) for note in image.notes]
                height, width, _ = image.pixels.shape
                estimate = str(run.upscaler.estimate(run.params, height, width, current))
                if estimate not in printed_estimates:
                    printed_estimates.add(estimate)
                    say(estimate)
                progress = partial(_update_bar, bar, task)
                sr, used = upscale_image(run.upscaler, run.scale, run.params, image, progress, current)
                if used != current:  # the next images start with the settings that fitted into memory
                    say(f"device memory ran out: continuing with tile {used.tile} and tile_batch {used.tile_batch}")
                    current = used
                write_image(job.target, sr, run.overwrite)
                _write_sidecar(job, {**run.common_entries, **_sidecar_entries(job, image, used, run.settings)})
                written.append(job.target)
            except (OSError, ValueError, MemoryError, jax.errors.JaxRuntimeError) as error:
                if not continue_on_error:
                    raise
                failed.append((job.source, _reason(job.source, error)))
                say(f"failed: {failed[-1][1]}")
            bar.remove_task(task)
            bar.advance(images)
    return written, failed, notes


def _update_bar(bar: Progress, task: TaskID, done: int, total: int) -> None:
    bar.update(task, completed=done, total=total)


def _progress_bar(console: Console | None) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console,
        disable=console is None,
    )


def _common_sidecar_entries(origin: Origin, recipe: Recipe) -> dict[str, Any]:
    checkpoint = None
    if origin.checkpoint is not None:
        is_folder = origin.checkpoint.is_dir()
        digest = digest_of(origin.checkpoint, "transformer") if is_folder else sha256_of(origin.checkpoint)
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


def _write_sidecar(job: Job, entries: Mapping[str, Any]) -> None:
    with atomic_write(sidecar_path(job.target)) as temporary:
        temporary.write_text(json.dumps(entries, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _reason(source: Path, error: BaseException) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if str(source) in text else f"{source}: {text}"
