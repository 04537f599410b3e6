"""SupResDiffGAN's adaptive noise: the more accurate its discriminator, the noisier the images that it compares.

Kopeć et al., "SupResDiffGAN: a new approach for the Super-Resolution task" (2025), by the released code. The accuracy
of the discriminator is averaged over time, and the time at which both images are noised grows linearly from 0, for an
average of ½ or less, to the last time, for 1. The average changes without a gradient: it is state that a training step
takes and returns.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

MOMENTUM = 0.97
"""Share of the former average in the new one."""

CHANCE = 0.5
"""Accuracy of a discriminator that guesses, and the average at the start of training."""


def initial_accuracy() -> jax.Array:
    """The moving average at the start of training, a float32 scalar."""
    return jnp.asarray(CHANCE, jnp.float32)


def update_accuracy(average: jax.Array, accuracy: jax.Array) -> jax.Array:
    """The moving average after an update: 0.97 of it and 0.03 of the new accuracy; float32 scalars, no gradient.

    Args:
      average: the former one.
      accuracy: share of correctly classified pairs in the update, of the generator or the discriminator.
    """
    return MOMENTUM * average + (1.0 - MOMENTUM) * jax.lax.stop_gradient(accuracy)


def noise_time(average: jax.Array, steps: int) -> jax.Array:
    """The time at which both images are noised for the discriminator: ⌊2 T (average − ½)⌋, from 0 to T − 1.

    Args:
      average: the moving average, float32 in [0, 1].
      steps: T of the process.

    Returns:
      int32 scalar.
    """
    time = (average - CHANCE) * (2.0 * steps)
    return jnp.clip(time, 0.0, steps - 1.0).astype(jnp.int32)
