"""HF-Diff's two perceptual terms with their networks: detail features of an extractor, and embeddings of an encoder."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import jax

from framer_jax.knobs import MAX_WEIGHT, changed_repr, check_knobs, knob
from framer_jax.losses.distribution import SMALLEST_TEMPERATURE, js_divergence
from framer_jax.losses.high_frequency import high_frequency_error
from framer_jax.models.dinov2 import DINOv2, Features
from framer_jax.models.hf_extractor import HFExtractor
from framer_jax.recipes.base import AuxiliaryLoss, Params
from framer_jax.recipes.components.latent_space import from_model_range

HIGH_FREQUENCY, DISTRIBUTION = "high_frequency", "distribution"
"""The sections of the configuration; also the entries of `frozen` and the names of the terms in the logs."""


@dataclass(frozen=True)
class DistributionSettings:
    """The section `recipe.distribution`: which embeddings are compared. The paper states none of these.

    The defaults are the usual ones of DINOv2: images of 224 pixels, as its authors evaluate it, and the class token,
    its description of a whole image; the divergence is in nats.
    """

    tokens: str = knob(
        "cls",
        "What is compared. cls: the class token, one distribution an image; patches: every patch token with that at "
        "the same position.",
        choices=("cls", "patches"),
    )
    side: int = knob(
        224,
        "Images are resized to this side for DINOv2 (bicubic, antialiased): a multiple of its patches, which are of 14 "
        "pixels.",
        unit="pixels",
        at_least=1,
        at_most=16_384,
    )
    temperature: float = knob(
        1.0, "By which embeddings are divided before the softmax.", at_least=SMALLEST_TEMPERATURE, at_most=MAX_WEIGHT
    )
    log_base: float = knob(math.e, "Base of the logarithm.", above=1, at_most=MAX_WEIGHT)
    dtype: str = knob("float32", "Compute dtype of DINOv2.", choices=("float32", "bfloat16"), execution=True)
    remat: bool = knob(
        False, "Compute DINOv2 again in the backward pass, which takes less memory and more time.", execution=True
    )

    __repr__ = changed_repr

    def __post_init__(self) -> None:
        check_knobs(self)


def detail_distance(module: HFExtractor, params: Params, prediction: jax.Array, reference: jax.Array) -> jax.Array:
    """HF-Diff's Eq. 6 on images or latents; see framer_jax.losses.high_frequency.

    Args:
      module: the extractor.
      params: its parameters.
      prediction: [B, H, W, C] float32 in [-1, 1], or latents as the extractor was trained on.
      reference: the ground truth, of the same shape; no gradient reaches it.

    Returns:
      [B] float32.
    """
    detail, of_reference = (
        cast(tuple[jax.Array, jax.Array], module.apply({"params": params}, x))[1]  # z_K, [B, H, W, width]
        for x in (prediction, jax.lax.stop_gradient(reference))
    )
    return high_frequency_error(detail, of_reference)


def embedding_distance(
    embed: Callable[[Any, jax.Array], jax.Array],
    params: Params,
    prediction: jax.Array,
    reference: jax.Array,
    temperature: float = 1.0,
    base: float = math.e,
) -> jax.Array:
    """HF-Diff's Eq. 4 on images; see framer_jax.losses.distribution.

    Args:
      embed: (parameters, images) → embeddings [B, D] or [B, N, D].
      params: its parameters.
      prediction: [B, H, W, 3] float32 in the range that `embed` takes.
      reference: the ground truth, of the same shape; no gradient reaches it.
      temperature: as of `js_divergence`.
      base: as of `js_divergence`.

    Returns:
      [B] float32.
    """
    return js_divergence(embed(params, prediction), embed(params, jax.lax.stop_gradient(reference)), temperature, base)


def embedder(module: DINOv2, settings: DistributionSettings) -> Callable[[Params, jax.Array], jax.Array]:
    """(parameters, images [B, H, W, 3] float32 in [-1, 1]) → embeddings, [B, W] or [B, N, W] float32.

    Raises:
      ValueError: the side is no multiple of the network's patches.
    """
    if settings.side % module.patch:
        nearest = max(1, round(settings.side / module.patch)) * module.patch
        raise ValueError(
            f"recipe.distribution.side is {settings.side}: it must be a multiple of the patches of {module.patch} "
            f"pixels, such as {nearest}"
        )

    def embed(params: Params, image: jax.Array) -> jax.Array:
        batch, *_, channels = image.shape
        resized = jax.image.resize(
            from_model_range(image), (batch, settings.side, settings.side, channels), "cubic", antialias=True
        )
        features = cast(Features, module.apply({"params": params}, resized))
        return features.cls if settings.tokens == "cls" else features.patches

    return jax.checkpoint(embed) if settings.remat else embed


def high_frequency_loss(module: HFExtractor, params: Params, weight: float) -> AuxiliaryLoss:
    """Eq. 6 as an auxiliary loss on images in [-1, 1], or on latents."""

    def distance(params: Params, prediction: jax.Array, reference: jax.Array) -> jax.Array:
        return detail_distance(module, params, prediction, reference)

    return AuxiliaryLoss(HIGH_FREQUENCY, weight, distance, params)


def distribution_loss(module: DINOv2, params: Params, weight: float, settings: DistributionSettings) -> AuxiliaryLoss:
    """Eq. 4 as an auxiliary loss on images in [-1, 1]; errors as of `embedder`."""
    embed = embedder(module, settings)

    def distance(params: Params, image: jax.Array, reference: jax.Array) -> jax.Array:
        return embedding_distance(embed, params, image, reference, settings.temperature, settings.log_base)

    return AuxiliaryLoss(DISTRIBUTION, weight, distance, params)
