"""What HF-Diff's feature extractor sees of photographs: its feature maps before and after the invertible modules.

As Fig. 5 of "HF-Diff" (arXiv 2411.13548, 2024).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np

from framer_jax.recipes.base import Params
from framer_jax.recipes.components.latent_space import to_model_range

STAGES = ("z_0", "z_K")
"""The maps that go into the invertible modules, and those that come out."""


class FeatureMaps(NamedTuple):
    """Feature maps of a photograph in both `STAGES`.

    Attributes:
      magnitudes: [2, H, W], mean magnitude over all channels.
      channels: [2, M, H, W], the channels that vary most over the photograph, in order of their variance.
      indices: [2, M], which channels these are.
    """

    magnitudes: np.ndarray
    channels: np.ndarray
    indices: np.ndarray


def extractor_maps(module: Any, params: Params, photographs: Sequence[np.ndarray], maps: int) -> list[FeatureMaps]:
    """The feature maps of photographs.

    Args:
      module: an HFExtractor of RGB images.
      params: its parameters.
      photographs: [H, W, 3] in [0, 1] each.
      maps: number of single channels M, at most those that the network has.

    Raises:
      ValueError: the extractor takes no photographs, but latents; or its features are not finite.
    """
    if module.image_channels != 3:
        raise ValueError(f"the extractor takes {module.image_channels} channels, not a photograph")
    apply = jax.jit(module.apply)
    results = []
    for photograph in photographs:
        image = to_model_range(jnp.asarray(photograph, jnp.float32)[None])
        outputs = cast(tuple[jax.Array, jax.Array], apply({"params": params}, image))
        stages = [np.asarray(output[0], np.float32) for output in outputs]
        if not all(np.isfinite(features.var()) for features in stages):
            raise ValueError("the extractor's features are not finite: give a trained one")
        results.append(_most_varying(stages, maps))
    return results


def _most_varying(stages: Sequence[np.ndarray], maps: int) -> FeatureMaps:
    """The maps that are shown of features [H, W, C] in both stages."""
    indices = [np.argsort(-features.var(axis=(0, 1)), kind="stable")[:maps] for features in stages]
    return FeatureMaps(
        np.stack([np.abs(features).mean(axis=-1) for features in stages]),
        np.stack([features[..., index].transpose(2, 0, 1) for features, index in zip(stages, indices, strict=True)]),
        np.stack(indices),
    )


def in_unit_range(values: np.ndarray) -> np.ndarray:
    """A magnitude [H, W] in [0, 1], 0 as 0."""
    return values / max(float(values.max()), 1e-12)


def centered(values: np.ndarray) -> np.ndarray:
    """A channel [H, W] in [0, 1], 0 as one half."""
    return 0.5 + 0.5 * values / max(float(np.abs(values).max()), 1e-12)
