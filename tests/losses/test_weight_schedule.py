"""Weights of loss terms by training step: shapes, start, ramp, the exact values of earlier versions, bad input."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from framer_jax.losses.weight_schedule import SHAPES, WeightSchedule, weight_at

WEIGHTS = st.floats(0.0, 100.0, width=32, allow_subnormal=False)  # XLA counts subnormal numbers as 0


def weights(schedule, steps):
    return [float(weight_at(schedule, step)) for step in steps]


def test_without_a_ramp_the_weight_is_there_at_once():
    for shape in SHAPES:
        assert weights(WeightSchedule(0.5, shape), (0, 10)) == [0.5, 0.5]
        assert weights(WeightSchedule(2.0, shape, start_step=3), (0, 2, 3, 9)) == [0.0, 0.0, 2.0, 2.0]


def test_the_shapes_of_the_ramp():
    expected = {"linear": (0, 0.25, 0.5, 1, 1), "cosine": (0, 0.5 - np.sqrt(0.125), 0.5, 1, 1), "constant": (1,) * 5}
    for shape, fractions in expected.items():
        schedule = WeightSchedule(3.0, shape, ramp_steps=100)
        np.testing.assert_allclose(weights(schedule, (0, 25, 50, 100, 170)), 3 * np.asarray(fractions), atol=1e-6)


def test_a_late_ramp():
    schedule = WeightSchedule(2.0, start_step=4, ramp_steps=4)
    assert weights(schedule, (0, 4, 5, 6, 8, 99)) == [0.0, 0.0, 0.5, 1.0, 2.0, 2.0]
    traced = jax.jit(weight_at, static_argnums=0)(schedule, jnp.int32(5))
    assert traced.dtype == jnp.float32 and traced.shape == () and float(traced) == 0.5


@given(
    st.sampled_from(SHAPES),
    WEIGHTS,
    st.integers(0, 10**6),
    st.integers(1, 10**6),
    st.integers(0, 2 * 10**6),
)
@settings(deadline=None, max_examples=50)
def test_the_weight_never_falls_and_ends_at_its_final_value(shape, weight, start, ramp, step):
    schedule = WeightSchedule(weight, shape, start, ramp)
    now, later, last = weights(schedule, (step, step + 1, start + ramp))
    assert 0 <= now <= later <= last == np.float32(weight)


@given(WEIGHTS, st.integers(0, 1000), st.integers(0, 1000), st.integers(0, 3000))
@settings(deadline=None, max_examples=50)
def test_the_bits_are_those_of_two_plain_formulas(weight, start, ramp, step):
    """Trainings of earlier versions continue with the same weights: FRAMER's λ and DTKD's."""
    elapsed = jnp.int32(step) - start
    plain = (elapsed >= 0).astype(jnp.float32)
    if ramp:
        plain = jnp.clip(elapsed.astype(jnp.float32) / ramp, 0.0, 1.0)
    assert float(weight_at(WeightSchedule(weight, "linear", start, ramp), step)) == float(plain * weight)
    done = jnp.clip(jnp.int32(step).astype(jnp.float32) / (ramp + 1), 0.0, 1.0)
    for shape, share in {"linear": done, "cosine": 0.5 - 0.5 * jnp.cos(jnp.pi * done), "constant": 1.0}.items():
        value = weight_at(WeightSchedule(weight, shape, ramp_steps=ramp + 1), jnp.int32(step))
        assert float(value) == float(jnp.float32(weight) * share)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (partial(WeightSchedule, -1.0), "weight is -1.0.*from 0"),
        (partial(WeightSchedule, float("inf")), "weight is inf"),
        (partial(WeightSchedule, shape="step"), "shape is 'step'.*linear, cosine, constant"),
        (partial(WeightSchedule, start_step=-1), "start_step is -1"),
        (partial(WeightSchedule, ramp_steps=0.5), "ramp_steps is 0.5.*whole number"),
    ],
)
def test_bad_values_are_named(make, words):
    with pytest.raises(ValueError, match=words):
        make()
