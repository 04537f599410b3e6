"""HF-Diff's loss terms: the Jensen-Shannon divergence of embeddings, and the error of detail features."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from framer_jax.losses.distribution import js_divergence
from framer_jax.losses.high_frequency import VARIANTS, HighFrequencySettings, high_frequency_error

SHAPE = (2, 3, 5)
DIVERGENCE = jax.jit(js_divergence, static_argnames=("temperature", "base"))
GRADIENTS = jax.jit(
    jax.grad(lambda *pair: js_divergence(*pair, temperature=0.5, base=2.0).sum(), argnums=(0, 1)),
)


def embeddings(limit):
    return arrays(np.float32, SHAPE, elements=st.floats(-limit, limit, width=32, allow_subnormal=False))


def in_float64(x, y, temperature=1.0, base=math.e):
    """Eq. 4 as printed."""

    def softmax(z):
        e = np.exp(z / temperature - (z / temperature).max(-1, keepdims=True))
        return e / e.sum(-1, keepdims=True)

    p, q = softmax(np.asarray(x, np.float64)), softmax(np.asarray(y, np.float64))
    m = (p + q) / 2
    kl = (np.where(r > 0, r * np.log(np.where(r > 0, r / m, 1)), 0).sum(-1) for r in (p, q))
    value = 0.5 * sum(kl) / math.log(base)
    return value.reshape(len(value), -1).mean(axis=1)


@settings(deadline=None)
@given(embeddings(50.0), embeddings(50.0), st.sampled_from([(1.0, math.e), (0.5, 2.0), (4.0, 10.0)]))
def test_the_divergence_is_eq_4_symmetric_and_bounded(x, y, options):
    temperature, base = options
    value = np.asarray(DIVERGENCE(x, y, temperature=temperature, base=base))
    assert value.shape == (2,) and value.dtype == np.float32
    np.testing.assert_allclose(value, in_float64(x, y, *options), rtol=1e-4, atol=1e-7)
    np.testing.assert_array_equal(value, DIVERGENCE(y, x, temperature=temperature, base=base))
    assert (value >= 0).all() and (value <= math.log(2.0, base) * (1 + 1e-5)).all()
    np.testing.assert_array_equal(DIVERGENCE(x, x, temperature=temperature, base=base), [0, 0])


@settings(deadline=None)
@given(embeddings(float(np.finfo(np.float32).max)), embeddings(float(np.finfo(np.float32).max)))
def test_extreme_logits_give_neither_nan_nor_infinity(x, y):
    for temperature in (0.5, 1e-30):
        value = np.asarray(DIVERGENCE(x, y, temperature=temperature, base=2.0))
        assert np.isfinite(value).all() and (value >= 0).all() and (value <= 1 + 1e-5).all()
    assert all(np.isfinite(gradient).all() for gradient in GRADIENTS(x, y))


@settings(deadline=None, max_examples=30)
@given(embeddings(3.0), embeddings(3.0), embeddings(1.0))
def test_the_gradient_is_that_of_finite_differences(x, y, direction):
    of_embedding, of_reference = GRADIENTS(x, y)
    for left, right, gradient in (((1, 0), (-1, 0), of_embedding), ((0, 1), (0, -1), of_reference)):
        ahead, behind = (
            in_float64(
                x + 1e-5 * a * direction.astype(np.float64), y + 1e-5 * b * direction.astype(np.float64), 0.5, 2.0
            )
            for a, b in (left, right)
        )
        slope = (ahead - behind).sum() / 2e-5
        np.testing.assert_allclose((np.asarray(gradient, np.float64) * direction).sum(), slope, atol=2e-5)


def test_known_divergences():
    """Of disjoint distributions it is log 2, whatever the tokens' axis; small ones keep their digits."""
    x, y = np.float32([[200, 0, 0]]), np.float32([[0, 200, 0]])
    np.testing.assert_allclose(js_divergence(x, y), [math.log(2)], rtol=1e-6)
    np.testing.assert_allclose(js_divergence(x, y, base=2.0), [1.0], rtol=1e-6)
    patches = js_divergence(np.stack([x, x], axis=1), np.stack([y, x], axis=1), base=2.0)  # one of two patches differs
    np.testing.assert_allclose(patches, [0.5], rtol=1e-6)
    near = np.float32([[1.0, 2.0, 3.0]])
    close = np.float32([[1.001, 2.0, 3.0]])
    np.testing.assert_allclose(js_divergence(near, close), in_float64(near, close), rtol=1e-3)
    half = js_divergence(jnp.asarray(near, jnp.bfloat16), jnp.asarray(near[:, ::-1], jnp.bfloat16))
    assert half.dtype == jnp.float32
    np.testing.assert_allclose(half, in_float64(near, near[:, ::-1]), rtol=1e-5)


def test_what_does_not_fit_the_divergence_is_refused():
    x = jnp.zeros((2, 4))
    with pytest.raises(ValueError, match=r"both must be \[B, D\] or \[B, N, D\]"):
        js_divergence(x, x[:, :3])
    with pytest.raises(ValueError, match=r"both must be \[B, D\]"):
        js_divergence(x[0], x[0])
    for options in ({"temperature": 0.0}, {"temperature": 1e-50}, {"base": 1.0}, {"temperature": math.nan}):
        with pytest.raises(ValueError, match="must be at least 1e-30 and above 1"):
            js_divergence(x, x, **options)


def test_the_error_of_detail_features_is_a_mean_square():
    f, g = (np.random.default_rng(seed).standard_normal((2, 3, 5, 4)).astype(np.float32) for seed in (0, 1))
    np.testing.assert_allclose(high_frequency_error(f, g), np.square(f - g).mean((1, 2, 3)), rtol=1e-6)
    np.testing.assert_array_equal(high_frequency_error(f, f), [0, 0])
    low = high_frequency_error(jnp.asarray(f, jnp.bfloat16), jnp.asarray(g, jnp.bfloat16))
    assert low.dtype == jnp.float32
    with pytest.raises(ValueError, match=r"both must be \[B, H, W, C\]"):
        high_frequency_error(f, g[:, :2])


def test_variants_say_what_the_features_are_taken_of():
    assert VARIANTS["released"] == HighFrequencySettings("latent", "consistency")
    assert VARIANTS["paper"] == HighFrequencySettings("image", "one_step")
    with pytest.raises(ValueError, match="latent"):
        HighFrequencySettings(features_of="pixels")
