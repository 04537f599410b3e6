"""The Jensen-Shannon divergence of embeddings, which become distributions by a softmax.

"HF-Diff: High-Frequency Perceptual Loss and Distribution Matching for One-Step Diffusion-Based Image Super-Resolution"
(arXiv 2411.13548, 2024), Eq. 4. The paper compares "distributions in the DINO-v2 embedding space"; which tokens, the
axis and temperature of the softmax, and the base of the logarithm are not stated.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

LOG_2 = math.log(2.0)
"""The largest divergence, in nats."""

SMALLEST_LOG = -1e4
"""Lower bound of the logarithms of probabilities: its exponential is zero in float32, as are those below it."""

SMALLEST_TEMPERATURE = 1e-30
"""Smaller ones are zero, or nearly so, in float32."""


@jax.custom_jvp
def _divergence_term(u: jax.Array) -> jax.Array:
    """The function u tanh u − log cosh u, from 0 to log 2, without cancellation at either end."""
    size = jnp.abs(u)
    is_small = size < 1.0
    tanh = jnp.tanh(jnp.where(is_small, size, 0.0))
    small = size * tanh + 0.5 * jnp.log1p(-jnp.square(tanh))  # log cosh = −½ log(1 − tanh²)
    large = LOG_2 + size * (jnp.tanh(size) - 1.0) - jnp.log1p(jnp.exp(-2.0 * size))
    return jnp.where(is_small, small, large)


@_divergence_term.defjvp
def _divergence_term_derivative(primals: tuple[jax.Array], tangents: tuple[jax.Array]) -> tuple[jax.Array, jax.Array]:
    (u,), (tangent,) = primals, tangents
    return _divergence_term(u), u * (1.0 - jnp.square(jnp.tanh(u))) * tangent


def _log_probabilities(embedding: jax.Array, temperature: float) -> jax.Array:
    """The logarithm of softmax(embedding / temperature) over the last axis, float32, at least `SMALLEST_LOG`."""
    wide = embedding.astype(jnp.float32)
    # The maximum is subtracted before the division, which then cannot overflow to two infinities.
    centred = (wide - jax.lax.stop_gradient(wide.max(axis=-1, keepdims=True))) / temperature
    return jnp.maximum(jax.nn.log_softmax(centred, axis=-1), SMALLEST_LOG)


def js_divergence(
    embedding: jax.Array, reference: jax.Array, temperature: float = 1.0, base: float = math.e
) -> jax.Array:
    """Eq. 4: ½ KL(P ‖ M) + ½ KL(Q ‖ M), with P and Q the softmax of two embeddings and M = ½ (P + Q).

    It is computed as Σ M (u tanh u − log cosh u) with u = ½ (log P − log Q), an equal expression whose terms are never
    negative.

    Args:
      embedding: [B, D], such as class tokens, or [B, N, D], such as patch tokens, over which the divergences are
        averaged; any float dtype, finite.
      reference: of the same shape.
      temperature: by which embeddings are divided before the softmax, at least `SMALLEST_TEMPERATURE`.
      base: of the logarithm, above 1.

    Returns:
      [B] float32 from 0 (equal embeddings) to log_base 2.

    Raises:
      ValueError: the shapes differ or have another number of axes; temperature or base are out of range.
    """
    if embedding.shape != reference.shape or embedding.ndim not in (2, 3):
        raise ValueError(
            f"the divergence got embeddings {embedding.shape} and {reference.shape}: both must be [B, D] or [B, N, D]"
        )
    if not (SMALLEST_TEMPERATURE <= temperature < math.inf and 1.0 < base < math.inf):
        raise ValueError(
            f"temperature is {temperature} and base {base}: they must be at least {SMALLEST_TEMPERATURE} and above 1"
        )
    log_p, log_q = (_log_probabilities(each, temperature) for each in (embedding, reference))  # [B, D] or [B, N, D]
    mean = 0.5 * (jnp.exp(log_p) + jnp.exp(log_q))
    divergence = (mean * _divergence_term(0.5 * (log_p - log_q))).sum(axis=-1) / math.log(base)  # [B] or [B, N]
    return divergence.reshape(embedding.shape[0], -1).mean(axis=1)
