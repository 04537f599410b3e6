"""Validation during training: scores and images of center crops of held-out photographs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from framer_jax.data.whole_photos import ValidationPair
from framer_jax.diffusion.noise import noise_field
from framer_jax.evaluation.metrics import METRICS, score
from framer_jax.recipes.base import Frozen, Params, Recipe
from framer_jax.recipes.components.latent_space import upsample_bicubic

Images = Mapping[str, np.ndarray]
"""Name → image [H, W, 3] float32 in [0, 1]."""


@dataclass(frozen=True)
class Validation:
    """The validation function of a training run.

    Attributes:
      function: (params, frozen, step) → scores by name, without those that are undefined, and images by name.
      names: names of the scores that depend on the weights, among which `training.best_metric` must be.
      left_out: which metrics are not computed and why, as the end of an error message; '' if all are.
    """

    function: Callable[[Params, Frozen, int], tuple[dict[str, float], Images]]
    names: tuple[str, ...]
    left_out: str = ""

    def __call__(self, params: Params, frozen: Frozen, step: int) -> tuple[dict[str, float], Images]:
        """Score the weights, and make images with them."""
        return self.function(params, frozen, step)


def center_crops(pairs: Sequence[ValidationPair], scale: int, multiple: int, max_side: int = 256) -> tuple[Any, Any]:
    """One batch with a square center crop of every photograph, all of the same size.

    Args:
      pairs: photographs and their degradations, at least one.
      scale: upsampling factor s.
      multiple: the side of the LR crops is a multiple of this.
      max_side: largest side of the HR crops in pixels.

    Returns:
      hr [N, s c, s c, 3] and lr [N, c, c, 3], float32 in [0, 1].
    """
    side = min(max_side, *(min(pair.hr.shape[:2]) for pair in pairs)) // (scale * multiple) * multiple  # LR pixels
    hr, lr = [], []
    for pair in pairs:
        top, left = ((length - side) // 2 for length in pair.lr.shape[:2])
        lr.append(pair.lr[top : top + side, left : left + side])
        top, left, size = top * scale, left * scale, side * scale
        hr.append(pair.hr[top : top + size, left : left + size])
    return np.stack(hr), np.stack(lr)


def make_validation(
    recipe: Recipe,
    pairs: Sequence[ValidationPair],
    ids: Sequence[str] = ("psnr-y", "ssim-y", "niqe-framer"),
    preview: Frozen | None = None,
) -> Validation:
    """Make the validation function of a training run.

    Args:
      recipe: its `sample` and, if it has one, its `mean` are scored, and bicubic upsampling for comparison.
      pairs: photographs and their degradations, at least one.
      ids: metrics; those that the crops are too small for are skipped.
      preview: further entries of `frozen`, such as a tiny decoder that takes the autoencoder's place.

    Returns:
      (params, frozen, step) → scores 'sample/psnr-y', 'mean/psnr-y', 'bicubic/psnr-y', … and one image per photograph,
      with upsampled LR | mean | sample | HR side by side. A score that is undefined is left out. The noise is the same
      in every call. With parameters on a mesh of one or several hosts, every host gets the complete results; frozen
      weights in host memory are transferred for each call.
    """
    hr, lr = center_crops(pairs, recipe.scale, recipe.lr_multiple)
    left_out = [name for name in ids if not METRICS[name].fits(*hr.shape[1:3])]
    ids = [name for name in ids if name not in left_out]
    noise = noise_field(jax.random.key(0), len(pairs))
    samplers = {"mean": recipe.mean} if recipe.mean else {}
    if recipe.sample is not recipe.mean:  # the two are the same for a one-step network
        samplers["sample"] = recipe.sample

    @lru_cache
    def compiled(name: str, sharding: NamedSharding | None) -> Callable[..., jax.Array]:
        return jax.jit(samplers[name], out_shardings=sharding)

    bicubic = np.clip(np.asarray(upsample_bicubic(jnp.asarray(lr), recipe.scale)), 0.0, 1.0)
    bicubic_scores = mean_scores(bicubic, hr, ids)

    def validate(params: Params, frozen: Frozen, step: int) -> tuple[dict[str, float], Images]:
        frozen, sharding = {**frozen, **(preview or {})}, _replicated_sharding(params)
        results = {
            name: np.clip(np.asarray(compiled(name, sharding)(params, frozen, lr, noise)), 0.0, 1.0)
            for name in samplers
        }
        scalars = {f"bicubic/{name}": value for name, value in bicubic_scores.items()}
        for name, images in results.items():
            scalars.update({f"{name}/{metric}": value for metric, value in mean_scores(images, hr, ids).items()})
        strip = np.concatenate([bicubic, *(results[name] for name in sorted(results)), hr], axis=2)
        return scalars, {pair.name.replace("/", "_"): image for pair, image in zip(pairs, strip, strict=True)}

    names = tuple(f"{sampler}/{metric}" for sampler in samplers for metric in ids)
    small = f"; crops of {hr.shape[2]} x {hr.shape[1]} pixels are too small for {', '.join(left_out)}"
    return Validation(validate, names, small if left_out else "")


def mean_scores(images: np.ndarray, hr: np.ndarray, ids: Sequence[str]) -> dict[str, float]:
    """Mean of each metric over the images that it can score.

    NIQE is undefined for an image with fewer than two blocks that are not flat; such an image must not end training.
    Of images with NaN nothing has a mean: that of the others would be no score of the weights.

    Args:
      images: [N, H, W, 3] in [0, 1].
      hr: HR images of the same shape.
      ids: metrics.

    Returns:
      id to mean, without the ids that can score none of the images.
    """
    means: dict[str, float] = {}
    if not np.isfinite(images).all():
        return means
    for name in ids:
        if METRICS[name].needs_reference:
            values = score(images, hr, [name])[name]
        else:
            values = np.array([_score_or_nan(image, name) for image in images])
        scored = values[~np.isnan(values)]
        if len(scored):
            means[name] = float(scored.mean())
    return means


def _score_or_nan(image: np.ndarray, name: str) -> float:
    try:
        return float(score(image[None], None, [name])[name][0])
    except ValueError:  # too many flat blocks
        return float("nan")


def _replicated_sharding(params: Params) -> NamedSharding | None:
    """The sharding that replicates results over the mesh of `params`; None if these are not on a mesh."""
    for leaf in jax.tree.leaves(params):
        if isinstance(leaf, jax.Array) and isinstance(leaf.sharding, NamedSharding):
            return NamedSharding(leaf.sharding.mesh, PartitionSpec())
    return None
