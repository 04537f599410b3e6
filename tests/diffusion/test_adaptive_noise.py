"""SupResDiffGAN's adaptive noise: its moving average, and the time that follows from it."""

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from framer_jax.diffusion.adaptive_noise import initial_accuracy, noise_time, update_accuracy


def test_the_average_starts_at_chance_and_follows_the_accuracy():
    average = initial_accuracy()
    assert average.dtype == jnp.float32 and noise_time(average, 1000) == 0
    expected = 0.5
    for accuracy in (1.0, 0.25, 1.0, 1.0):
        average = update_accuracy(average, jnp.float32(accuracy))
        expected = 0.97 * expected + 0.03 * accuracy
        assert float(average) == pytest.approx(expected, rel=1e-6)
    assert average.dtype == jnp.float32


@pytest.mark.parametrize(
    ("average", "time"), [(0.0, 0), (0.5, 0), (0.50049, 0), (0.50051, 1), (0.75, 500), (0.9999, 999), (1.0, 999)]
)
def test_times_grow_linearly_from_chance(average, time):
    result = noise_time(jnp.float32(average), 1000)
    assert result == time and result.dtype == jnp.int32 and result.shape == ()


@hypothesis.given(st.floats(0, 1), st.floats(0, 1), st.integers(2, 1000))
@hypothesis.settings(max_examples=40, deadline=None)
def test_a_better_discriminator_never_sees_less_noise(first, second, steps):
    low, high = (int(noise_time(jnp.float32(average), steps)) for average in sorted((first, second)))
    assert 0 <= low <= high <= steps - 1


def test_no_gradient_reaches_the_accuracy():
    slopes = jax.grad(update_accuracy, argnums=(0, 1))(jnp.float32(0.6), jnp.float32(0.9))
    np.testing.assert_allclose(slopes, (0.97, 0.0), rtol=1e-6)
