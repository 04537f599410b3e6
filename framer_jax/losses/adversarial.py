"""Adversarial losses on the logits of a discriminator, for its update and for that of the generator.

Goodfellow et al., "Generative Adversarial Nets" (NeurIPS 2014, non-saturating form: vanilla); Mao et al., "Least
Squares Generative Adversarial Networks" (ICCV 2017: lsgan); Arjovsky et al., "Wasserstein GAN" (ICML 2017: wgan) and
its softplus form as in StyleGAN2 (Karras et al., CVPR 2020: wgan_softplus); Lim and Ye, "Geometric GAN" (2017: hinge).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

Term = Callable[[jax.Array, float], jax.Array]
"""(logits, label) → the loss of every logit; only vanilla and lsgan use the label."""


class AdversarialLoss(NamedTuple):
    """One kind of adversarial loss, as functions of logits.

    Attributes:
      generator: the generator's, on logits of generated images, which shall be taken for real.
      real: the discriminator's, on logits of real images.
      fake: the discriminator's, on logits of generated images.
    """

    generator: Term
    real: Term
    fake: Term


def _cross_entropy(logits: jax.Array, label: float | jax.Array) -> jax.Array:
    # label · softplus(-x) + (1 - label) · softplus(x), which does not overflow
    return jax.nn.softplus(logits) - logits * label


def _squared(logits: jax.Array, label: float) -> jax.Array:
    return jnp.square(logits - label)


ADVERSARIAL_LOSSES = {
    "vanilla": AdversarialLoss(_cross_entropy, _cross_entropy, _cross_entropy),
    "lsgan": AdversarialLoss(_squared, _squared, _squared),
    "wgan": AdversarialLoss(lambda x, _: -x, lambda x, _: -x, lambda x, _: x),
    "wgan_softplus": AdversarialLoss(
        lambda x, _: jax.nn.softplus(-x), lambda x, _: jax.nn.softplus(-x), lambda x, _: jax.nn.softplus(x)
    ),
    "hinge": AdversarialLoss(lambda x, _: -x, lambda x, _: jax.nn.relu(1.0 - x), lambda x, _: jax.nn.relu(1.0 + x)),
}
"""Name → loss. For the labels of vanilla and lsgan see the functions below."""


def generator_loss(logits: jax.Array, kind: str = "vanilla", real_label: float = 1.0) -> jax.Array:
    """The generator's adversarial loss.

    Args:
      logits: of generated images, [B, …] float32.
      kind: one of `ADVERSARIAL_LOSSES`.
      real_label: the label of real images, for vanilla and lsgan.

    Returns:
      [B] float32: the mean over an example's logits.
    """
    return _mean(ADVERSARIAL_LOSSES[kind].generator(logits.astype(jnp.float32), real_label))


def discriminator_loss(
    real: jax.Array, fake: jax.Array, kind: str = "vanilla", real_label: float = 1.0, fake_label: float = 0.0
) -> tuple[jax.Array, jax.Array]:
    """The discriminator's adversarial losses on real and on generated images, whose sum is minimized.

    Args:
      real: logits of real images, [B, …] float32.
      fake: logits of generated images, [B, …] float32.
      kind: one of `ADVERSARIAL_LOSSES`.
      real_label: the label of real images, for vanilla and lsgan.
      fake_label: the label of generated images.

    Returns:
      (loss on real images, loss on generated images), [B] float32 each.
    """
    terms = ADVERSARIAL_LOSSES[kind]
    real, fake = real.astype(jnp.float32), fake.astype(jnp.float32)
    return _mean(terms.real(real, real_label)), _mean(terms.fake(fake, fake_label))


def accuracy(real: jax.Array, fake: jax.Array) -> jax.Array:
    """Share of an example's logits with the right sign, over real and generated images: [B, …] twice → [B]."""
    return 0.5 * (_mean((real > 0).astype(jnp.float32)) + _mean((fake < 0).astype(jnp.float32)))


def pair_loss(logits: jax.Array, second_is_real: jax.Array) -> jax.Array:
    """The cross-entropy of a discriminator that says which of two images is real, as in SupResDiffGAN.

    Kopeć et al., "SupResDiffGAN: a new approach for the Super-Resolution task" (ICCS 2025). The discriminator's loss
    has the true order, the generator's the opposite one.

    Args:
      logits: [B] float32, above 0 where the discriminator takes the second image for the real one.
      second_is_real: [B] bool, the order that is rewarded.

    Returns:
      [B] float32.
    """
    return _cross_entropy(logits.astype(jnp.float32), second_is_real.astype(jnp.float32))


def pair_accuracy(logits: jax.Array, second_is_real: jax.Array) -> jax.Array:
    """Whether a discriminator of pairs is right, 1 or 0; arguments and result as of `pair_loss`."""
    return ((logits > 0) == second_is_real).astype(jnp.float32)


def _mean(values: jax.Array) -> jax.Array:
    return values.mean(axis=tuple(range(1, values.ndim)))
