"""How denoisers of latents are conditioned on the LR image, and what they are trained on."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from framer_jax.data.latents import HR_LATENT, LR_LATENT
from framer_jax.models.denoiser import LR_LATENT as LR_CONDITION
from framer_jax.models.denoiser import Condition
from framer_jax.recipes.base import Batch, Frozen
from framer_jax.recipes.components.latent_space import LatentSpace, LatentTask, to_model_range, upsample_bicubic

LATENT_ENTRIES = (HR_LATENT, LR_LATENT)
"""The entries of batches of precomputed latents."""

EncodeLr = Callable[[LatentSpace, Frozen, jax.Array], tuple[jax.Array, Condition]]
"""(space, frozen, upsampled LR image [B, H, W, 3] in [-1, 1]) → (its latent, the LR condition). The condition has maps
with whole numbers of rows and columns for each of the latent's, which tiles cut, and tokens [B, N, V], which all tiles
share."""


def encode_lr_latent(space: LatentSpace, frozen: Frozen, image: jax.Array) -> tuple[jax.Array, Condition]:
    """The `EncodeLr` of denoisers that are conditioned on the LR latent alone."""
    z_lr = space.encode(frozen, image)
    return z_lr, {LR_CONDITION: z_lr}


def training_latents(
    task: LatentTask, encode_lr: EncodeLr, frozen: Frozen, batch: Batch, batch_entries: tuple[str, ...]
) -> tuple[jax.Array, Condition]:
    """(HR latent [B, h, w, C] float32, LR condition): precomputed, or encoded here.

    Args:
      task: the latents.
      encode_lr: makes the LR condition; unused for precomputed latents, whose condition is the LR latent.
      frozen: the weights that both read.
      batch: a batch.
      batch_entries: the recipe's entries; with those of latents, the batch has them.
    """
    if HR_LATENT in batch_entries:
        return batch[HR_LATENT].astype(jnp.float32), {LR_CONDITION: batch[LR_LATENT].astype(jnp.float32)}
    _, lr_condition = encode_lr(task.space, frozen, upsample_bicubic(to_model_range(batch["lr"]), task.scale))
    return task.space.encode(frozen, to_model_range(batch["hr"])), lr_condition
