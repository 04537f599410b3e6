"""Images that are replaced by their results, each once."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from framer_jax.images.decode import read_header
from framer_jax.inference.jobs import Job, PathLike, Plan, find_images
from framer_jax.inference.result_files import is_record, sidecar_path


def check_in_place(
    output: PathLike | None, suffix: str, overwrite: bool, skip_existing: bool, preview_steps: Sequence[int]
) -> None:
    """Refuse what makes no sense where images are replaced."""
    others = {
        "an output": output is not None,
        "a suffix": bool(suffix),
        "overwrite": overwrite,
        "skip_existing": skip_existing,
        "previews": bool(preview_steps),
    }
    for name in (name for name, is_given in others.items() if is_given):
        raise ValueError(f"in place, each result replaces its image: omit {name}")


def plan_in_place(inputs: PathLike | Iterable[PathLike], recursive: bool = False) -> Plan:
    """The images of files and folders as jobs whose target is the image itself.

    Of a link, the file that it leads to is replaced, and each file once. Images that a record describes as results,
    such as those of an earlier run in place, are no inputs: nothing is upscaled twice.

    Raises:
      FileNotFoundError: an input does not exist.
      FileExistsError: a file of another program has the name of a record.
      ValueError: there is no image.
    """
    paths = [Path(path) for path in ([inputs] if isinstance(inputs, str | os.PathLike) else inputs)]
    nowhere = Path(os.devnull)  # a run in place has no folder of results
    searched = [find_images(path, nowhere, recursive) for path in paths]
    images = list(dict.fromkeys(image.resolve() for of_path, _ in searched for image, _ in of_path))
    results = tuple(image for image in images if _is_result(image))
    next_to_images = tuple(path for _, excluded in searched for path in excluded.results)
    jobs = [Job(image, image) for image in images if image not in set(results)]
    for image in (job.source for job in jobs):
        sidecar = sidecar_path(image)
        if sidecar.exists() and not is_record(sidecar):
            raise FileExistsError(f"{sidecar} exists and is no record of framer_jax: move it away, or name an output")
    return Plan(
        jobs, tuple(item for _, excluded in searched for item in excluded.left_out), (*results, *next_to_images)
    )


def _is_result(image: Path) -> bool:
    """Whether the record next to an image describes it, and not the result that an interrupted run did not finish."""
    sidecar = sidecar_path(image)
    if not is_record(sidecar):
        return False
    size = json.loads(sidecar.read_text(encoding="utf-8")).get("output")
    if not isinstance(size, dict):
        return True
    try:
        header = read_header(image)
    except (OSError, ValueError, MemoryError):  # said when its turn comes
        return False
    return (header.height, header.width) == (size.get("height"), size.get("width"))
