"""Diffusion processes, samplers, guidance and noise fields."""

import json
from dataclasses import replace

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from framer_jax.diffusion import flow, resshift
from framer_jax.diffusion.guidance import (
    classifier_free_guidance,
    deinterleave,
    guided_prediction,
    interleave,
)
from framer_jax.diffusion.noise import NoiseField, noise_field, noise_window
from framer_jax.diffusion.samplers import (
    flow_estimates,
    flow_euler,
    resshift_ancestral,
    resshift_deterministic,
    resshift_estimates,
)
from framer_jax.recipes.resshift.recipe import schedule_of
from framer_jax.recipes.resshift.settings import ResShiftSettings


@pytest.mark.parametrize("variant", ["v1_T15", "v3_T4", "v1_T15_respaced5"])
def test_resshift_tables_match_the_reference(fixtures, variant):
    case = np.load(fixtures / "resshift_schedule.npz", allow_pickle=False)
    settings = json.loads(str(case["meta"]))["config"]["variants"][variant]
    schedule = resshift.make_schedule(
        steps=settings["steps"],
        min_noise_level=settings["min_noise_level"],
        sampling_steps=settings.get("timestep_respacing"),
    )
    prefix = f"out/{variant}/"
    names = [name.removeprefix(prefix) for name in case.files if name.startswith(prefix)]
    assert len(names) == 12
    # The weight of the x_0 error in the variational bound, which no recipe uses.
    weight_loss_mse = 0.5 / schedule.posterior_variance_clipped * (schedule.alpha / schedule.etas) ** 2
    for name in names:
        value = weight_loss_mse if name == "weight_loss_mse" else getattr(schedule, name)
        np.testing.assert_allclose(value, case[prefix + name], rtol=1e-12, atol=1e-12, err_msg=name)


def test_a_capped_chain_may_be_noisier_than_its_end():
    settings = ResShiftSettings(kappa=0.5, min_noise_level=1.2, sqrt_eta_cap=0.0316)
    np.testing.assert_allclose(schedule_of(settings).sqrt_etas[[0, -1]], (0.0316, 0.99))
    for cap in (None, 0.995):
        with pytest.raises(
            ValueError, match=rf"min_noise_level is 1\.2: .* sqrt_eta_cap {cap} .* below etas_end \(0.99"
        ):
            ResShiftSettings(kappa=0.5, min_noise_level=1.2, sqrt_eta_cap=cap)


@pytest.mark.parametrize("changes", [{"steps": 1}, {"sampling_steps": 1}, {"sampling_steps": 16}])
def test_resshift_step_counts_out_of_range_are_errors(changes):
    with pytest.raises(ValueError, match="steps"):
        resshift.make_schedule(**changes)


def test_the_cap_of_sinsr_lowers_the_start_of_noisy_chains_only():
    """√η of SinSR's code: geometric in the warped time, from min(level / kappa, level, √0.001)."""
    cap = resshift.SINSR_SQRT_ETA_CAP
    for level, start in ((0.04, 0.02), (0.2, 0.001**0.5)):
        schedule = resshift.make_schedule(steps=4, min_noise_level=level, sqrt_eta_cap=cap)
        exponents = np.linspace(0, 1, 4) ** 0.3
        np.testing.assert_allclose(schedule.sqrt_etas, start * (0.99 / start) ** exponents, rtol=1e-12)
    settings = ResShiftSettings(steps=4, kappa=2.0, min_noise_level=0.2, sqrt_eta_cap=0.0316)
    assert schedule_of(settings).sqrt_etas[0] == 0.0316
    assert schedule_of(replace(settings, sqrt_eta_cap=None)).sqrt_etas[0] == 0.1


def test_resshift_sampler_with_a_perfect_denoiser_returns_the_clean_latent():
    schedule = resshift.make_schedule(steps=4, min_noise_level=0.2)
    key = jax.random.key(0)
    x0 = jax.random.normal(key, (2, 4, 4, 3))
    result = resshift_ancestral(
        schedule, lambda x, index: x0, x0 + 1.0, lambda k: jax.random.normal(jax.random.fold_in(key, k), x0.shape)
    )
    np.testing.assert_array_equal(result, x0)


def test_resshift_posterior_preserves_the_marginal():
    """Forward to t, then a posterior step with the true x_0, has the distribution of forward to t - 1."""
    schedule = resshift.make_schedule(steps=6)
    keys = jax.random.split(jax.random.key(1), 2)
    shape = (1, 200, 200, 1)
    x0, y = jnp.full(shape, 0.3, jnp.float32), jnp.full(shape, -0.5, jnp.float32)
    index = jnp.int32(4)
    x = resshift.forward(schedule, x0, y, jnp.full((1,), index), jax.random.normal(keys[0], shape))
    before = resshift.posterior_step(schedule, x, x0, index, jax.random.normal(keys[1], shape))
    eta = schedule.etas[3]
    assert np.mean(before) == pytest.approx(0.3 + eta * -0.8, abs=0.02)
    assert np.std(before) == pytest.approx(schedule.kappa * np.sqrt(eta), rel=0.02)


def test_the_prior_is_the_forward_process_from_the_lr_latent_to_the_last_step():
    schedule = resshift.make_schedule(steps=4, min_noise_level=0.2)
    y, noise = (jax.random.normal(key, (1, 4, 4, 3)) for key in jax.random.split(jax.random.key(2)))
    last = resshift.forward(schedule, y, y, jnp.asarray([3]), noise)
    np.testing.assert_allclose(resshift.prior(schedule, y, noise), last, rtol=1e-6)


def deterministic_inverse(schedule, x, x0, y, index):
    """x_t from x_{t-1}, the inverse of `resshift.deterministic_step` for index > 0."""
    k, m, j = (resshift.at(table, index, x) for table in resshift.deterministic_coefficients(schedule))
    return (x - k * x0 - j * y) / m


def test_deterministic_step_keeps_the_noise_and_is_invertible():
    schedule = resshift.make_schedule()
    keys = jax.random.split(jax.random.key(5), 3)
    x0, y, noise = (jax.random.normal(key, (2, 4, 4, 3)) for key in keys)
    k, m, j = resshift.deterministic_coefficients(schedule)
    np.testing.assert_allclose(k + m + j, 1.0, rtol=1e-12)
    assert (k[0], m[0], j[0]) == (1.0, 0.0, 0.0)
    index = jnp.asarray([14, 1], jnp.int32)
    x = resshift.forward(schedule, x0, y, index, noise)
    before = resshift.deterministic_step(schedule, x, x0, y, index)
    np.testing.assert_allclose(before, resshift.forward(schedule, x0, y, index - 1, noise), atol=1e-5)
    np.testing.assert_allclose(deterministic_inverse(schedule, before, x0, y, index), x, atol=1e-5)


def test_deterministic_sampler_of_a_perfect_denoiser_follows_the_forward_process():
    schedule = resshift.make_schedule(steps=4, min_noise_level=0.2)
    keys = jax.random.split(jax.random.key(6), 3)
    x0, y, noise = (jax.random.normal(key, (1, 4, 4, 3)) for key in keys)
    start = resshift.forward(schedule, x0, y, jnp.asarray([3]), noise)
    # At index 0 the denoiser returns its input, so that the result is the last x of the trajectory.
    last = resshift_deterministic(schedule, lambda x, index: jnp.where(index > 0, x0, x), y, start)
    np.testing.assert_allclose(last, resshift.forward(schedule, x0, y, jnp.asarray([0]), noise), atol=1e-5)


def test_flow_tables_and_steps_match_the_reference(fixtures):
    case = np.load(fixtures / "schedulers.npz", allow_pickle=False)
    tolerance = json.loads(str(case["meta"]))["float32_vs_float64"]

    def check(name, value):
        assert np.abs(np.asarray(value) - case[name]).max() <= tolerance[name]["atol"], name

    check("out/fm_train_sigmas", flow.training_sigmas())
    check("out/fm_train_timesteps", flow.training_sigmas() * flow.TRAINING_STEPS)
    noise = jnp.asarray(case["in/n"])
    for steps in (28, 40, 50):
        sigmas = flow.sampling_sigmas(steps)
        check(f"out/fm{steps}_sigmas", sigmas)
        check(f"out/fm{steps}_timesteps", sigmas[:-1] * flow.TRAINING_STEPS)
        three = flow_euler(sigmas[:4], lambda x, sigma: noise, jnp.asarray(case["in/x"]))
        check(f"out/fm{steps}_3steps_constant_v", three)


def test_flow_of_the_true_velocity_ends_at_the_clean_latent():
    keys = jax.random.split(jax.random.key(2), 2)
    x0, noise = (jax.random.normal(key, (2, 4, 4, 3)) for key in keys)
    end = flow_euler(flow.sampling_sigmas(5), lambda x, sigma: flow.velocity(x0, noise), noise)
    np.testing.assert_allclose(end, x0, atol=1e-5)
    sigma = jnp.asarray([0.3, 0.9], jnp.float32)
    x = flow.forward(x0, sigma, noise)
    np.testing.assert_allclose(flow.x0_from_velocity(x, flow.velocity(x0, noise), sigma), x0, atol=1e-6)


@pytest.mark.parametrize("timestep_sampling", flow.TIMESTEP_SAMPLINGS)
def test_drawn_sigmas_come_from_the_table(timestep_sampling):
    sigmas = flow.draw_sigma(jax.random.key(0), 2000, timestep_sampling)
    assert np.isin(np.asarray(sigmas), flow.training_sigmas().astype(np.float32)).all()
    if timestep_sampling == "uniform":  # the shifted median
        assert np.median(sigmas) == pytest.approx(0.75, abs=0.03)


def test_densities_of_timesteps_are_those_of_the_paper():
    """Compared with the inverse distribution functions, or their quantiles, at the same uniform draws."""
    key, count = jax.random.key(7), 20_000
    u = np.asarray(flow.draw_position(key, count, "uniform"), np.float64)
    cosmap = np.asarray(flow.draw_position(key, count, "cosmap"))
    # Its density 2 / (π - 2 π t + 2 π t²) has the distribution function below (Section 3.1).
    np.testing.assert_allclose(2 / np.pi * np.arctan2(cosmap, 1 - cosmap), u, atol=2e-6)
    np.testing.assert_allclose(flow.draw_position(key, count, "mode", mode_scale=0.0), 1 - u, atol=1e-6)
    mode = np.sort(flow.draw_position(key, count, "mode"))
    assert mode[0] >= 0 and mode[-1] <= 1
    assert np.ptp(mode[[count // 4, 3 * count // 4]]) < 0.35  # uniform: 0.5
    logit = np.asarray(flow.draw_position(key, count, "logit_normal", logit_mean=0.5, logit_std=2.0), np.float64)
    normal = np.log(logit / (1 - logit))
    assert (np.mean(normal), np.std(normal)) == (pytest.approx(0.5, abs=0.05), pytest.approx(2.0, rel=0.02))
    sigmas = flow.draw_sigma(key, count, "logit_normal", logit_mean=-4.0)
    assert np.mean(sigmas) > np.mean(flow.draw_sigma(key, count)) + 0.2  # the table begins at its noisy end


@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("scale", [0.0, 1.0, 8.0])
def test_guided_steps_are_those_of_the_combined_velocity(scale, interleaved):
    keys = jax.random.split(jax.random.key(9), 3)
    start, pull, text = (jax.random.normal(key, (2, 4, 4, 3)) for key in keys)
    sigmas = flow.sampling_sigmas(4)
    prompt = {"text": text, "strength": jnp.asarray([1.0, 2.0])}
    empty = jax.tree.map(jnp.zeros_like, prompt)

    def network(x, direction, condition):
        """An attraction to zero, and with a prompt, to another point."""
        assert x.shape == direction.shape == condition["text"].shape == (4, 4, 4, 3)
        return x + direction * condition["text"] * condition["strength"][:, None, None, None]

    def velocity(x, sigma):
        return sigma * guided_prediction(network, (x, pull), prompt, empty, scale, interleaved)

    def combined(x, sigma):
        return sigma * (x + scale * pull * text * prompt["strength"][:, None, None, None])

    np.testing.assert_allclose(flow_euler(sigmas, velocity, start), flow_euler(sigmas, combined, start), atol=2e-5)


def test_guidance_extrapolates_from_the_unconditional_prediction():
    first, second = (jax.random.normal(key, (2, 4, 4, 3)) for key in jax.random.split(jax.random.key(9), 2))
    np.testing.assert_allclose(classifier_free_guidance(first, second, 0.0), first, atol=1e-6)
    np.testing.assert_allclose(classifier_free_guidance(first, second, 1.0), second, atol=1e-6)
    np.testing.assert_allclose(classifier_free_guidance(first, second, 8.0), 8 * second - 7 * first, atol=1e-5)


def test_interleaved_examples_are_next_to_each_other():
    arrays = [number + 10 * jnp.arange(3)[:, None] for number in range(2)]
    joined = interleave(*arrays)
    np.testing.assert_array_equal(joined[:, 0], [0, 1, 10, 11, 20, 21])
    for array, back in zip(arrays, deinterleave(joined, 2), strict=True):
        np.testing.assert_array_equal(array, back)


def test_unknown_timestep_sampling_is_an_error():
    with pytest.raises(ValueError, match="logit_normal"):
        flow.draw_sigma(jax.random.key(0), 1, "normal")


compiled_window = jax.jit(noise_window, static_argnums=(1, 2))


@hypothesis.given(
    row=st.integers(0, 70), column=st.integers(0, 70), size=st.sampled_from([(1, 40), (33, 16), (17, 1), (31, 32)])
)
@hypothesis.settings(deadline=None, max_examples=20)
def test_noise_is_a_function_of_the_position(row, column, size):
    height, width = size
    whole = noise_field(jax.random.key(3), 1)
    canvas = compiled_window(whole, 2, (120, 120, 2))
    part = NoiseField(whole.key, jnp.asarray([[row, column]], jnp.int32))
    crop = compiled_window(part, 2, (height, width, 2))
    np.testing.assert_array_equal(crop, canvas[:, row : row + height, column : column + width])


def test_noise_is_standard_normal_and_differs_by_draw_and_image():
    field = noise_field(jax.random.key(4), 2)
    first, second = (compiled_window(field, draw, (64, 64, 8)) for draw in (0, 1))
    assert np.mean(first) == pytest.approx(0.0, abs=0.02)
    assert np.std(first) == pytest.approx(1.0, abs=0.02)
    assert abs(np.corrcoef(np.ravel(first), np.ravel(second))[0, 1]) < 0.02
    assert abs(np.corrcoef(np.ravel(first[0]), np.ravel(first[1]))[0, 1]) < 0.02


def test_the_estimates_of_the_steps_belong_to_the_same_result():
    """A perfect denoiser estimates the clean latent in every step; any other one gives the plain sampler's result."""
    x0, start = (jax.random.normal(jax.random.key(seed), (2, 4, 4, 3), jnp.float32) for seed in (0, 1))
    sigmas = flow.sampling_sigmas(4)
    end, estimates = flow_estimates(sigmas, lambda x, sigma: (x - x0) / sigma, start)
    assert estimates.shape == (3, *x0.shape)
    np.testing.assert_allclose(estimates, jnp.broadcast_to(x0, estimates.shape), atol=1e-5)
    np.testing.assert_allclose(end, x0, atol=1e-5)

    def velocity(x, sigma):
        return jnp.sin(3 * x) + sigma

    kept, plain = flow_estimates(sigmas, velocity, start)[0], flow_euler(sigmas, velocity, start)
    np.testing.assert_allclose(kept, plain, atol=1e-6)
    schedule = resshift.make_schedule(4)

    def draw(number):
        return jax.random.normal(jax.random.fold_in(jax.random.key(2), number), x0.shape, jnp.float32)

    def denoise(x, index):
        return jnp.tanh(x) + index.astype(jnp.float32)

    result, estimates = resshift_estimates(schedule, denoise, start, draw)
    np.testing.assert_allclose(result, resshift_ancestral(schedule, denoise, start, draw), atol=1e-6)
    assert estimates.shape == (3, *x0.shape)
    np.testing.assert_allclose(estimates[0], denoise(resshift.prior(schedule, start, draw(0)), jnp.int32(3)), atol=1e-5)


def test_every_cell_is_drawn_with_the_key_of_its_place():
    """A seed means the same noise in later versions: key ← draw ← row of the cell ← column of the cell."""
    canvas = jax.random.split(jax.random.key(3), 2)[1]
    window = noise_window(NoiseField(canvas[None], jnp.array([[16, 0]], jnp.int32)), 5, (16, 48, 2))[0]
    for column in range(3):
        key = canvas
        for number in (5, 1, column):
            key = jax.random.fold_in(key, number)
        expected = jax.random.normal(key, (16, 16, 2), jnp.float32)
        np.testing.assert_array_equal(window[:, 16 * column : 16 * (column + 1)], expected)


def test_every_entry_of_the_table_is_drawn():
    drawn = flow.draw_sigma(jax.random.key(0), 40_000, "uniform")
    np.testing.assert_array_equal(np.unique(np.asarray(drawn)), np.unique(flow.training_sigmas().astype(np.float32)))


def test_defaults_of_the_training_times_are_those_of_stable_diffusion_3():
    key = jax.random.key(1)
    settings = {"shift": 3.0, "logit_mean": 0.0, "logit_std": 1.0, "mode_scale": 1.29}
    for timestep_sampling in flow.TIMESTEP_SAMPLINGS:
        explicit = flow.draw_sigma(key, 500, timestep_sampling, **settings)
        np.testing.assert_array_equal(flow.draw_sigma(key, 500, timestep_sampling), explicit)
    np.testing.assert_array_equal(flow.draw_sigma(key, 500), flow.draw_sigma(key, 500, "logit_normal"))
