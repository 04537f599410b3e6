"""The pre-training of HF-Diff's feature extractor as a classifier.

"HF-Diff: High-Frequency Perceptual Loss and Distribution Matching for One-Step Diffusion-Based Image Super-Resolution"
(arXiv 2411.13548, 2024), Algorithm 2: the cross-entropy of ImageNet's classes. Afterwards the detail features z_K are
used, and the classifier is not.
"""

from __future__ import annotations

from typing import cast

import jax
import jax.numpy as jnp

from framer_jax.data.class_folders import LABEL
from framer_jax.diffusion.noise import NoiseField
from framer_jax.losses.classification import cross_entropy, top_k_correct
from framer_jax.models.hf_extractor import HFExtractor
from framer_jax.recipes.base import Batch, Frozen, Loss, Params, Recipe, State, Update
from framer_jax.recipes.components.latent_space import to_model_range

EXTRACTOR = "extractor"
"""The group of the network."""


def hf_extractor(module: HFExtractor) -> Recipe:
    """The recipe. Batches hold 'hr' [B, H, W, 3] in [0, 1] and 'label' int32 [B]; it has no sampler.

    Args:
      module: the network, with as many classes as there are labels; its images have three channels.

    Raises:
      ValueError: it has no classifier or no encoder of RGB images.
    """
    if not module.classes or module.image_channels != 3:
        raise ValueError(
            f"the extractor has {module.classes} classes and {module.image_channels} image channels: pre-training "
            "needs a classifier (classes of at least 2) and image_channels=3"
        )

    def init(key: jax.Array, batch: Batch) -> Params:
        return {EXTRACTOR: module.init(key, jnp.zeros((1, *batch["hr"].shape[1:]), jnp.float32))["params"]}

    def loss(params: Params, frozen: Frozen, state: State, batch: Batch, key: jax.Array, step: jax.Array) -> Loss:
        logits = classify(module, params, batch["hr"])  # [B, classes]
        values = cross_entropy(logits, batch[LABEL])
        metrics = {"cross_entropy": values, "top-1": top_k_correct(logits, batch[LABEL], 1)}
        return Loss(values, metrics, (), state)

    return Recipe(
        name="hf_extractor",
        scale=1,
        init=init,
        updates=(Update(EXTRACTOR, (EXTRACTOR,), loss),),
        sample=_no_sampler,
        exported=(EXTRACTOR,),
        batch_entries=("hr", LABEL),
    )


def classify(module: HFExtractor, params: Params, image: jax.Array) -> jax.Array:
    """Logits [B, classes] float32 of images [B, H, W, 3] in [0, 1]."""
    variables = {"params": params[EXTRACTOR]}
    return cast(jax.Array, module.apply(variables, to_model_range(image), method="classify"))


def _no_sampler(params: Params, frozen: Frozen, lr: jax.Array, noise: NoiseField) -> jax.Array:
    raise ValueError("a feature extractor upscales nothing: it is for recipe.hf_diff.extractor_checkpoint")
