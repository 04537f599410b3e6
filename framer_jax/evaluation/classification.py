"""Validation of a classifier during training: the shares of held-out images whose class is among its first guesses."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from framer_jax.data.class_folders import LabelledPhotos
from framer_jax.data.crops import padded, reduced
from framer_jax.data.sources import Photo
from framer_jax.losses.classification import cross_entropy, top_k_correct
from framer_jax.recipes.base import Frozen, Params

Classify = Callable[[Params, jax.Array], jax.Array]
"""(exported groups, images [B, S, S, 3] in [0, 1]) → logits [B, classes]."""

Scores = tuple[dict[str, float], Mapping[str, np.ndarray]]


def center_square(photo: Photo, side: int, crop_mode: str = "square") -> np.ndarray:
    """uint8 [side, side, 3] from the middle of a photograph; 'square' and 'crop' as of the training crops."""
    photo = padded(photo, side)
    height, width = photo.size
    length = min(height, width) if crop_mode == "square" else side
    return reduced(photo.crop((height - length) // 2, (width - length) // 2, length, length), side)


def scores_of(classes: Sequence[str]) -> tuple[str, ...]:
    """The names of the scores that validation gives: 'top-5' only with more than five classes."""
    return ("top-1", "top-5", "cross_entropy") if len(classes) > 5 else ("top-1", "cross_entropy")


def make_validation(
    classify: Classify, source: LabelledPhotos, crop: int, crop_mode: str, limit: int, batch: int
) -> Callable[[Params, Frozen, int], Scores]:
    """Make the validation function of a classifier's training run.

    Args:
      classify: the classifier.
      source: held-out images with their classes.
      crop: side of the images it sees, from the middle of the photographs.
      crop_mode: see `center_square`.
      limit: largest number of images, which are spread evenly over the files.
      batch: images computed at a time.

    Returns:
      (params, frozen, step) → 'top-1' and, with more than five classes, 'top-5', fractions from 0 to 1, and
      'cross_entropy' in nats; no images.
    """
    count = min(limit, len(source))
    records = np.linspace(0, len(source) - 1, count).round().astype(int)
    names = scores_of(source.classes)
    ks = [int(name.removeprefix("top-")) for name in names[:-1]]

    @jax.jit
    def sums(params: Params, images: jax.Array, labels: jax.Array, known: jax.Array) -> jax.Array:
        logits = classify(params, images.astype(jnp.float32) / 255.0)
        values = (*(top_k_correct(logits, labels, k) for k in ks), cross_entropy(logits, labels))
        return jnp.stack([(each * known).sum() for each in values])

    def validate(params: Params, frozen: Frozen, step: int) -> Scores:
        total = np.zeros(len(ks) + 1)
        for start in range(0, count, batch):
            chosen = records[start : start + batch]
            known = np.arange(batch) < len(chosen)
            chosen = np.pad(chosen, (0, batch - len(chosen)), mode="edge")  # one shape, so one program
            photos = [source.photos[int(record)] for record in chosen]
            images = np.stack([center_square(photo, crop, crop_mode) for photo in photos])
            labels = source.labels[[photo.record for photo in photos]]
            total += np.asarray(sums(params, images, labels, known.astype(np.float32)))
        return dict(zip(names, (total / count).tolist(), strict=True)), {}

    return validate
