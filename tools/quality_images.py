"""SR images of whole data sets, made once for each model, settings and LR images, for tools/quality_table.py."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import numpy as np

from framer_jax.images.decode import read_header, read_image
from framer_jax.inference.folder import Origin, origin_entries, upscale_files
from framer_jax.inference.jobs import Job, plan_jobs, reason_of, remaining_jobs
from framer_jax.inference.model import Model, settings_for
from framer_jax.inference.resample import resize_pillow
from framer_jax.inference.result_files import write_result
from framer_jax.inference.settings import UpscaleSettings
from framer_jax.inference.transparency import premultiply_alpha, replace_pixels
from framer_jax.inference.upscaler import make_upscaler
from framer_jax.porting.files import sha256_of
from framer_jax.version import __version__
from tools.score_model import modes_of

SCALE = 4
"""Upsampling factor of the data sets."""


class DataSet(NamedTuple):
    """Photographs to upscale.

    Attributes:
      name: heading of its table, and part of the names of files.
      lr: folder of LR images.
      reference: folder of HR images of the same names; None if there are none.
      published: label → folder of SR images that others published, of the same names.
    """

    name: str
    lr: Path
    reference: Path | None = None
    published: Mapping[str, Path] = MappingProxyType({})


class Upsampler(NamedTuple):
    """A way to upscale.

    Attributes:
      label: its name in tables.
      identity: all that its images depend on besides the LR image, as plain JSON.
      write: (LR file, SR file) → reason why it could not be upscaled, '' if the SR file is there, with its record.
      run: image [H, W, 3] float32 in [0, 1] → the SR image, without reading or writing files.
    """

    label: str
    identity: Mapping[str, Any]
    write: Callable[[Path, Path], str]
    run: Callable[[np.ndarray], np.ndarray]


def bicubic(label: str = "bicubic") -> Upsampler:
    """Bicubic upsampling of whole images with the kernel of Pillow and MATLAB (a = -1/2), as in published tables."""
    identity = {"framer_jax": __version__, "upsampling": "bicubic, a = -0.5", "scale": SCALE}

    def run(pixels: np.ndarray) -> np.ndarray:
        return resize_pillow(pixels, (SCALE * pixels.shape[0], SCALE * pixels.shape[1]))

    def write(source: Path, target: Path) -> str:
        try:
            image = read_image(source)
            result = replace_pixels(image, run(premultiply_alpha(image)), SCALE)
            write_result(target, result, {**identity, "settings": {}, "input": {"name": source.name}})
        except (OSError, ValueError, MemoryError) as error:
            return reason_of(source, error)
        return ""

    return Upsampler(label, identity, write, run)


def upsamplers_of(label: str, model: Model, seed: int = 0) -> list[Upsampler]:
    """The ways in which a model upscales, with the default tiles of `framer-jax upscale`: its mean and its samples.

    Args:
      label: name of the model; the mode is appended where there are two.
      model: the model.
      seed: seed of the noise.

    Raises:
      ValueError: the model has another scale than the data sets.
    """
    if model.recipe.scale != SCALE:
        raise ValueError(f"{label} is a model for x{model.recipe.scale}: the data sets need x{SCALE}")
    modes = modes_of(model.recipe)
    origin = Origin(model.path, model.metadata["config"], model.frozen_weights, model.overrides)
    entries = origin_entries(origin, model.recipe)
    entries["checkpoint"] = entries["checkpoint"]["sha256"]
    params = jax.device_put(model.params)
    upsamplers = []
    for mode in modes:
        settings = settings_for(model, mode=mode, seed=seed)
        run = make_upscaler(model.recipe, settings).run
        upsamplers.append(
            Upsampler(
                f"{label}, {mode}" if len(modes) > 1 else label,
                {**entries, "settings": asdict(settings)},
                partial(_write, model._replace(params=params), settings, origin),
                lambda pixels, run=run: run(params, pixels).pixels,  # type: ignore[misc]
            )
        )
    return upsamplers


def _write(model: Model, settings: UpscaleSettings, origin: Origin, source: Path, target: Path) -> str:
    """`Upsampler.write` of a model."""
    summary = upscale_files(
        source,
        target,
        model.recipe,
        model.params,
        settings,
        origin=origin,
        skip_existing=True,  # a record without its image, which an interrupted run leaves, is made again
        continue_on_error=True,
    )
    return summary.failed[0][1] if summary.failed else ""


def image_folder(output: Path, data_set: DataSet, upsampler: Upsampler) -> Path:
    """The folder of SR images, whose name changes with whatever they depend on, so that an image there is valid."""
    digest = digest_of_json({"upsampler": upsampler.identity, "lr": sha256_of(data_set.lr)})
    return output / "images" / data_set.name / f"{file_name(upsampler.label)}-{digest}"


def jobs_of(data_set: DataSet, folder: Path, limit: int | None = None) -> list[Job]:
    """The images to make, in an order that makes the most of an interrupted run.

    Small images come first; those of equal size are shuffled, always alike, so that the first ones stand for all.

    Args:
      data_set: the LR images.
      folder: where the SR images are.
      limit: the first so many by name; None for all.

    Raises:
      ValueError, OSError: as of framer_jax.inference.jobs.plan_jobs, or a file that is no image.
    """
    jobs = plan_jobs(data_set.lr, folder).jobs[:limit]

    def order(job: Job) -> tuple[int, str]:
        header = read_header(job.source)
        return header.height * header.width, digest_of_json(job.source.name)

    return sorted(jobs, key=order)


def make_images(
    upsampler: Upsampler, jobs: Sequence[Job], advance: Callable[[int], object], may_begin: Callable[[], bool]
) -> list[str]:
    """Make the images that are not there yet.

    Args:
      upsampler: the way to upscale.
      jobs: from `jobs_of`.
      advance: called with the number of images that are done.
      may_begin: whether there is time for one more image.

    Returns:
      Why images could not be made, a line each.
    """
    missing = remaining_jobs(jobs, overwrite=False, skip_existing=True).jobs
    advance(len(jobs) - len(missing))
    reasons = []
    for job in missing:
        if not may_begin():
            break
        if reason := upsampler.write(job.source, job.target):
            reasons.append(f"{upsampler.label}: {reason}")
        advance(1)
    return reasons


def digest_of_json(content: Any) -> str:
    """Twelve hexadecimal digits that change with plain JSON content."""
    text = json.dumps(content, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def file_name(label: str) -> str:
    """A label as part of the name of a file."""
    return re.sub(r"[^\w.-]+", "-", label).strip("-")
