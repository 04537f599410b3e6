"""Scores and pictures of a recipe under training: the middle of a few held-out photographs, enlarged in every way."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
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
from framer_jax.recipes.latent_space import enlarge

Pictures = Mapping[str, np.ndarray]
"""Name to [H, W, 3] float32 in [0, 1]."""


def central_crops(pairs: Sequence[ValidationPair], scale: int, multiple: int, largest: int = 256) -> tuple[Any, Any]:
    """One batch of equal squares from the middle of every photograph.

    Args:
      pairs: photographs and their degradations, at least one.
      scale: s.
      multiple: the squares of the LR images have a side that is a multiple of this.
      largest: side of the HR squares, at most.

    Returns:
      hr [N, s c, s c, 3] and lr [N, c, c, 3], float32 in [0, 1].
    """
    side = min(largest, *(min(pair.hr.shape[:2]) for pair in pairs)) // (scale * multiple) * multiple  # LR pixels
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
) -> Callable[[Params, Frozen, int], tuple[dict[str, float], Pictures]]:
    """What a training run calls to see how it is doing.

    Args:
      recipe: its `sample`, and `mean` if it has one, are scored; bicubic enlargement beside them.
      pairs: photographs and their degradations, at least one.
      ids: metrics; those that the crops are too small for are left out.

    Returns:
      (params, frozen, step) → scores 'sample/psnr-y', 'mean/psnr-y', 'bicubic/psnr-y', … and one picture for each
      photograph: LR enlarged | mean | sample | HR. The noise is the same each time. Parameters on a mesh, of one host
      or several, give the whole results on each host; frozen weights that are still on the host are there for a call.
    """
    hr, lr = central_crops(pairs, recipe.scale, recipe.lr_multiple)
    ids = [name for name in ids if METRICS[name].fits(*hr.shape[1:3])]
    noise = noise_field(jax.random.key(0), len(pairs))
    samplers = {"mean": recipe.mean} if recipe.mean else {}
    if recipe.sample is not recipe.mean:  # a network of one pass has but one picture
        samplers["sample"] = recipe.sample

    @lru_cache
    def compiled(name: str, sharding: NamedSharding | None) -> Callable[..., jax.Array]:
        return jax.jit(samplers[name], out_shardings=sharding)

    enlarged = np.clip(np.asarray(enlarge(jnp.asarray(lr), recipe.scale)), 0.0, 1.0)
    reference = mean_scores(enlarged, hr, ids)

    def validate(params: Params, frozen: Frozen, step: int) -> tuple[dict[str, float], Pictures]:
        whole = _replicated(params)
        results = {
            name: np.clip(np.asarray(compiled(name, whole)(params, frozen, lr, noise)), 0.0, 1.0) for name in samplers
        }
        scalars = {f"bicubic/{name}": value for name, value in reference.items()}
        for name, images in results.items():
            scalars.update({f"{name}/{metric}": value for metric, value in mean_scores(images, hr, ids).items()})
        strip = np.concatenate([enlarged, *(results[name] for name in sorted(results)), hr], axis=2)
        return scalars, {pair.name.replace("/", "_"): picture for pair, picture in zip(pairs, strip, strict=True)}

    return validate


def mean_scores(images: np.ndarray, hr: np.ndarray, ids: Sequence[str]) -> dict[str, float]:
    """Mean of each metric over the images that it can score.

    NIQE has no value for an image that is flat but for one block: a dull photograph must not end a training run.

    Args:
      images: [N, H, W, 3] in [0, 1].
      hr: the same shape.
      ids: metrics.

    Returns:
      id to mean; an id that can score none of the images is missing.
    """
    means = {}
    for name in ids:
        if METRICS[name].needs_reference:
            values = score(images, hr, [name])[name]
        else:
            values = np.array([_alone(image, name) for image in images])
        scored = values[~np.isnan(values)]
        if len(scored):
            means[name] = float(scored.mean())
    return means


def _alone(image: np.ndarray, name: str) -> float:
    try:
        return float(score(image[None], None, [name])[name][0])
    except ValueError:  # too flat to score
        return float("nan")


def _replicated(params: Params) -> NamedSharding | None:
    """The sharding that puts a whole result on every device of the mesh of `params`; None if they are on none."""
    for leaf in jax.tree.leaves(params):
        if isinstance(leaf, jax.Array) and isinstance(leaf.sharding, NamedSharding):
            return NamedSharding(leaf.sharding.mesh, PartitionSpec())
    return None
