"""Cross-entropy and accuracy of a classifier, with which HF-Diff's feature extractor is pre-trained.

"HF-Diff: High-Frequency Perceptual Loss and Distribution Matching for One-Step Diffusion-Based Image Super-Resolution"
(arXiv 2411.13548, 2024), Algorithm 2.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp


def cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """−log softmax(logits)[label], in nats: that of Algorithm 2.

    Args:
      logits: [B, classes], any float dtype.
      labels: [B] int32, from 0.

    Returns:
      [B] float32, at least 0.

    Raises:
      ValueError: the shapes do not fit each other.
    """
    _check(logits, labels)
    log_probabilities = jax.nn.log_softmax(logits.astype(jnp.float32), axis=-1)
    return -jnp.take_along_axis(log_probabilities, labels[:, None], axis=-1)[:, 0]


def top_k_correct(logits: jax.Array, labels: jax.Array, k: int) -> jax.Array:
    """Whether fewer than k other classes have a logit at least as large as the label's.

    Equal logits count against the classifier, so that constant logits are never correct.

    Args:
      logits: [B, classes], any float dtype.
      labels: [B] int32, from 0.
      k: at least 1.

    Returns:
      [B] float32, 0 or 1.

    Raises:
      ValueError: the shapes do not fit each other.
    """
    _check(logits, labels)
    of_label = jnp.take_along_axis(logits, labels[:, None], axis=-1)  # [B, 1]
    others = (logits >= of_label).sum(axis=-1) - 1  # the label's own is one of them
    return (others < k).astype(jnp.float32)


def _check(logits: jax.Array, labels: jax.Array) -> None:
    if logits.ndim != 2 or labels.shape != logits.shape[:1]:
        raise ValueError(f"got logits {logits.shape} and labels {labels.shape}: they must be [B, classes] and [B]")
