"""Upscale files: one, several, or a folder of them, each with a record of how it was made."""

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

from framer_jax.data.files import image_paths
from framer_jax.inference.images import FORMATS, Picture, output_format, read_picture, write_picture
from framer_jax.inference.upscaler import (
    UpscaleSettings,
    make_upscaler,
    upscale_picture,
)
from framer_jax.porting.files import replacing, sha256_of
from framer_jax.recipes.base import Params, Recipe
from framer_jax.recipes.weights_by_path import digest_of
from framer_jax.version import __version__

PathLike = str | os.PathLike[str]


class Job(NamedTuple):
    """One picture to read and where its enlargement goes."""

    source: Path
    target: Path


class Origin(NamedTuple):
    """Where the parameters come from, for the record beside each picture.

    Attributes:
      checkpoint: the weight file or checkpoint folder, or None.
      config: the configuration it was made with, as plain JSON.
      weights: digests of the frozen weights that it needs beside its own, by their knobs.
      changes: what of the configuration was changed for this use (it holds it as changed), by knob.
    """

    checkpoint: Path | None = None
    config: Mapping[str, Any] | None = None
    weights: Mapping[str, str] = MappingProxyType({})
    changes: Mapping[str, Any] = MappingProxyType({})


class Summary(NamedTuple):
    """What became of the files.

    Attributes:
      written: the pictures written.
      skipped: outputs that existed and were left alone (skip_existing).
      failed: (source, reason).
      notes: (source, what was lost in reading it).
    """

    written: tuple[Path, ...]
    skipped: tuple[Path, ...]
    failed: tuple[tuple[Path, str], ...]
    notes: tuple[tuple[Path, str], ...]

    @property
    def exit_status(self) -> int:
        """0 if every picture was written or skipped, else 1."""
        return int(bool(self.failed))

    def __str__(self) -> str:
        lines = [f"{len(self.written)} written, {len(self.skipped)} skipped, {len(self.failed)} failed"]
        lines += [f"  note: {source}: {note}" for source, note in self.notes]
        lines += [f"  failed: {reason}" for _, reason in self.failed]
        return "\n".join(lines)


def sidecar_of(target: PathLike) -> Path:
    """The record beside a picture: photo.png.json for photo.png."""
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
    """Upscale one file, several, or folders of them.

    Every name is checked, and every output folder made and tried, before the first picture is computed.

    Args:
      inputs: files and folders.
      output: a picture's name if the only input is a file and the name has an image suffix, else a folder.
      recipe: the method.
      params: its parameters.
      settings: how to upscale.
      origin: where the parameters come from.
      recursive: also the folders below, kept as folders below `output`.
      suffix: put after each name, before the extension.
      extension: of the outputs, when `output` is a folder.
      overwrite: allow existing outputs to be replaced.
      skip_existing: leave pictures alone whose output exists.
      continue_on_error: name a bad picture in the summary and go on.
      console: for progress and messages; none if None.

    Returns:
      the summary; `Summary.exit_status` is for the shell.

    Raises:
      FileNotFoundError: an input or the checkpoint does not exist.
      FileExistsError: outputs exist and neither `overwrite` nor `skip_existing` is set.
      OSError: a folder cannot be made or written to.
      ValueError: nothing to do, two pictures with one output, an output that is an input, bad settings; or a bad
        picture where `continue_on_error` is not set.
    """
    if overwrite and skip_existing:
        raise ValueError("overwrite and skip_existing exclude each other: choose one")
    jobs, skipped = _not_yet_done(
        plan_jobs(inputs, output, recursive=recursive, suffix=suffix, extension=extension), overwrite, skip_existing
    )
    record = _common_record(origin or Origin(), recipe) if jobs else {}
    for folder in sorted({job.target.parent for job in jobs}):
        _check_writable(folder)
    written, failed, notes = _run_jobs(
        jobs, recipe, jax.device_put(params), settings, record, overwrite, continue_on_error, console
    )
    return Summary(tuple(written), tuple(skipped), tuple(failed), tuple(notes))


def plan_jobs(
    inputs: PathLike | Iterable[PathLike],
    output: PathLike,
    *,
    recursive: bool = False,
    suffix: str = "",
    extension: str = ".png",
) -> list[Job]:
    """Find the pictures and name their outputs; arguments and errors as for `upscale_files`.

    Pictures that differ in extension alone (a.jpg, a.png) get it into their names (a_jpg.png, a_png.png).
    """
    given = [Path(inputs)] if isinstance(inputs, str | os.PathLike) else [Path(path) for path in inputs]
    output = Path(output)
    if not given:
        raise ValueError("no input: give a file or a folder")
    if len(given) == 1 and given[0].is_file() and output.suffix.lower() in FORMATS and not output.is_dir():
        jobs = [Job(given[0], output.with_name(output.stem + suffix + output.suffix))]
    else:
        if output.is_file():
            raise ValueError(f"{output} is a file: give a folder for the outputs")
        extension = extension if extension.startswith(".") else f".{extension}"
        output_format(f"output{extension}")
        places = [place for path in given for place in _find(path, output, recursive)]
        jobs = _name_outputs(places, output, suffix, extension)
    sources = {job.source.resolve() for job in jobs}
    for job in jobs:
        if job.target.resolve() in sources:
            raise ValueError(f"{job.target} would replace an input: give a suffix or another output folder")
    return jobs


def _find(path: Path, output: Path, recursive: bool) -> list[tuple[Path, Path]]:
    """(picture, its name relative to the input) for a file, or for the pictures of a folder in order."""
    if path.is_file():
        return [(path, Path(path.name))]
    if not path.is_dir():
        raise FileNotFoundError(f"{path}: no such file or folder")
    inside = output.resolve() != path.resolve()
    found = [
        (file, file.relative_to(path))
        for file in image_paths(path, recursive)
        # outputs of an earlier run, in a folder below the input, are no inputs
        if not (inside and file.resolve().is_relative_to(output.resolve()))
    ]
    if not found:
        deeper = "" if recursive else " (folders below it are searched with recursive)"
        raise ValueError(f"{path}: no image in this folder{deeper}")
    return found


def _name_outputs(places: list[tuple[Path, Path]], output: Path, suffix: str, extension: str) -> list[Job]:
    def plain(relative: Path) -> Path:
        return output / relative.with_name(f"{relative.stem}{suffix}{extension}")

    def folded(path: Path) -> str:
        return str(path).casefold()  # some file systems do not tell A.png from a.png

    shared = Counter(folded(plain(relative)) for _, relative in places)
    jobs = []
    for source, relative in places:
        target = plain(relative)
        if shared[folded(target)] > 1:
            target = output / relative.with_name(
                f"{relative.stem}_{relative.suffix.lower().lstrip('.')}{suffix}{extension}"
            )
        jobs.append(Job(source, target))
    first: dict[str, Path] = {}
    for source, target in jobs:
        other = first.setdefault(folded(target), source)
        if other is not source:
            raise ValueError(f"{other} and {source} would both be written to {target}: upscale them separately")
    return jobs


def _not_yet_done(jobs: list[Job], overwrite: bool, skip_existing: bool) -> tuple[list[Job], list[Path]]:
    """(jobs to do, outputs to leave alone), after a look at everything that would be written."""
    skipped = [job.target for job in jobs if skip_existing and job.target.exists()]
    left = set(skipped)
    jobs = [job for job in jobs if job.target not in left]
    existing = [path for job in jobs for path in (job.target, sidecar_of(job.target)) if path.exists()]
    if existing and not overwrite:
        more = f" and {len(existing) - 3} more" if len(existing) > 3 else ""
        names = ", ".join(map(str, existing[:3]))
        raise FileExistsError(f"{names}{more} exist: choose another output, skip existing ones or allow overwriting")
    if folders := [path for path in existing if path.is_dir()]:
        raise ValueError(f"{folders[0]} is a folder where a file is to be written")
    return jobs, skipped


def _check_writable(folder: Path) -> None:
    """Make a folder and try a file in it: permissions alone do not tell of read-only or full disks."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OSError(f"{folder}: cannot write there ({error.strerror}): choose another output") from error


def _run_jobs(
    jobs: list[Job],
    recipe: Recipe,
    params: Params,
    settings: UpscaleSettings,
    common: Mapping[str, Any],
    overwrite: bool,
    continue_on_error: bool,
    console: Console | None,
) -> tuple[list[Path], list[tuple[Path, str]], list[tuple[Path, str]]]:
    """Read, upscale and write every job; returns (written, failed, notes) of `Summary`."""
    upscaler = make_upscaler(recipe, settings)
    written: list[Path] = []
    failed: list[tuple[Path, str]] = []
    notes: list[tuple[Path, str]] = []
    announced: set[str] = set()
    current = settings

    def say(text: str) -> None:
        if console is not None:
            console.print(escape(text))

    with _progress(console) as bar:
        images = bar.add_task("images", total=len(jobs))
        for job in jobs:
            task = bar.add_task(escape(job.source.name), total=None)
            try:
                picture = read_picture(job.source)
                notes += [(job.source, note) for note in picture.notes]
                height, width, _ = picture.pixels.shape
                estimate = str(upscaler.estimate(params, height, width, current))
                if estimate not in announced:
                    announced.add(estimate)
                    say(estimate)
                report = partial(_report, bar, task)
                large, used = upscale_picture(upscaler, recipe.scale, params, picture, report, current)
                if used != current:  # the next pictures start with what fitted
                    say(f"device memory ran out: going on with tile {used.tile} and tile_batch {used.tile_batch}")
                    current = used
                write_picture(job.target, large, overwrite)
                _write_record(job, {**common, **_record(job, picture, used, settings)})
                written.append(job.target)
            except (OSError, ValueError, MemoryError, jax.errors.JaxRuntimeError) as error:
                if not continue_on_error:
                    raise
                failed.append((job.source, _reason(job.source, error)))
                say(f"failed: {failed[-1][1]}")
            bar.remove_task(task)
            bar.advance(images)
    return written, failed, notes


def _report(bar: Progress, task: TaskID, done: int, total: int) -> None:
    bar.update(task, completed=done, total=total)


def _progress(console: Console | None) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console,
        disable=console is None,
    )


def _common_record(origin: Origin, recipe: Recipe) -> dict[str, Any]:
    checkpoint = None
    if origin.checkpoint is not None:
        folder = origin.checkpoint.is_dir()
        digest = digest_of(origin.checkpoint, "transformer") if folder else sha256_of(origin.checkpoint)
        checkpoint = {"path": str(origin.checkpoint), "sha256": digest}
    return {
        "framer_jax": __version__,
        "jax": jax.__version__,
        "device": jax.devices()[0].device_kind,
        "recipe": recipe.name,
        "scale": recipe.scale,
        "checkpoint": checkpoint,
        "weights": dict(origin.weights),
        "config": None if origin.config is None else dict(origin.config),
        "changes": dict(origin.changes),
    }


def _record(job: Job, picture: Picture, used: UpscaleSettings, asked: UpscaleSettings) -> dict[str, Any]:
    height, width = picture.pixels.shape[:2]
    return {
        "settings": asdict(used),
        "settings_asked_for": asdict(asked),
        "input": {
            "name": job.source.name,
            "width": width,
            "height": height,
            "mode": picture.mode,
            "bits": picture.bits,
            "notes": list(picture.notes),
        },
    }


def _write_record(job: Job, record: Mapping[str, Any]) -> None:
    with replacing(sidecar_of(job.target)) as temporary:
        temporary.write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _reason(source: Path, error: BaseException) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if str(source) in text else f"{source}: {text}"
