"""Paired comparison of scores: what one model gains over another on the same images."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from math import comb
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from framer_jax.evaluation.report import MISSING, number_or_none
from framer_jax.evaluation.statistics import bootstrap_interval

COMPARED = ("crop_border", "mod_crop")
"""Settings of an evaluation, besides each metric's variant and weights, that must be equal."""


LARGEST_SCORE = 1e30
"""Scores of this magnitude, infinite ones and NaN, are faults of what wrote them."""


class ScoreFile(NamedTuple):
    """The scores of a folder, as `framer-jax evaluate --json` writes them.

    Attributes:
      path: the file.
      metadata: its metadata.
      scores: metric → image → score, without the images that have none.
      images: image → SHA-256 of its file, where it is known.
      references: the same of its reference.
    """

    path: Path
    metadata: Mapping[str, Any]
    scores: dict[str, dict[str, float]]
    images: Mapping[str, str] = {}
    references: Mapping[str, str] = {}


class Arm(NamedTuple):
    """One way to upscale: its scores, averaged over several runs for each image.

    Attributes:
      label: its name.
      files: one file per run, such as one per seed of the training.
    """

    label: str
    files: tuple[ScoreFile, ...]

    def scores(self, metric: str) -> dict[str, float]:
        """Image → mean over the runs, of the images that have a score in all of them."""
        by_run = [file.scores.get(metric, {}) for file in self.files]
        images = sorted(set.intersection(*map(set, by_run)))
        return {image: float(np.mean([scores[image] for scores in by_run])) for image in images}


class Difference(NamedTuple):
    """What one arm gains over another by one metric; differences are of the second minus the first.

    Attributes:
      metric: the metric.
      higher_is_better: whether a positive difference is a gain.
      images: number of images that have a score in both.
      first, second: means over these images.
      mean, low, high: of the differences, with its 95 % bootstrap interval over images; low and high are NaN for one.
      better, worse: number of images on which the second arm is better, or worse.
      p_value: of the two-sided sign test, see `sign_test`.
      runs: difference of the means of each run, where both arms have the same number of runs; otherwise ().
    """

    metric: str
    higher_is_better: bool
    images: int
    first: float
    second: float
    mean: float
    low: float
    high: float
    better: int
    worse: int
    p_value: float
    runs: tuple[float, ...]


def read_scores(path: str | Path, unfinished: bool = False) -> ScoreFile:
    """Read a file of `framer-jax evaluate --json`.

    Args:
      path: the file.
      unfinished: whether it may be of an evaluation that was interrupted.

    Raises:
      FileNotFoundError: there is none.
      ValueError: it is no such file, or unfinished.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file: give what `framer-jax evaluate --json` wrote")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        metadata = content["metadata"]
        names = [str(image["image"]) for image in content["images"]]
        if len(set(names)) < len(names):
            raise KeyError("image")
        scores = {
            metric: {
                name: _number(image[metric])
                for name, image in zip(names, content["images"], strict=True)
                if image[metric] is not None
            }
            for metric in metadata["metrics"]
        }
        digests = {
            kind: {
                name: str(image[kind]) for name, image in zip(names, content["images"], strict=True) if image.get(kind)
            }
            for kind in ("image_sha256", "reference_sha256")
        }
        for entry in metadata["metrics"].values():
            _ = _identity(entry), bool(entry["variant"]), bool(entry["higher_is_better"])
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise ValueError(f"{path}: not a file of `framer-jax evaluate --json` ({type(error).__name__})") from error
    for metric, of_metric in scores.items():
        for name, score in of_metric.items():
            if not abs(score) < LARGEST_SCORE:
                raise ValueError(f"{path}: the {metric} of {name} is {score}: score the image again, or remove it")
    if not unfinished and not metadata.get("complete", True):
        raise ValueError(
            f"{path} is of an evaluation that was interrupted: finish it with the same command and --resume"
        )
    return ScoreFile(path, metadata, scores, digests["image_sha256"], digests["reference_sha256"])


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError("a score must be a number")
    return float(value)


def check_comparable(files: Sequence[ScoreFile]) -> tuple[str, ...]:
    """The metrics that all files have.

    Raises:
      ValueError: there is none, or the files were scored with other settings, weights or references; the message names
        them.
    """
    first, *others = files
    metrics = [name for name in first.scores if all(name in other.scores for other in others)]
    if not metrics:
        raise ValueError(f"{', '.join(str(file.path) for file in files)} have no metric in common: evaluate them alike")
    for other in others:
        for name in COMPARED:
            if first.metadata.get(name) != other.metadata.get(name):
                raise ValueError(
                    f"{first.path} and {other.path} were scored with {name} {first.metadata.get(name)} and "
                    f"{other.metadata.get(name)}: evaluate both alike"
                )
        changed = [name for name, digest in first.references.items() if other.references.get(name, digest) != digest]
        if changed:
            raise ValueError(
                f"{first.path} and {other.path} were scored with other references of {', '.join(sorted(changed)[:5])}: "
                "images of one name are the same photograph in all files"
            )
        for metric in metrics:
            one, two = (_identity(file.metadata["metrics"][metric]) for file in (first, other))
            if one != two:
                raise ValueError(
                    f"{first.path} and {other.path} have other variants or weights of {metric}: evaluate both alike"
                )
    return tuple(metrics)


def _identity(entry: Mapping[str, Any]) -> dict[str, Any]:
    """A metric's entry without the names of files, whose digests decide."""
    weights = [file.get("sha256") for file in entry.get("weights", [])]
    return {**{key: value for key, value in entry.items() if key != "niqe_model"}, "weights": weights}


def sign_test(better: int, worse: int) -> float:
    """The two-sided p-value of the sign test: the chance of so uneven a split if both signs were equally likely.

    Exact, from the binomial distribution; images without a difference do not count. 1 if there are none.
    """
    count = better + worse
    tail = sum(comb(count, number) for number in range(min(better, worse) + 1))
    return min(1.0, 2 * tail / 2**count)


def common_images(metric: str, first: Arm, second: Arm) -> list[str]:
    """The images that have a score of a metric in both arms, sorted."""
    return sorted(first.scores(metric).keys() & second.scores(metric).keys())


def difference(metric: str, first: Arm, second: Arm, seed: int = 0) -> Difference:
    """Compare two arms by one metric on the images that have a score in both.

    Args:
      metric: one of `check_comparable`.
      first: the reference.
      second: what is compared with it.
      seed: seed of the bootstrap; the same images are drawn for every metric.

    Raises:
      ValueError: the arms have no image in common.
    """
    images = common_images(metric, first, second)
    if not images:
        raise ValueError(f"{first.label} and {second.label} have no image in common that has a {metric}")
    one, two = first.scores(metric), second.scores(metric)
    a, b = (np.asarray([scores[image] for image in images]) for scores in (one, two))
    higher = bool(first.files[0].metadata["metrics"][metric]["higher_is_better"])
    gain = (b - a) if higher else (a - b)
    better, worse = int((gain > 0).sum()), int((gain < 0).sum())
    low, high = bootstrap_interval(b - a, seed)
    means = float(a.mean()), float(b.mean())
    p_value = sign_test(better, worse)
    runs = _by_run(metric, first, second, images)
    return Difference(
        metric, higher, len(images), *means, float((b - a).mean()), low, high, better, worse, p_value, runs
    )


def _by_run(metric: str, first: Arm, second: Arm, images: Sequence[str]) -> tuple[float, ...]:
    if len(first.files) != len(second.files):
        return ()

    def mean(file: ScoreFile) -> float:
        return float(np.mean([file.scores[metric][image] for image in images]))

    return tuple(mean(b) - mean(a) for a, b in zip(first.files, second.files, strict=True))


DIFFERENCE_HEADINGS = ("difference", "95 % interval", "better", "p", "by run")
"""Headings of `difference_cells`."""


def difference_cells(entry: Difference) -> tuple[str, ...]:
    """The cells of a difference in a table, with signs; an interval or runs that there are not are `MISSING`."""
    interval = MISSING if np.isnan(entry.low) else f"{entry.low:+.4f} .. {entry.high:+.4f}"
    runs = ", ".join(f"{value:+.4f}" for value in entry.runs) if len(entry.runs) > 1 else MISSING
    return f"{entry.mean:+.4f}", interval, f"{entry.better} of {entry.images}", f"{entry.p_value:.2g}", runs


def difference_json(entry: Difference) -> dict[str, Any]:
    """A difference as plain JSON, without its metric; what is undefined is null."""
    return {
        key: number_or_none(value) if isinstance(value, float) else value
        for key, value in entry._asdict().items()
        if key != "metric"
    }


def as_json(reference: Arm, rows: Mapping[str, Sequence[Difference]]) -> dict[str, Any]:
    """A comparison as plain JSON; what is undefined is null."""
    return {
        "reference": {"label": reference.label, "files": [str(file.path) for file in reference.files]},
        "differences": {
            label: {entry.metric: difference_json(entry) for entry in entries} for label, entries in rows.items()
        },
    }
