"""Target-score distillation: the released loss's numbers, its gradient, its trajectories, the draws of sigmas."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from framer_jax.diffusion.flow import training_sigmas
from framer_jax.losses.target_score import TABLE_ENDS, Velocities, directions, distillation_error, draw_sigmas


def channels_last(x):
    return jnp.asarray(np.moveaxis(x, 1, -1))


def test_the_released_loss_with_a_gradient(fixtures):
    case = np.load(fixtures / "tsd_loss.npz", allow_pickle=False)
    meta = json.loads(str(case["meta"]))
    told = Velocities(*(channels_last(case[f"in/v_{name}_0"]) for name in ("teacher", "teacher_hr", "reg")))
    z, z_hr, noise = (channels_last(case[f"in/{name}"]) for name in ("z", "z_hr", "noise"))
    asked = []

    def networks(x, x_hr, sigma):
        asked.append((x, x_hr))
        return told

    def loss(z):
        with jax.disable_jit():  # so that what the networks are asked can be seen
            found = directions(z, z_hr, noise, jnp.asarray(case["in/sigmas"]), networks)
        return distillation_error(z, found.combined(0.7)).mean(), found

    (value, found), gradient = jax.value_and_grad(loss, has_aux=True)(z)
    mine = {
        "out/loss": value,
        "out/grad_vsd": found.variational,
        "out/grad_tsm": found.matching,
        "out/direction": found.combined(0.7),
        "out/noisy_student_0": asked[0][0],
        "out/noisy_hr_0": asked[0][1],
    }
    assert mine.keys() == {name for name in case.files if name.startswith("out/")}
    for name, got in mine.items():
        expected = case[name] if case[name].ndim < 4 else np.moveaxis(case[name], 1, -1)
        assert np.abs(np.asarray(got) - expected).max() <= meta["float32_vs_float64"][name]["atol"], name
    # The released code stops it; the intended one, as the fixture's notes have it.
    np.testing.assert_allclose(gradient, np.moveaxis(case["out/direction"], 1, -1) / z.size, atol=1e-8)


def test_substeps_go_along_the_trajectories():
    """Against a loop in NumPy, with networks that depend on all that they are told."""
    rng = np.random.default_rng(0)
    z, z_hr, noise = (jnp.asarray(rng.standard_normal((2, 3, 3, 2)), jnp.float32) for _ in range(3))
    sigmas = jnp.asarray([[0.9, 0.7, 0.6, 0.2], [0.5, 0.4, 0.3, 0.1]], jnp.float32)

    def networks(x, x_hr, sigma):
        t = sigma[:, None, None, None]
        return Velocities(x * t, x_hr - t, 0.5 * x + t)

    weights = (1.0, 0.3, 0.2)
    found = jax.jit(lambda z: directions(z, z_hr, noise, sigmas, networks, weights))(z)
    s = np.asarray(sigmas)[:, :, None, None, None]
    x, x_hr = ((1 - s[:, 0]) * np.asarray(latent) + s[:, 0] * np.asarray(noise) for latent in (z, z_hr))
    variational, matching = 0.0, 0.0
    for k, weight in enumerate(weights):
        teacher, teacher_hr, regulariser = (np.asarray(v) for v in networks(x, x_hr, s[:, k, 0, 0, 0]))
        variational = variational + weight * s[:, k] ** 2 * (teacher - regulariser)
        matching = matching + weight * s[:, k] ** 2 * (teacher - teacher_hr)
        x, x_hr = x - (s[:, k] - s[:, k + 1]) * regulariser, x_hr - (s[:, k] - s[:, k + 1]) * teacher_hr
    np.testing.assert_allclose(found.variational, variational, atol=1e-5)
    np.testing.assert_allclose(found.matching, matching, atol=1e-5)
    with pytest.raises(ValueError, match="sigmas of 3 sub-steps, and 1 weights"):
        directions(z, z_hr, noise, sigmas, networks)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 4), st.sampled_from([10, 50]), st.booleans())
def test_sigmas_are_of_the_table_and_fall(seed, substeps, size, biased):
    table = training_sigmas(3.0).astype(np.float32)
    with jax.disable_jit():
        found = np.asarray(draw_sigmas(jax.random.key(seed), 8, substeps, size, biased))
    assert found.shape == (8, substeps + 1)
    places = np.argmin(np.abs(table[None, None] - found[..., None]), axis=-1)
    np.testing.assert_array_equal(table[places], found)
    assert np.all((places[:, 0] >= TABLE_ENDS[0]) & (places[:, 0] < TABLE_ENDS[1]))
    assert np.all(np.diff(places, axis=1) > 0)
    if not biased:
        np.testing.assert_array_equal(places[:, -1], np.minimum(places[:, 0] + size * substeps, 999))


def test_the_smallest_loss_is_where_nothing_points_elsewhere():
    z = jnp.ones((2, 2, 2, 1), jnp.float32)
    assert not np.any(distillation_error(z, jnp.zeros_like(z)))
    np.testing.assert_allclose(distillation_error(z, 2 * z), [2.0, 2.0])
