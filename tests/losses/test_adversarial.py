"""Adversarial losses: their formulas in NumPy, one value per example, the accuracy of a discriminator."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from framer_jax.losses.adversarial import ADVERSARIAL_LOSSES, accuracy, discriminator_loss, generator_loss

REAL, FAKE = (np.random.default_rng(seed).normal(0, 2, (3, 5, 4, 1)).astype(np.float32) for seed in (0, 1))


def softplus(x):
    return np.logaddexp(0, x)


FORMULAS = {  # of the logits x: the generator's, the discriminator's on real and on generated images
    "vanilla": (lambda x: softplus(-x), lambda x: softplus(-x), softplus),
    "lsgan": (lambda x: (x - 1) ** 2, lambda x: (x - 1) ** 2, lambda x: x**2),
    "wgan": (lambda x: -x, lambda x: -x, lambda x: x),
    "wgan_softplus": (lambda x: softplus(-x), lambda x: softplus(-x), softplus),
    "hinge": (lambda x: -x, lambda x: np.maximum(1 - x, 0), lambda x: np.maximum(1 + x, 0)),
}


@pytest.mark.parametrize("kind", ADVERSARIAL_LOSSES)
def test_every_loss_is_its_formula(kind):
    generator, real, fake = (
        formula(logits.astype(np.float64)).mean(axis=(1, 2, 3))
        for formula, logits in zip(FORMULAS[kind], (FAKE, REAL, FAKE), strict=True)
    )
    np.testing.assert_allclose(generator_loss(jnp.asarray(FAKE), kind), generator, rtol=1e-5, atol=1e-6)
    values = discriminator_loss(jnp.asarray(REAL), jnp.asarray(FAKE), kind)
    np.testing.assert_allclose(values[0], real, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(values[1], fake, rtol=1e-5, atol=1e-6)
    assert {value.dtype for value in values} == {jnp.dtype("float32")}


def test_labels_of_vanilla_and_lsgan_may_be_smoothed():
    real, fake = (logits.astype(np.float64) for logits in (REAL, FAKE))
    smooth = discriminator_loss(jnp.asarray(REAL), jnp.asarray(FAKE), "vanilla", real_label=0.9, fake_label=0.2)
    for value, logits, label in zip(smooth, (real, fake), (0.9, 0.2), strict=True):
        expected = label * softplus(-logits) + (1 - label) * softplus(logits)
        np.testing.assert_allclose(value, expected.mean(axis=(1, 2, 3)), rtol=1e-5)
    squared = discriminator_loss(jnp.asarray(REAL), jnp.asarray(FAKE), "lsgan", real_label=0.9, fake_label=0.2)
    np.testing.assert_allclose(squared[1], ((fake - 0.2) ** 2).mean(axis=(1, 2, 3)), rtol=1e-5)
    generator = generator_loss(jnp.asarray(FAKE), "lsgan", real_label=0.9)
    np.testing.assert_allclose(generator, ((fake - 0.9) ** 2).mean(axis=(1, 2, 3)), rtol=1e-5)


def test_large_logits_do_not_overflow():
    logits = jnp.array([[-1e4, 1e4]], jnp.float32)
    for kind in ADVERSARIAL_LOSSES:
        value, gradient = jax.value_and_grad(lambda x, kind=kind: generator_loss(x, kind).sum())(logits)
        assert np.isfinite(value) and np.isfinite(gradient).all()


def test_accuracy_counts_the_signs():
    real, fake = jnp.array([[1.0, 2.0, -1.0, 3.0]]), jnp.array([[-1.0, 1.0, 2.0, 3.0]])
    np.testing.assert_allclose(accuracy(real, fake), [0.5 * (0.75 + 0.25)])
    np.testing.assert_allclose(accuracy(jnp.zeros((1, 2)), jnp.zeros((1, 2))), [0.0])  # undecided is not right
