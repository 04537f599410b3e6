"""Scores of the images of several methods: computed, or read from files of `framer-jax evaluate --json`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from framer_jax.evaluation.comparison import Arm, ScoreFile
from framer_jax.evaluation.image_sets import ImageSet, method_pairs
from framer_jax.evaluation.pairs import Pair, PairSize
from framer_jax.evaluation.provenance import score_metadata
from framer_jax.evaluation.scoring import Failure, Note, ScoreSettings, check_sizes, score_pairs
from framer_jax.porting.files import sha256_of

DEFAULT_METRICS = {True: ("psnr-y", "ssim-y"), False: ("niqe-framer",)}
"""Whether there are references → the metrics that are computed if none is named."""


def score_methods(
    image_set: ImageSet, settings: ScoreSettings, advance: Callable[[int], object]
) -> tuple[tuple[Arm, ...], dict[str, tuple[Failure, ...]], dict[str, tuple[Note, ...]]]:
    """Score the images of every method.

    Args:
      image_set: the images.
      settings: what is computed, with the `mod_crop` of the images.
      advance: called with the number of images that are done, of all methods together.

    Returns:
      The scores of each method; label → why images have no score; and label → what was ignored or converted.

    Raises:
      ValueError: images too small for a metric, or a method without any score.
    """
    sizes = [PairSize((image.height, image.width), None) for image in image_set.images]
    check_sizes(method_pairs(image_set.images, 0), sizes, settings)
    metadata = score_metadata(settings)
    arms = []
    failures, notes = {}, {}
    for index, method in enumerate(image_set.methods):
        pairs = method_pairs(image_set.images, index)
        values, failures[method.label], notes[method.label] = score_pairs(pairs, sizes, settings, advance)
        scores = {
            metric: {
                pair.name: float(score) for pair, score in zip(pairs, of_metric, strict=True) if not np.isnan(score)
            }
            for metric, of_metric in values.items()
        }
        arms.append(Arm(method.label, (ScoreFile(method.folder, metadata, scores),)))
    return tuple(arms), failures, notes


def recorded_arms(image_set: ImageSet, arms: Mapping[str, Arm]) -> tuple[Arm, ...]:
    """The recorded scores of the methods, in their order and of their images only.

    Args:
      image_set: the images.
      arms: label → scores, read from files of `framer-jax evaluate --json`.

    Raises:
      ValueError: a method has no file, a file no method, none of its scores is of an image, or they are those of
        other images.
    """
    labels = [method.label for method in image_set.methods]
    if missing := [label for label in labels if label not in arms]:
        raise ValueError(f"--scores has no file of {missing[0]!r}: write {missing[0]}=FILE for every folder, or none")
    if unknown := [label for label in arms if label not in labels]:
        raise ValueError(f"--scores has a file of {unknown[0]!r}, which no folder is called ({', '.join(labels)})")
    names = {image.name for image in image_set.images}
    restricted = []
    for label in labels:
        files = tuple(
            file._replace(
                scores={
                    metric: {name: score for name, score in of_metric.items() if name in names}
                    for metric, of_metric in file.scores.items()
                }
            )
            for file in arms[label].files
        )
        for file in files:
            if not any(file.scores.values()):
                raise ValueError(f"{file.path} has no score of an image of {label}: name the scores of these images")
            _check_images(file, label, method_pairs(image_set.images, labels.index(label)))
        restricted.append(Arm(label, files))
    return tuple(restricted)


def _check_images(file: ScoreFile, label: str, pairs: Sequence[Pair]) -> None:
    """Raise ValueError for scores of other images than those of a method."""
    for pair in pairs:
        if pair.name in file.images and sha256_of(pair.image) != file.images[pair.name]:
            raise ValueError(
                f"{file.path} has the scores of another image than {pair.image}: name the file of the scores of "
                f"{label}, or leave --scores out"
            )


def shown_digits(values: Sequence[float]) -> int:
    """Decimals with which a metric's scores are shown: two if any is 10 or more in magnitude, four otherwise."""
    return 2 if any(abs(value) >= 10 for value in values) else 4
