"""Losses of rectified flows: errors of velocities and clean latents, loss weights against the reference, taps."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from framer_jax.diffusion import flow
from framer_jax.losses.flow_matching import (
    LOSS_WEIGHTINGS,
    loss_weight,
    preconditioned_error,
    prediction_taps_to_clean,
    velocity_error,
)

X0, NOISE, WRONG = (jax.random.normal(key, (2, 4, 4, 3)) for key in jax.random.split(jax.random.key(8), 3))
SIGMA = jnp.asarray([0.3, 0.9], jnp.float32)
X, VELOCITY = flow.forward(X0, SIGMA, NOISE), flow.velocity(X0, NOISE)


def test_the_error_of_the_velocity():
    np.testing.assert_allclose(
        velocity_error(VELOCITY + WRONG, X0, NOISE), jnp.square(WRONG).mean(axis=(1, 2, 3)), rtol=1e-5
    )
    assert not np.asarray(velocity_error(VELOCITY, X0, NOISE)).any()


def test_the_error_of_the_clean_latent_is_that_of_the_velocity_times_sigma_squared():
    error = preconditioned_error(X, VELOCITY + WRONG, X0, SIGMA)
    np.testing.assert_allclose(error, SIGMA**2 * jnp.square(WRONG).mean(axis=(1, 2, 3)), rtol=1e-5)
    assert preconditioned_error(X, VELOCITY, X0, SIGMA).max() < 1e-12
    unweighted = loss_weight(SIGMA, "sigma_sqrt") * error
    np.testing.assert_allclose(unweighted, velocity_error(VELOCITY + WRONG, X0, NOISE), rtol=1e-5)


@pytest.mark.parametrize("scheme", LOSS_WEIGHTINGS)
def test_loss_weights_are_those_of_the_reference(fixtures, scheme):
    case = np.load(fixtures / "schedulers.npz", allow_pickle=False)
    bound = json.loads(str(case["meta"]))["float32_vs_float64"][f"out/weight_{scheme}"]["atol"]
    weight = np.asarray(loss_weight(jnp.asarray(case["in/sigmas"]), scheme))
    assert np.abs(weight - case[f"out/weight_{scheme}"]).max() <= bound


def test_unknown_loss_weights_are_errors():
    with pytest.raises(ValueError, match=r"'min_snr'.*cosmap"):
        loss_weight(SIGMA, "min_snr")


def test_taps_that_are_velocities_become_clean_latents():
    (clean,) = prediction_taps_to_clean((VELOCITY,), X, SIGMA, "prediction")
    np.testing.assert_allclose(clean, X0, atol=1e-6)
    (hidden,) = prediction_taps_to_clean((VELOCITY,), X, SIGMA, "hidden")
    assert hidden is VELOCITY
    (student,) = prediction_taps_to_clean((VELOCITY,), X, jnp.ones((2,)), "prediction")
    np.testing.assert_array_equal(student, X - VELOCITY)  # TSD-SR's student, whose σ is 1
