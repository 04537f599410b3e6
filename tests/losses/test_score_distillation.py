"""Score distillation: formulas and released losses' numbers, gradients, stopped gradients, trajectories, draws.

The parity fixtures of CSD and VSD are in tests/tools/test_check_parity.py.
"""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from framer_jax.diffusion import ddpm
from framer_jax.diffusion.flow import training_sigmas
from framer_jax.losses.score_distillation import (
    CSD_TIMES,
    FIRST_INDEX_RANGE,
    TSD_SCALE,
    VSD_TIMES,
    TeacherOutputs,
    Velocities,
    csd_direction,
    distillation_error,
    draw_sigmas,
    draw_times,
    regulariser_error,
    tsd_directions,
    vsd_direction,
)


def channels_last(x):
    return jnp.asarray(np.moveaxis(x, 1, -1))


def test_the_released_loss_with_a_gradient(fixtures):
    case = np.load(fixtures / "tsd_loss.npz", allow_pickle=False)
    meta = json.loads(str(case["meta"]))
    velocities = Velocities(*(channels_last(case[f"in/v_{name}_0"]) for name in ("teacher", "teacher_hr", "reg")))
    z, z_hr, noise = (channels_last(case[f"in/{name}"]) for name in ("z", "z_hr", "noise"))
    inputs = []

    def networks(x, x_hr, sigma):
        inputs.append((x, x_hr))
        return velocities

    def loss(z):
        with jax.disable_jit():  # so that the inputs of the networks can be recorded
            both = tsd_directions(z, z_hr, noise, jnp.asarray(case["in/sigmas"]), networks)
        return distillation_error(z, both.combined(0.7), TSD_SCALE).mean(), both

    (value, both), gradient = jax.value_and_grad(loss, has_aux=True)(z)
    mine = {
        "out/loss": value,
        "out/grad_vsd": both.variational,
        "out/grad_tsm": both.matching,
        "out/direction": both.combined(0.7),
        "out/noisy_student_0": inputs[0][0],
        "out/noisy_hr_0": inputs[0][1],
    }
    assert mine.keys() == {name for name in case.files if name.startswith("out/")}
    for name, got in mine.items():
        expected = case[name] if case[name].ndim < 4 else np.moveaxis(case[name], 1, -1)
        assert np.abs(np.asarray(got) - expected).max() <= meta["float32_vs_float64"][name]["atol"], name
    # The released code stops it; the intended one, as the fixture's notes have it.
    np.testing.assert_allclose(gradient, np.moveaxis(case["out/direction"], 1, -1) / z.size, atol=1e-8)


def test_substeps_go_along_the_trajectories():
    """Against a loop in NumPy, with networks that depend on all of their inputs."""
    rng = np.random.default_rng(0)
    z, z_hr, noise = (jnp.asarray(rng.standard_normal((2, 3, 3, 2)), jnp.float32) for _ in range(3))
    sigmas = jnp.asarray([[0.9, 0.7, 0.6, 0.2], [0.5, 0.4, 0.3, 0.1]], jnp.float32)

    def networks(x, x_hr, sigma):
        t = sigma[:, None, None, None]
        return Velocities(x * t, x_hr - t, 0.5 * x + t)

    weights = (1.0, 0.3, 0.2)
    both = jax.jit(lambda z: tsd_directions(z, z_hr, noise, sigmas, networks, weights))(z)
    s = np.asarray(sigmas)[:, :, None, None, None]
    x, x_hr = ((1 - s[:, 0]) * np.asarray(latent) + s[:, 0] * np.asarray(noise) for latent in (z, z_hr))
    variational, matching = 0.0, 0.0
    for k, weight in enumerate(weights):
        teacher, teacher_hr, regulariser = (np.asarray(v) for v in networks(x, x_hr, s[:, k, 0, 0, 0]))
        variational = variational + weight * s[:, k] ** 2 * (teacher - regulariser)
        matching = matching + weight * s[:, k] ** 2 * (teacher - teacher_hr)
        x, x_hr = x - (s[:, k] - s[:, k + 1]) * regulariser, x_hr - (s[:, k] - s[:, k + 1]) * teacher_hr
    np.testing.assert_allclose(both.variational, variational, atol=1e-5)
    np.testing.assert_allclose(both.matching, matching, atol=1e-5)
    with pytest.raises(ValueError, match=r"3 sub-steps.*1 weights"):
        tsd_directions(z, z_hr, noise, sigmas, networks)


def test_the_directions_are_constants():
    """No gradient reaches the latents or, through the networks, their parameters."""
    z, z_hr = (jax.random.normal(jax.random.key(seed), (1, 2, 2, 1), jnp.float32) for seed in (0, 1))
    sigmas = jnp.asarray([[0.8, 0.3]], jnp.float32)

    def total(z, z_hr, factor):
        both = tsd_directions(
            z, z_hr, z_hr + 1, sigmas, lambda x, x_hr, sigma: Velocities(factor * x, x_hr, x / factor)
        )
        return jnp.sum(both.variational + 2 * both.matching)

    assert total(z, z_hr, jnp.float32(2)) != 0
    assert not any(np.any(slope) for slope in jax.grad(total, (0, 1, 2))(z, z_hr, jnp.float32(2)))


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 4), st.sampled_from([10, 50]), st.booleans())
def test_sigmas_are_of_the_table_and_fall(seed, substeps, size, biased):
    table = training_sigmas(3.0).astype(np.float32)
    with jax.disable_jit():
        sigmas = np.asarray(draw_sigmas(jax.random.key(seed), 8, substeps, size, biased))
    assert sigmas.shape == (8, substeps + 1)
    indices = np.argmin(np.abs(table[None, None] - sigmas[..., None]), axis=-1)
    np.testing.assert_array_equal(table[indices], sigmas)
    assert np.all((indices[:, 0] >= FIRST_INDEX_RANGE[0]) & (indices[:, 0] < FIRST_INDEX_RANGE[1]))
    assert np.all(np.diff(indices, axis=1) > 0)
    if not biased:
        np.testing.assert_array_equal(indices[:, -1], np.minimum(indices[:, 0] + size * substeps, 999))


def test_the_loss_is_the_scaled_mean_square_of_the_direction_of_each_example():
    z = jnp.ones((2, 2, 2, 1), jnp.float32)
    assert not np.any(distillation_error(z, jnp.zeros_like(z), 1.0))
    direction = jnp.asarray([2.0, 4.0], jnp.float32)[:, None, None, None] * z
    np.testing.assert_allclose(distillation_error(z, direction, TSD_SCALE), [2.0, 8.0])
    np.testing.assert_allclose(distillation_error(z, direction, 1.0), [4.0, 16.0])


SD2 = ddpm.scaled_linear_schedule()
GUIDANCE = 7.5


def drawn(seed, count):
    """Arrays [2, 3, 3, 2] and times for two examples."""
    rng = np.random.default_rng(seed)
    return [jnp.asarray(rng.standard_normal((2, 3, 3, 2)), jnp.float32) for _ in range(count)]


TIMES = jnp.asarray([37, 480], jnp.int32)


def latent_directions(z, noise, negative, positive, follower, prediction="epsilon", schedule=SD2):
    """CSD's and VSD's directions for networks whose outputs are given."""
    x, teacher = ddpm.forward(schedule, z, TIMES, noise), TeacherOutputs(negative, positive)
    return {
        "csd": csd_direction(schedule, z, x, TIMES, teacher, GUIDANCE, prediction),
        "vsd": vsd_direction(schedule, z, x, TIMES, teacher, follower, GUIDANCE, prediction),
    }


@pytest.mark.parametrize("prediction", ddpm.PREDICTIONS)
def test_directions_of_csd_and_vsd_against_numpy(prediction):
    arrays = drawn(0, 5)
    z, noise, negative, positive, follower = (np.asarray(array, np.float64) for array in arrays)
    level = SD2.alphas_cumprod[np.asarray(TIMES)][:, None, None, None]
    signal, sigma = np.sqrt(level), np.sqrt(1 - level)
    x = signal * z + sigma * noise
    clean = {
        "epsilon": lambda output: (x - sigma * output) / signal,
        "v": lambda output: signal * x - sigma * output,
        "x0": lambda output: output,
    }[prediction]
    real = clean(negative + GUIDANCE * (positive - negative))
    distance = np.abs(z - real).mean((1, 2, 3), keepdims=True)
    directions = latent_directions(*arrays, prediction)
    for name, other in (("csd", negative), ("vsd", follower)):
        expected = (clean(other) - real) / distance
        np.testing.assert_allclose(directions[name], expected, rtol=1e-4, atol=1e-5)


def test_csd_is_vsd_with_the_negative_prompt_as_its_regularizer():
    z, noise, negative, positive, _ = drawn(1, 5)
    both = latent_directions(z, noise, negative, positive, follower=negative)
    np.testing.assert_array_equal(both["csd"], both["vsd"])


def test_nothing_pulls_where_the_networks_agree():
    """Also where the student's latent is exactly the teacher's estimate, and the distance to it zero."""
    z, noise, output, *_ = drawn(2, 5)
    for name, outputs in (("epsilon", (output,) * 3), ("x0", (z,) * 3)):
        for direction in latent_directions(z, noise, *outputs, prediction=name).values():
            assert not np.any(direction)


@pytest.mark.parametrize("prediction", ["epsilon", "v"])
def test_descent_moves_the_latent_towards_what_the_teacher_expects(prediction):
    """With a regularizer that knows the student's latent, and a teacher that expects another one, VSD leads there."""
    z, expected, noise = drawn(8, 3)
    x = ddpm.forward(SD2, z, TIMES, noise)

    def output_for(clean):
        """What a network predicts at x if it takes `clean` for the clean latent."""
        implied = ddpm.predicted_noise(SD2, x, TIMES, clean, "x0")
        return ddpm.training_target(SD2, clean, TIMES, implied, prediction)

    teacher = TeacherOutputs(output_for(expected), output_for(expected))
    direction = vsd_direction(SD2, z, x, TIMES, teacher, output_for(z), GUIDANCE, prediction)
    distance = np.abs(z - expected).mean((1, 2, 3), keepdims=True)
    np.testing.assert_allclose(z - distance * direction, expected, atol=1e-3)


@pytest.mark.parametrize("kind", ["csd", "vsd"])
def test_no_gradient_flows_through_a_direction(kind):
    """Neither to the latent nor to the networks: of the loss, z alone has one, and it is 2 g over the entries."""
    arrays = drawn(3, 5)

    def loss(*arrays):
        direction = latent_directions(*arrays)[kind]
        return distillation_error(arrays[0], direction, 1.0).sum(), direction

    gradients, direction = jax.grad(loss, tuple(range(5)), has_aux=True)(*arrays)
    assert np.any(direction)
    np.testing.assert_allclose(gradients[0], 2 * direction / direction[0].size, rtol=1e-5, atol=1e-7)
    assert not any(np.any(gradient) for gradient in gradients[1:])
    assert not np.any(jax.grad(lambda z: latent_directions(z, *arrays[1:])[kind].sum())(arrays[0]))


@pytest.mark.parametrize("scale", [1.0, TSD_SCALE])
def test_the_gradient_is_that_of_finite_differences_with_a_fixed_target(scale):
    z, direction, probe = drawn(4, 3)
    target = z - direction

    def fixed(z):
        return scale * np.square(np.asarray(z, np.float64) - np.asarray(target, np.float64)).mean((1, 2, 3)).sum()

    gradient = jax.grad(lambda z: distillation_error(z, direction, scale).sum())(z)
    step = 1e-4
    difference = (fixed(np.asarray(z) + step * np.asarray(probe)) - fixed(z - step * probe)) / (2 * step)
    assert float(jnp.sum(gradient * probe)) == pytest.approx(difference, rel=1e-3)


@pytest.mark.parametrize("prediction", ddpm.PREDICTIONS)
def test_the_regularizer_learns_the_noise_of_the_students_latents(prediction):
    z, noise, output = drawn(5, 3)
    target = np.asarray(ddpm.training_target(SD2, z, TIMES, noise, prediction))
    values = regulariser_error(SD2, output, z, TIMES, noise, prediction)
    np.testing.assert_allclose(values, np.square(np.asarray(output) - target).mean((1, 2, 3)), rtol=1e-5)
    assert not np.any(regulariser_error(SD2, jnp.asarray(target), z, TIMES, noise, prediction))

    def total(output, z):
        return regulariser_error(SD2, output, z, TIMES, noise, prediction).sum()

    to_output, to_z = jax.grad(total, (0, 1))(output, z)
    np.testing.assert_allclose(to_output, 2 * (np.asarray(output) - target) / z[0].size, rtol=1e-4, atol=1e-6)
    assert not np.any(to_z)


def test_outputs_in_bfloat16_are_compared_in_float32():
    z, noise, *outputs = drawn(6, 5)
    rounded = [output.astype(jnp.bfloat16) for output in outputs]
    expected = latent_directions(z, noise, *(output.astype(jnp.float32) for output in rounded))
    for name, direction in latent_directions(z, noise, *rounded).items():
        assert direction.dtype == jnp.float32
        np.testing.assert_array_equal(direction, expected[name])


@pytest.mark.parametrize(("times", "published"), [(CSD_TIMES, (20, 499)), (VSD_TIMES, (20, 979))])
def test_times_are_those_of_the_released_code(times, published):
    drawn_times = np.asarray(draw_times(jax.random.key(0), 20_000, times))
    assert (drawn_times.min(), drawn_times.max()) == published
    assert drawn_times.dtype == np.int32 and len(np.unique(drawn_times)) == published[1] - published[0] + 1


def test_a_schedule_with_zero_terminal_snr_needs_another_prediction():
    arrays, rescaled = drawn(7, 5), ddpm.scaled_linear_schedule(zero_terminal_snr=True)
    assert np.all(np.isfinite(latent_directions(*arrays, "v", rescaled)["csd"]))
    with pytest.raises(ValueError, match="zero terminal SNR"):
        latent_directions(*arrays, schedule=rescaled)
