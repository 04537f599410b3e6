"""Cross-entropy and top-k accuracy, against their definitions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from framer_jax.losses.classification import cross_entropy, top_k_correct

LOGITS = np.asarray([[2.0, 1.0, 0.0], [0.0, 0.0, 5.0], [1.0, 3.0, 2.0]], np.float32)
LABELS = np.asarray([0, 1, 2], np.int32)


def test_cross_entropy_is_the_negative_logarithm_of_the_probability():
    probabilities = np.exp(LOGITS) / np.exp(LOGITS).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(cross_entropy(LOGITS, LABELS), -np.log(probabilities[range(3), LABELS]), rtol=1e-5)
    gradient = jax.grad(lambda logits: cross_entropy(logits, LABELS).sum())(LOGITS)
    np.testing.assert_allclose(gradient, probabilities - np.eye(3)[LABELS], atol=1e-6)
    huge = np.asarray([[1e30, 0.0]], np.float32)
    np.testing.assert_allclose(cross_entropy(huge, np.asarray([1], np.int32)), [1e30])


def test_top_k_counts_the_logits_above():
    np.testing.assert_array_equal(top_k_correct(LOGITS, LABELS, 1), [1, 0, 0])
    np.testing.assert_array_equal(top_k_correct(LOGITS, LABELS, 2), [1, 0, 1])  # 0 ties with another class
    np.testing.assert_array_equal(top_k_correct(LOGITS, LABELS, 3), [1, 1, 1])
    assert not top_k_correct(jnp.zeros((2, 4), jnp.float32), jnp.zeros(2, jnp.int32), 3).any()


@given(st.integers(0, 2**32 - 1), st.integers(2, 9))
def test_more_guesses_are_never_worse(seed, classes):
    rng = np.random.default_rng(seed)
    logits, labels = rng.normal(size=(5, classes)).astype(np.float32), rng.integers(0, classes, 5).astype(np.int32)
    shares = [float(top_k_correct(logits, labels, k).mean()) for k in range(1, classes + 1)]
    assert shares == sorted(shares) and shares[-1] == 1


def test_shapes_that_do_not_fit_are_named():
    with pytest.raises(ValueError, match=r"logits \(3, 3\) and labels \(2,\)"):
        cross_entropy(LOGITS, LABELS[:2])
    with pytest.raises(ValueError, match=r"logits \(3,\)"):
        top_k_correct(LOGITS[0], LABELS, 1)
