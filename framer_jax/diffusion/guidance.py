"""Classifier-free guidance: the arithmetic, and one call of the network for both of its predictions.

Ho and Salimans, "Classifier-Free Diffusion Guidance" (2022).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp

Condition = Mapping[str, jax.Array]
"""Name → array with a leading batch axis, such as text embeddings [B, N, D] and pooled embeddings [B, D]."""


def classifier_free_guidance(unconditional: jax.Array, conditional: jax.Array, scale: jax.Array | float) -> jax.Array:
    """Extrapolate from the unconditional to the conditional prediction: u + s (c - u).

    Args:
      unconditional: prediction for the empty or the negative prompt; the result at scale 0.
      conditional: prediction for the prompt, of the same shape; the result at scale 1.
      scale: guidance scale, usually above 1; a scalar, may be traced.
    """
    return unconditional + scale * (conditional - unconditional)


def guided_prediction(
    predict: Callable[..., jax.Array],
    inputs: Sequence[jax.Array],
    conditional: Condition,
    unconditional: Condition,
    scale: jax.Array | float,
    interleaved: bool = False,
) -> jax.Array:
    """A guided prediction from one call of the network with a batch of twice the size.

    Args:
      predict: (*inputs, condition), each with a leading axis 2B → prediction [2B, ...].
      inputs: arrays [B, ...] that both predictions share, such as the noisy latent, sigma and the LR latent.
      conditional: condition of the prompt, arrays [B, ...].
      unconditional: condition of the empty or the negative prompt, with the same names and shapes.
      scale: see `classifier_free_guidance`.
      interleaved: the order of the doubled batch. False: all unconditional examples, then all conditional ones. True:
        the two copies of an example next to each other, so that a batch that is sharded over devices is not moved.

    Returns:
      [B, ...], the guided prediction.
    """
    join = interleave if interleaved else lambda *parts: jnp.concatenate(parts)
    condition = jax.tree.map(join, unconditional, conditional)
    predictions = predict(*(join(part, part) for part in inputs), condition)
    unconditional_prediction, conditional_prediction = (
        deinterleave(predictions, 2) if interleaved else jnp.split(predictions, 2)
    )
    return classifier_free_guidance(unconditional_prediction, conditional_prediction, scale)


def interleave(*arrays: jax.Array) -> jax.Array:
    """Join K arrays [B, ...] into [B K, ...], with the K entries of an example next to each other."""
    stacked = jnp.stack(arrays, axis=1)  # [B, K, ...]
    return stacked.reshape(-1, *stacked.shape[2:])


def deinterleave(array: jax.Array, count: int) -> tuple[jax.Array, ...]:
    """The inverse of `interleave`: [B K, ...] to `count` = K arrays [B, ...]."""
    grouped = array.reshape(-1, count, *array.shape[1:])
    return tuple(grouped[:, index] for index in range(count))
