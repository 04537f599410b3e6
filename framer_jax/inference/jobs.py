"""Which images are upscaled, and how their outputs are named: everything that can be said before one is computed."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryFile
from types import MappingProxyType
from typing import NamedTuple

from framer_jax.data.files import SUFFIXES, LeftOut, list_images, summary_of
from framer_jax.inference.formats import FORMATS, output_format
from framer_jax.inference.result_files import LONGEST_NAME, is_record, read_record, sidecar_path

PathLike = str | os.PathLike[str]

READING_THREADS = 4


class Job(NamedTuple):
    """One image to upscale.

    Attributes:
      source: LR image file to read.
      target: SR image file to write.
      previews: number of sampling steps → image file of what the sampler had estimated after them.
    """

    source: Path
    target: Path
    previews: Mapping[int, Path] = MappingProxyType({})

    def files(self) -> tuple[Path, ...]:
        """Every image file to write."""
        return (self.target, *self.previews.values())


class Plan(NamedTuple):
    """What becomes of the inputs.

    Attributes:
      jobs: the images to upscale.
      left_out: what may be an image, or hold images, and cannot be read.
      results: results of earlier runs that lie among the inputs, and are none.
    """

    jobs: list[Job]
    left_out: tuple[LeftOut, ...] = ()
    results: tuple[Path, ...] = ()


class Remaining(NamedTuple):
    """What is left to do.

    Attributes:
      jobs: the jobs to run.
      skipped: outputs to skip, since they exist.
      notes: (output, what is odd about skipping it).
    """

    jobs: list[Job]
    skipped: list[Path]
    notes: list[tuple[Path, str]]


def plan_jobs(
    inputs: PathLike | Iterable[PathLike],
    output: PathLike,
    *,
    recursive: bool = False,
    suffix: str = "",
    extension: str = ".png",
    preview_steps: Sequence[int] = (),
) -> Plan:
    """Find the images and name their outputs; arguments and errors as in framer_jax.inference.folder.upscale_files.

    Images that differ in their extension only (a.jpg, a.png) get it into their names (a_jpg.png, a_png.png).
    """
    given = [inputs] if isinstance(inputs, str | os.PathLike) else list(inputs)
    if not given:
        raise ValueError("no input: give a file or a folder")
    for name, what in [(output, "output"), *((path, "input") for path in given)]:
        if not os.fspath(name):
            raise ValueError(f"the name of the {what} is empty: name a file or a folder ('.' for the current one)")
    for what, text in (("suffix", suffix), ("extension", extension)):
        if any(separator in text for separator in (os.sep, os.altsep) if separator):
            raise ValueError(f"the {what} {text!r} names a folder: it is a part of a file name, so omit {os.sep!r}")
    paths, as_folder, output = [Path(path) for path in given], _ends_with_separator(output), Path(output)
    for path in paths:  # first: what an output may be depends on what the inputs are
        if not path.exists():
            raise FileNotFoundError(f"{path}: no such file or folder")
    single = len(paths) == 1 and paths[0].is_file()
    _check_output(output, single, as_folder)
    if single and output.suffix.lower() in FORMATS and not output.is_dir() and not as_folder:
        plan = Plan([Job(paths[0], output.with_name(output.stem + suffix + output.suffix))])
    else:
        extension = extension if extension.startswith(".") else f".{extension}"
        output_format(f"output{extension}")
        searched = [find_images(path, output, recursive) for path in paths]
        images = [image for of_path, _ in searched for image in of_path]
        plan = Plan(
            _name_outputs(images, output, suffix, extension),
            tuple(item for _, excluded in searched for item in excluded.left_out),
            tuple(path for _, excluded in searched for path in excluded.results),
        )
    plan = plan._replace(jobs=[job._replace(previews=_preview_files(job.target, preview_steps)) for job in plan.jobs])
    sources = {job.source.resolve() for job in plan.jobs}
    for file in (file for job in plan.jobs for file in job.files()):
        if file.resolve() in sources:
            raise ValueError(f"{file} would replace an input: give a suffix or another output folder")
    targets = Counter(file.resolve() for job in plan.jobs for file in job.files())
    if repeated := [file for file, count in targets.items() if count > 1]:
        raise ValueError(f"{repeated[0]} would be a result and a preview: upscale these images separately")
    return plan


def _preview_files(target: Path, steps: Sequence[int]) -> dict[int, Path]:
    """photo_step_05.png for photo.png: as many digits as the last step has."""
    digits = len(str(max(steps, default=0)))
    return {step: target.with_name(f"{target.stem}_step_{step:0{digits}d}{target.suffix}") for step in steps}


def remaining_jobs(jobs: Sequence[Job], overwrite: bool, skip_existing: bool, record: bool = True) -> Remaining:
    """What is left to do, after checking every file that would be written.

    With `skip_existing`, a record without its image, which an interrupted run leaves, is made again. An image without
    a record is skipped: it may be of another program. Where no records are written (`record`), old ones are removed.

    Raises:
      FileExistsError: outputs exist, and neither flag is set.
      ValueError: both flags are set, or an output is a folder.
    """
    if overwrite and skip_existing:
        raise ValueError("overwrite and skip_existing exclude each other: choose one")
    skipped = [job.target for job in jobs if skip_existing and _exists(job.target)]
    notes = [
        (path, "it has no record, so it may be of another program, and is kept: --overwrite makes it again")
        for path in skipped
        if record and not _exists(sidecar_path(path))
    ]
    kept = set(skipped)
    left = [job for job in jobs if job.target not in kept]
    replaced = {sidecar_path(job.target) for job in left if skip_existing and is_record(sidecar_path(job.target))}
    for preview in (file for job in left for file in job.previews.values()):
        if skip_existing and is_record(sidecar_path(preview)):  # of a run that ended before its result was written
            replaced |= {preview, sidecar_path(preview)}
    files = [
        path
        for job in left
        for file in job.files()
        for path in (file, sidecar_path(file))
        if record or path == file or is_record(path)
    ]
    existing = [path for path in files if _exists(path)]
    existing = [path for path in existing if path not in replaced]
    if existing and not overwrite:
        more = f" and {len(existing) - 3} more" if len(existing) > 3 else ""
        names = ", ".join(map(str, existing[:3]))
        verb = "exists" if len(existing) == 1 else "exist"
        remedy = "" if skip_existing else "skip_existing (--skip-existing) or "
        raise FileExistsError(f"{names}{more} {verb}: choose another output, or {remedy}overwrite (--overwrite)")
    if folders := [path for path in existing if path.is_dir()]:
        raise ValueError(f"{folders[0]} is a folder where a file is to be written")
    return Remaining(left, skipped, notes)


def impossible_jobs(jobs: Sequence[Job], check: Callable[[Job], None]) -> list[tuple[Path, str]]:
    """(source, reason) of the images that cannot be upscaled, as far as can be said before one is computed.

    Args:
      jobs: the jobs.
      check: raises an error if a job cannot be done, see framer_jax.inference.job_checks.
    """

    def reason(job: Job) -> str:
        try:
            for file in job.files():
                check_name(file)
            check(job)
        except (OSError, ValueError, MemoryError) as error:
            return reason_of(job.source, error)
        return ""

    with ThreadPoolExecutor(READING_THREADS) as pool:
        reasons = list(pool.map(reason, jobs))
    return [(job.source, text) for job, text in zip(jobs, reasons, strict=True) if text]


def check_name(target: Path) -> None:
    """Raise ValueError if a file name is longer than file systems take."""
    length = len(os.fsencode(target.name))
    if length > LONGEST_NAME:
        raise ValueError(f"{target}: a file name of {length} bytes, more than {LONGEST_NAME}: rename the input")


def check_writable(folder: Path) -> None:
    """Create a folder and a file in it: permissions alone do not reveal read-only or full disks."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=folder):
            pass
    except OSError as error:
        file = next((path for path in (folder, *folder.parents) if path.is_file()), None)
        reason = error.strerror if file is None else f"{file} is a file"
        raise OSError(f"{folder}: cannot write there ({reason}): choose another output") from error


def reason_of(source: Path, error: BaseException) -> str:
    """An error in one line that names the image."""
    nameless = "there is not enough memory" if isinstance(error, MemoryError) else type(error).__name__
    text = " ".join(str(error).split()) or nameless
    return text if " ".join(str(source).split()) in text else f"{source}: {text}"


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # a name that the file system does not take, which is said by `check_name`
        return False


def _ends_with_separator(path: PathLike) -> bool:
    text = os.fsdecode(os.fspath(path))
    return text.endswith(tuple(filter(None, (os.sep, os.altsep))))


def _check_output(output: Path, single: bool, as_folder: bool) -> None:
    """Refuse an output that is a file where a folder is needed, or looks like one."""
    if output.is_dir() or as_folder:
        return
    suffix = output.suffix.lower()
    if single:
        if suffix and suffix not in FORMATS and not suffix[1:].isdigit():  # results_v1.2 is a folder
            raise ValueError(
                f"{output}: cannot write {suffix!r}: use one of {', '.join(FORMATS)}; for a folder of this name, "
                f"end it with {os.sep}"
            )
        if output.is_file() and suffix not in FORMATS:
            raise ValueError(f"{output} is a file: give a folder for the outputs")
    elif output.is_file():
        raise ValueError(f"{output} is a file: give a folder for the outputs")
    elif suffix in SUFFIXES:
        raise ValueError(
            f"{output} looks like the name of one image, and the input is a folder or several images: give a folder "
            f"(for one of this name, end it with {os.sep})"
        )


class _Excluded(NamedTuple):
    left_out: tuple[LeftOut, ...] = ()
    results: tuple[Path, ...] = ()


def find_images(path: Path, output: Path, recursive: bool) -> tuple[list[tuple[Path, Path]], _Excluded]:
    """(image, its path relative to the input) of the file itself or of the folder's sorted images; and the rest."""
    if path.is_file():
        return [(path, Path(path.name))], _Excluded()
    if not path.is_dir():
        raise FileNotFoundError(f"{path}: no such file or folder")
    listing = list_images(path, recursive)
    results = tuple(file for file in listing.paths if _is_result(file, path.resolve(), output.resolve()))
    images = [(file, file.relative_to(path)) for file in listing.paths if file not in set(results)]
    if not images:
        hint = "" if recursive else " (recursive, --recursive, searches subfolders)"
        hint += f", besides {len(results)} results of earlier runs" if results else ""
        hint += f"; {summary_of(listing.left_out)}" if listing.left_out else ""
        raise ValueError(f"{path}: no image in this folder{hint}")
    return images, _Excluded(listing.left_out, results)


def _is_result(file: Path, folder: Path, output: Path) -> bool:
    """Whether a file of an input folder was made by an earlier run: with this output folder, or next to its image."""
    if not file.resolve().is_relative_to(output):
        return _lies_next_to_its_image(file)
    inside = output != folder and output.is_relative_to(folder)
    return inside or is_record(sidecar_path(file))


def _lies_next_to_its_image(file: Path) -> bool:
    """Whether a file was made of another one in its folder, as photo_x4.png of photo.jpg."""
    source = read_record(sidecar_path(file)).get("input")
    name = source.get("name") if isinstance(source, dict) else None
    return isinstance(name, str) and name not in ("", file.name) and (file.parent / Path(name).name).is_file()


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
    for source, target, _ in jobs:
        other = sources.setdefault(case_folded(target), source)
        if other is not source:
            raise ValueError(f"{other} and {source} would both be written to {target}: upscale them separately")
    return jobs
