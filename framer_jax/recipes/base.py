"""The types that join a model, a diffusion process and losses into one way to train a super-resolver.

A `Recipe` is a handful of pure functions. `framer(recipe, settings)` (framer_jax.recipes.framer) maps a recipe to a
recipe; the training step (framer_jax.training.step) and the upscaler (framer_jax.inference.upscaler) know these types
and no method by name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp

from framer_jax.diffusion.noise import NoiseField

Params = dict[str, Any]
"""Trainable parameters: group name ('denoiser', 'framer_heads', 'critic', ...) to a tree of float32 arrays."""

Frozen = dict[str, Any]
"""Weights that are never updated (autoencoder, teacher, feature extractors); an argument, never closed over."""

Carry = dict[str, Any]
"""What changes without a gradient (batch-norm statistics, a discriminator's moving accuracy). Usually empty."""

Batch = Mapping[str, jax.Array]
"""'hr': [B, sH, sW, 3] and 'lr': [B, H, W, 3], float32 in [0, 1]; a recipe may ask for more entries."""


class Loss(NamedTuple):
    """What one loss function gives back.

    Attributes:
      values: [B] float32, one value per example; weight, mask and the mean over the global batch are the step's work.
      metrics: name to a scalar or a [B] array (averaged before it is written).
      taps: the denoiser's per-block feature maps, each [B, H_i, W_i, C_i], in order of depth, the last one the
        teacher of FRAMER. Unused taps cost nothing under jit.
      carry: the carry after this loss.
      onward: further entries of the batch, [B, ...] each, that the later updates of the same step find and take no
        gradient through, so that they need not be made twice; None for none. The update must run in every step.
    """

    values: jax.Array
    metrics: dict[str, jax.Array]
    taps: tuple[jax.Array, ...]
    carry: Carry
    onward: Mapping[str, jax.Array] | None = None


class LossFunction(Protocol):
    """(params, frozen, carry, batch, key, step) → Loss; `step` is the int32 number of steps already made."""

    def __call__(
        self, params: Params, frozen: Frozen, carry: Carry, batch: Batch, key: jax.Array, step: jax.Array
    ) -> Loss:
        """Evaluate the loss on a batch in model range."""
        ...


@dataclass(frozen=True)
class Update:
    """One optimiser update: which groups it trains, with which loss, and when.

    It runs in steps `step >= start` with `(step - offset) % every == 0`.
    """

    name: str
    groups: tuple[str, ...]
    loss: LossFunction
    every: int = 1
    offset: int = 0
    start: int = 0


class Sampler(Protocol):
    """(params, frozen, lr, noise) → sr.

    `lr` is [B, H, W, 3] float32 in [0, 1]; the result is [B, sH, sW, 3] float32, near [0, 1] and not clipped.
    """

    def __call__(self, params: Params, frozen: Frozen, lr: jax.Array, noise: NoiseField) -> jax.Array:
        """Super-resolve a batch."""
        ...


class Tiling(NamedTuple):
    """How a picture that is restored as one is computed in parts; sides in pixels of the picture, 0 for no parts.

    Attributes:
      side: of the denoiser's tiles.
      overlap: that they share at least.
      batch: how many of them are computed at a time.
      encoder: side of the tiles that an autoencoder encodes.
      decoder: side of those that it decodes to.
    """

    side: int = 0
    overlap: int = 0
    batch: int = 1
    encoder: int = 0
    decoder: int = 0


class Restorer(Protocol):
    """(params, frozen, image, noise, tiling) → image: a `Sampler` of pictures that are enlarged already.

    Both images are [B, H, W, 3] float32 near [0, 1]. The tiling must not be traced.
    """

    def __call__(
        self, params: Params, frozen: Frozen, image: jax.Array, noise: NoiseField, tiling: Tiling
    ) -> jax.Array:
        """Restore a batch."""
        ...


class Precompute(Protocol):
    """(frozen, batch, noise) → further entries of the batch, each [B, ...], that the losses then need not compute."""

    def __call__(self, frozen: Frozen, batch: Batch, noise: NoiseField) -> dict[str, jax.Array]:
        """Compute what depends on frozen weights only."""
        ...


@dataclass(frozen=True)
class Recipe:
    """One published way to train a super-resolver, as pure functions.

    Attributes:
      name: for logs and file names.
      scale: the enlargement factor s.
      init: (key, batch) → params; only the shapes of `batch` matter.
      updates: at least one; a GAN or score-distillation recipe has two.
      sample: the full sampler.
      mean: the one-network-call estimate of E[hr | lr], or None if the method has none.
      restore: `sample` behind the enlargement, with tiles within its steps; None if the method has none.
      lr_multiple: sides of the LR input of `sample` must be multiples of this; the upscaler pads and crops.
      tap_kind: what the taps are: 'hidden' (feature maps) or 'prediction' (each block's guess of the clean latent).
      exported: the groups that `sample` and `mean` use; a weights file holds these and no others.
      frozen: weights passed to every loss and sampler, never in the optimiser, never in the checkpoint.
      init_carry: the carry before step 0.
      precompute: what `framer-jax precompute teacher` writes to disk once; None if no loss would read it.
      starting: groups whose training starts from these weights (a student from its teacher) and not from `init`'s.
    """

    name: str
    scale: int
    init: Callable[[jax.Array, Batch], Params]
    updates: tuple[Update, ...]
    sample: Sampler
    mean: Sampler | None = None
    restore: Restorer | None = None
    lr_multiple: int = 1
    tap_kind: str = "hidden"
    exported: tuple[str, ...] = ("denoiser",)
    frozen: Frozen = field(default_factory=dict)
    init_carry: Callable[[], Carry] = dict
    starting: Params = field(default_factory=dict)
    precompute: Precompute | None = None

    def __post_init__(self) -> None:
        if not self.updates:
            raise ValueError(f"recipe {self.name!r} has no update: give at least one")


def expected_params(recipe: Recipe) -> Params:
    """Names and shapes of the groups that a recipe exports, without computing anything."""
    side = 8 * recipe.lr_multiple
    batch = {
        "hr": jax.ShapeDtypeStruct((1, side * recipe.scale, side * recipe.scale, 3), jnp.float32),
        "lr": jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32),
    }
    params = jax.eval_shape(recipe.init, jax.random.key(0), batch)
    return {name: params[name] for name in recipe.exported}
