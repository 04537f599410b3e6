"""The variance-preserving process: identities of its forward process and predictions, schedules, grids and steps.

The parity fixtures, ddpm_sd21 and schedulers, are in tests/tools/test_check_parity.py.
"""

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from framer_jax.diffusion import ddpm
from framer_jax.diffusion.samplers import ddim

SCHEDULE = ddpm.scaled_linear_schedule()
RESCALED = ddpm.scaled_linear_schedule(zero_terminal_snr=True)
SCHEDULES = {"scaled_linear": SCHEDULE, "zero_snr": RESCALED, "cosine": ddpm.cosine_schedule()}


def normal(seed, shape=(2, 4, 4, 3)):
    return jax.random.normal(jax.random.key(seed), shape, jnp.float32)


def signal_to_noise(schedule):
    return schedule.alphas_cumprod / (1.0 - schedule.alphas_cumprod)


@pytest.mark.parametrize("name", SCHEDULES)
def test_the_signal_to_noise_ratio_falls_and_tables_agree(name):
    schedule = SCHEDULES[name]
    assert np.all(np.diff(signal_to_noise(schedule)) < 0)
    np.testing.assert_allclose(np.cumprod(1.0 - schedule.betas), schedule.alphas_cumprod, rtol=1e-9, atol=1e-15)
    np.testing.assert_allclose(schedule.signal**2 + schedule.sigma**2, 1.0, rtol=1e-12)
    assert schedule.betas.dtype == schedule.alphas_cumprod.dtype == np.float64 and schedule.steps == 1000


def test_zero_terminal_snr_keeps_the_first_entry_and_reaches_zero():
    assert signal_to_noise(RESCALED)[-1] == 0.0 < signal_to_noise(SCHEDULE)[-1]
    assert RESCALED.alphas_cumprod[0] == pytest.approx(SCHEDULE.alphas_cumprod[0], rel=1e-12)
    assert RESCALED.betas[-1] == 1.0
    np.testing.assert_allclose(np.diff(RESCALED.signal, 2) / np.diff(SCHEDULE.signal, 2), 1.0733, atol=1e-3)
    noise = normal(0)
    np.testing.assert_array_equal(ddpm.forward(RESCALED, normal(1), jnp.int32(999), noise), noise)
    clean = ddpm.predicted_x0(RESCALED, noise, jnp.int32(999), -normal(1), "v")
    np.testing.assert_array_equal(clean, normal(1))


def test_the_cosine_schedule_is_that_of_its_paper():
    """ā is f(t) / f(0) with the offset 0.008, until β reaches 0.999 at the last time."""
    schedule = ddpm.cosine_schedule(25)
    level = np.cos((np.arange(26) / 25 + 0.008) / 1.008 * np.pi / 2) ** 2
    np.testing.assert_allclose(schedule.alphas_cumprod[:-1], level[1:-1] / level[0], rtol=1e-12)
    assert schedule.betas[-1] == 0.999
    assert schedule.alphas_cumprod[-1] == pytest.approx(1e-3 * schedule.alphas_cumprod[-2])


@hypothesis.given(
    st.integers(0, 999), st.integers(0, 2**31), st.sampled_from(ddpm.PREDICTIONS), st.sampled_from(sorted(SCHEDULES))
)
@hypothesis.settings(max_examples=40, deadline=None)
def test_a_perfect_prediction_of_any_kind_gives_back_x0_and_the_noise(t, seed, prediction, name):
    schedule = SCHEDULES[name]
    hypothesis.assume(name != "zero_snr" or prediction != "epsilon")
    x0, noise = normal(seed, (2, 2, 2, 1)), normal(seed + 1, (2, 2, 2, 1))
    times = jnp.asarray([t, 999 - t], jnp.int32)
    x = ddpm.forward(schedule, x0, times, noise)
    output = ddpm.training_target(schedule, x0, times, noise, prediction)
    signal, sigma = (table[np.asarray(times)][:, None, None, None] for table in (schedule.signal, schedule.sigma))
    # Rounding errors of x_t and the output are divided by the factor of what is asked for.
    clean = ddpm.predicted_x0(schedule, x, times, output, prediction)
    assert np.all(np.abs(clean - x0) <= 3e-6 / (signal if prediction == "epsilon" else 1.0))
    back = ddpm.predicted_noise(schedule, x, times, output, prediction)
    assert np.all(np.abs(back - noise) <= 3e-6 / (sigma if prediction == "x0" else 1.0))


def test_conversions_against_numpy():
    x, output = (np.asarray(normal(seed), np.float64) for seed in (0, 1))
    t = np.asarray([20, 979])
    a = SCHEDULE.alphas_cumprod[t][:, None, None, None]
    expected = {
        "epsilon": ((x - np.sqrt(1 - a) * output) / np.sqrt(a), output),
        "v": (np.sqrt(a) * x - np.sqrt(1 - a) * output, np.sqrt(a) * output + np.sqrt(1 - a) * x),
        "x0": (output, (x - np.sqrt(a) * output) / np.sqrt(1 - a)),
    }
    arrays = jnp.asarray(x, jnp.float32), jnp.asarray(t, jnp.int32), jnp.asarray(output, jnp.float32)
    for prediction, (clean, noise) in expected.items():
        np.testing.assert_allclose(ddpm.predicted_x0(SCHEDULE, *arrays, prediction), clean, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(ddpm.predicted_noise(SCHEDULE, *arrays, prediction), noise, rtol=1e-5, atol=1e-5)
    one = ddpm.one_step_x0(SCHEDULE, arrays[0], arrays[2])
    last = SCHEDULE.alphas_cumprod[-1]
    np.testing.assert_allclose(one, (x - np.sqrt(1 - last) * output) / np.sqrt(last), rtol=1e-5, atol=1e-4)
    assert np.sqrt((1 - last) / last) == pytest.approx(14.6, abs=0.05)


GRIDS = {
    "leading": lambda schedule: ddpm.ddim_grid(schedule, 8),
    "trailing": lambda schedule: ddpm.ddim_grid(schedule, 8, "trailing"),
    "every next": lambda schedule: ddpm.ddpm_grid(schedule, 7, "linspace"),
}
"""Grids of which every step leads to the time at which the next one begins."""


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("kind", GRIDS)
def test_ddim_with_a_perfect_denoiser_follows_the_forward_process_to_x0(name, kind):
    schedule, x0, noise = SCHEDULES[name], normal(3), normal(4)
    grid = GRIDS[kind](schedule)
    np.testing.assert_array_equal(grid.alphas_cumprod_prev[:-1], grid.alphas_cumprod[1:])
    start = ddpm.forward(schedule, x0, jnp.int32(grid.times[0]), noise)
    for steps in (3, grid.steps):
        part = ddpm.Grid(*(table[:steps] for table in (grid.times, grid.alphas_cumprod, grid.alphas_cumprod_prev)))
        after = part.alphas_cumprod_prev[-1]
        end = ddim(part, lambda x, t: x0, start)
        np.testing.assert_allclose(end, np.sqrt(after) * x0 + np.sqrt(1 - after) * noise, atol=1e-5)


def test_a_step_to_the_clean_end_is_the_estimate_itself():
    grid = ddpm.ddpm_grid(SCHEDULE, 4)
    for eta, draw in ((0.0, None), (1.0, lambda number: normal(9))):
        np.testing.assert_allclose(ddim(grid, lambda x, t: normal(3), normal(4), eta, draw), normal(3), atol=1e-6)
    ends = ddpm.ddim_grid(SCHEDULE, 50, ends_clean=True)
    assert ends.alphas_cumprod_prev[-1] == 1.0
    assert ddpm.ddim_grid(SCHEDULE, 50).alphas_cumprod_prev[-1] == SCHEDULE.alphas_cumprod[0]


def test_the_ancestral_step_is_the_posterior_of_ddpm():
    """Its mean and variance in the form of Ho et al., Eq. 7, from one time to the one before it."""
    grid = ddpm.ddpm_grid(SCHEDULE)
    clean, kept, deviation = ddpm.step_coefficients(grid, 1.0)
    beta, level, after = SCHEDULE.betas[::-1], grid.alphas_cumprod, grid.alphas_cumprod_prev
    np.testing.assert_allclose(clean, np.sqrt(after) * beta / (1 - level), rtol=1e-9)
    np.testing.assert_allclose(kept, np.sqrt(1 - beta) * (1 - after) / (1 - level), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(deviation**2, (1 - after) / (1 - level) * beta, rtol=1e-9, atol=1e-12)


def gaussian_denoiser(schedule, spread):
    """The exact mean of x_0 given x_t for data N(0, spread²): √ā s² / (ā s² + 1 - ā) x_t."""
    level = schedule.alphas_cumprod
    weights = jnp.asarray(np.sqrt(level) * spread**2 / (level * spread**2 + 1 - level), jnp.float32)
    return lambda x, t: weights[t] * x


def test_ddim_of_gaussian_data_converges_to_the_probability_flow():
    """Which scales x by the ratio of the marginal standard deviations: here those of the start and of the data."""
    spread, x = 0.3, normal(10, (1, 8, 8, 1))
    first = SCHEDULE.alphas_cumprod[-1]
    expected = x * (spread / np.sqrt(first * spread**2 + 1 - first))
    errors = []
    for steps in (20, 100, 500):
        grid = ddpm.ddpm_grid(SCHEDULE, steps, "trailing")
        end = ddim(grid, gaussian_denoiser(SCHEDULE, spread), x)
        errors.append(float(jnp.abs(end - expected).max() / jnp.abs(expected).max()))
    assert errors[0] > 2 * errors[1] > 4 * errors[2] and errors[2] < 0.025, errors


def test_ddpm_of_gaussian_data_samples_the_data():
    """Its standard deviation is that of the steps in NumPy, and nearly that of the data."""
    grid, shape = ddpm.ddpm_grid(SCHEDULE, 200, "trailing"), (1, 100, 100, 1)

    def draw(number):
        return jax.random.normal(jax.random.fold_in(jax.random.key(11), number), shape, jnp.float32)

    samples = ddim(grid, gaussian_denoiser(SCHEDULE, 0.3), normal(12, shape), 1.0, draw)
    assert np.mean(samples) == pytest.approx(0.0, abs=0.01)
    variance, level = 1.0, grid.alphas_cumprod
    factors = np.sqrt(level) * 0.3**2 / (level * 0.3**2 + 1 - level)
    for factor, clean, kept, deviation in zip(factors, *ddpm.step_coefficients(grid, 1.0), strict=True):
        variance = (clean * factor + kept) ** 2 * variance + deviation**2
    assert np.std(samples) == pytest.approx(np.sqrt(variance), rel=0.02)
    assert np.sqrt(variance) == pytest.approx(0.3, rel=0.1)


@pytest.mark.parametrize("eta", [0.3, 1.0])
def test_noisy_steps_preserve_the_marginal(eta):
    grid, shape = ddpm.ddpm_grid(SCHEDULE, 10), (1, 200, 200, 1)
    x0 = jnp.full(shape, 0.7, jnp.float32)
    number = jnp.int32(3)
    x = ddpm.forward(SCHEDULE, x0, jnp.int32(grid.times[3]), normal(5, shape))
    after = ddpm.ddim_step(grid, x, x0, number, eta, normal(6, shape))
    level = grid.alphas_cumprod_prev[3]
    assert np.mean(after) == pytest.approx(0.7 * np.sqrt(level), abs=0.02)
    assert np.std(after) == pytest.approx(np.sqrt(1 - level), rel=0.02)


def test_every_step_of_the_sampler_has_its_own_time_and_noise():
    """Against a loop: the denoiser sees the grid's times, and draw k is the noise of step k."""
    grid, eta = ddpm.ddim_grid(SCHEDULE, 5), 0.5

    def clean(x, t):
        return jnp.tanh(x) * (t.astype(jnp.float32) / 1000)

    def draw(number):
        return jax.random.normal(jax.random.fold_in(jax.random.key(7), number), (1, 2, 2, 1), jnp.float32)

    x = normal(8, (1, 2, 2, 1))
    result = ddim(grid, clean, x, eta, draw)
    for number, t in enumerate(grid.times):
        x = ddpm.ddim_step(grid, x, clean(x, jnp.int32(t)), jnp.int32(number), eta, draw(jnp.int32(number + 1)))
    np.testing.assert_allclose(result, x, rtol=1e-5, atol=1e-5)


@hypothesis.given(st.integers(1, 1000), st.sampled_from(ddpm.SPACINGS))
@hypothesis.settings(max_examples=60, deadline=None)
def test_times_descend_within_the_schedule(steps, spacing):
    times = ddpm.sampling_times(SCHEDULE, steps, spacing)
    assert times.shape == (steps,) and times.dtype == np.int64
    assert np.all(np.diff(times) < 0) and times[-1] >= 0 and times[0] <= 999
    if spacing == "trailing" or (spacing == "linspace" and steps > 1):
        assert times[0] == 999


def test_times_of_stable_diffusion():
    np.testing.assert_array_equal(ddpm.ddim_grid(SCHEDULE, 4).times, [751, 501, 251, 1])
    np.testing.assert_array_equal(ddpm.ddim_grid(SCHEDULE, 4, "trailing").times, [999, 749, 499, 249])
    np.testing.assert_array_equal(ddpm.ddim_grid(SCHEDULE, 4, "linspace").times, [999, 666, 333, 0])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ddpm.scaled_linear_schedule(1), "steps is 1: a diffusion process needs at least 2"),
        (lambda: ddpm.cosine_schedule(0), "steps is 0"),
        (lambda: ddpm.scaled_linear_schedule(beta_start=0.02), "beta_start and beta_end are 0.02 and 0.012"),
        (lambda: ddpm.ddim_grid(SCHEDULE, 0), "steps is 0: it must be from 1 to the schedule's 1000 times"),
        (lambda: ddpm.ddim_grid(SCHEDULE, 1001), "steps is 1001"),
        (lambda: ddpm.ddim_grid(SCHEDULE, 4, "even"), "spacing is 'even': it must be one of leading, trailing"),
        (lambda: ddpm.ddim_grid(SCHEDULE, 1000), "offset is 1: with 1000 leading steps .* it must be from 0 to 0"),
        (lambda: ddpm.training_target(SCHEDULE, normal(0), jnp.int32(1), normal(0), "noise"), "epsilon, v, x0"),
        (lambda: ddpm.predicted_x0(RESCALED, normal(0), jnp.int32(1), normal(0)), "zero terminal SNR.* predicts v"),
        (lambda: ddpm.step_coefficients(ddpm.ddpm_grid(SCHEDULE, 4), 1.5), "eta is 1.5: it must be from 0"),
        (lambda: ddim(ddpm.ddpm_grid(SCHEDULE, 4), lambda x, t: x, normal(0), 1.0), "adds noise; pass `noise`"),
    ],
)
def test_settings_out_of_range_are_errors(call, message):
    with pytest.raises(ValueError, match=message):
        call()
