import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from framer_jax.checkpoints.open import build_recipe
from framer_jax.config import default, shipped, to_dict
from framer_jax.diffusion.noise import NoiseField, noise_field
from framer_jax.diffusion.samplers import resshift_ancestral
from framer_jax.frequency import wavelets
from framer_jax.losses.framer import paper, released
from framer_jax.losses.latent import channel_weights
from framer_jax.recipes.base import Recipe
from framer_jax.recipes.components.latent_space import PREVIEW, LatentTask, upsample_bicubic, wavelet_space
from framer_jax.recipes.framer import HEADS, add_framer, apply_heads, framer, init_heads
from framer_jax.recipes.resshift.recipe import resshift, schedule_of
from framer_jax.recipes.resshift.settings import ResShiftSettings
from tests.support.drawn import drawn

STEP = jnp.int32(0)


def config(name="resshift", denoiser="unet", **changes):
    settings = to_dict(default(name))["recipe"]
    settings["denoiser"] = {
        "name": denoiser,
        "unet": {"channels": [8, 12], "blocks": 1, "condition_blocks": 1, "time_width": 8},
        "dit": {"width": 16, "depth": 3, "heads": 2, "patch": 2, "taps": "hidden"},
    }
    for path, value in changes.items():
        node = settings
        *parents, last = path.split("__")
        for parent in parents:
            node = node[parent]
        node[last] = value
    return settings


def batch(count=4, side=32):
    key = jax.random.key(0)
    hr = jax.random.uniform(key, (count, side, side, 3), jnp.float32)
    lr = hr.reshape(count, side // 4, 4, side // 4, 4, 3).mean(axis=(2, 4))
    return {"hr": hr, "lr": lr}


def initialised(recipe, data, spread=0.05):
    return drawn(recipe.init, jax.random.key(1), data, spread=spread)


def mean_of(recipe, params, lr, noise):
    return jax.jit(recipe.mean)(params, recipe.frozen, lr, noise)


def loss_of(recipe, params, data, key=3, step=STEP):
    return jax.jit(recipe.updates[0].loss)(params, recipe.frozen, {}, data, jax.random.key(key), step)


BASES = [("resshift", "unet"), ("resshift", "dit"), ("rectified_flow", "unet"), ("rectified_flow", "dit")]


@pytest.mark.parametrize(("name", "denoiser"), BASES)
def test_bases_train_and_sample(name, denoiser):
    recipe, data = build_recipe(config(name, denoiser)), batch()
    params = initialised(recipe, data)

    def mean_loss(params):
        loss = recipe.updates[0].loss(params, recipe.frozen, {}, data, jax.random.key(3), STEP)
        return loss.values.mean(), loss

    gradient, loss = jax.jit(jax.grad(mean_loss, has_aux=True))(params)
    assert loss.values.shape == (4,)
    assert loss.values.dtype == jnp.float32
    assert len(loss.taps) == 3
    for path, leaf in jax.tree.leaves_with_path(gradient):
        assert np.all(np.isfinite(leaf)), jax.tree_util.keystr(path)
        assert np.any(leaf), jax.tree_util.keystr(path)
    noise = noise_field(jax.random.key(4), 4)
    results = jax.jit(lambda *arguments: [recipe.sample(*arguments), recipe.mean(*arguments)])
    for sr in results(params, recipe.frozen, data["lr"], noise):
        assert sr.shape == (4, 32, 32, 3)
        assert np.all(np.isfinite(sr))


@pytest.mark.parametrize("name", ["resshift", "rectified_flow"])
def test_an_untrained_residual_recipe_returns_the_upsampled_image(name):
    """The head starts at zero: the first image is bicubic, or bicubic plus noise that a velocity of 0 leaves."""
    recipe, data = build_recipe(config(name)), batch()
    params = jax.jit(recipe.init)(jax.random.key(1), data)
    if name == "resshift":
        sr = mean_of(recipe, params, data["lr"], noise_field(jax.random.key(4), 4))
        np.testing.assert_allclose(sr, upsample_bicubic(data["lr"], 4), atol=2e-5)
    else:
        field = noise_field(jax.random.key(4), 4)
        sr = mean_of(recipe, params, data["lr"], field)
        assert np.std(sr - upsample_bicubic(data["lr"], 4)) > 0.05
        task = LatentTask(wavelet_space(wavelets.WaveletCodec(scale=wavelets.RESIDUAL_SCALE)), 4, residual=True)
        z_lr, _ = task.encode_lr({}, data["lr"])
        np.testing.assert_allclose(sr, task.decode({}, task.noise(z_lr, field), z_lr), atol=2e-5)


def test_resshift_loss_is_the_weighted_latent_error():
    """With a zero prediction the residual chain's loss is the weighted power of the residual itself."""
    recipe, data = build_recipe(config(resshift__channel_weight_power=1.0)), batch()
    params = jax.jit(recipe.init)(jax.random.key(1), data)
    space = wavelet_space(wavelets.WaveletCodec(scale=wavelets.RESIDUAL_SCALE))
    residual, _, _ = LatentTask(space, 4, residual=True).training_pair({}, data)
    weights = channel_weights(space.channel_scale, 1.0)
    assert weights.mean() == pytest.approx(1.0, rel=1e-6)
    expected = (np.square(residual) * weights).mean(axis=(1, 2, 3))
    np.testing.assert_allclose(loss_of(recipe, params, data).values, expected, rtol=1e-5)
    np.testing.assert_allclose(channel_weights(space.channel_scale, 0.0), 1.0)


def test_paper_form_of_resshift_predicts_the_latent_itself():
    settings = config(resshift__residual=False, resshift__kappa=2.0, space__statistics="image")
    recipe, data = build_recipe(settings), batch()
    params = jax.jit(recipe.init)(jax.random.key(1), data)
    sr = mean_of(recipe, params, data["lr"], noise_field(jax.random.key(4), 4))
    np.testing.assert_allclose(sr, 0.5, atol=1e-6)  # the zero latent


def test_every_nth_estimate_is_decoded_next_to_the_result() -> None:
    """After 2 and 4 of 5 steps; the decoder of previews decodes them alone, and z_lr is added to each of them."""
    codec = wavelet_space(wavelets.WaveletCodec(levels=2))
    space = dataclasses.replace(codec, decode=lambda frozen, latent: latent * frozen.get(PREVIEW, 1.0))
    x0, z_lr = (jnp.full((1, 2, 2, 3), value, jnp.float32) for value in (5.0, 0.5))
    estimates = jnp.stack([jnp.full_like(x0, value) for value in (1.0, 2.0, 3.0, 4.0)])
    images = LatentTask(space, 4, residual=True).decode_with_previews({PREVIEW: 10.0}, x0, z_lr, estimates, every=2)
    decoded = np.repeat([5.5, 25.0, 45.0], 3)  # in [-1, 1]
    np.testing.assert_allclose(images, np.broadcast_to(0.5 * decoded + 0.5, (1, 2, 2, 9)), rtol=1e-6)


def test_only_a_sampler_of_several_steps_has_estimates_to_show() -> None:
    one, two = (build_recipe(config("rectified_flow", rectified_flow__sampling_steps=steps)) for steps in (1, 2))
    assert one.stepwise is None
    assert two.stepwise is not None and two.stepwise.steps == 2


def test_last_step_probability_one_trains_only_the_last_index():
    data = batch(count=16)
    recipe = build_recipe(config(resshift__last_step_probability=1.0))
    params = initialised(recipe, data)
    one = loss_of(recipe, params, data).metrics["latent_mse"]
    two = loss_of(build_recipe(config(resshift__last_step_probability=0.0)), params, data).metrics["latent_mse"]
    assert not np.allclose(one, two)


def watched() -> tuple[Any, list[tuple[jax.Array, jax.Array]]]:
    """A denoiser that returns its input times its parameter 'factor', and the (input, time) of its calls."""
    seen = []

    class Watched(nn.Module):
        taps: str = "hidden"
        size_multiple: int = 1

        @nn.compact
        def __call__(self, x: jax.Array, t: jax.Array, condition: Any) -> tuple[jax.Array, tuple[jax.Array, ...]]:
            seen.append((x, t))
            return x * self.param("factor", nn.initializers.ones, ()), (x,)

    return Watched(), seen


@pytest.mark.parametrize(("residual", "mean_share"), [(True, 0.0), (False, 0.0), (True, 0.3), (False, 1.0)])
def test_resshift_starts_from_the_latent_of_the_lr_image_or_from_zero(residual: bool, mean_share: float) -> None:
    """The one-step mean, by default without noise, and the sampler; the chain of residuals starts from zero.

    The sampler's image is interpolated with the mean.
    """
    settings = ResShiftSettings(residual=residual, mean_share=mean_share)
    space = wavelet_space(wavelets.WaveletCodec(levels=2))
    recipe, task = resshift(watched()[0], space, 4, settings), LatentTask(space, 4, residual)
    schedule, params = schedule_of(settings), {"denoiser": {"factor": jnp.float32(0.5)}}
    std, mean, stepwise = jnp.asarray(schedule.input_std, jnp.float32), recipe.mean, recipe.stepwise
    assert mean is not None and stepwise is not None

    @jax.jit
    def results_and_expected(lr: jax.Array, noise: NoiseField) -> tuple[tuple[jax.Array, ...], tuple[jax.Array, ...]]:
        z_lr, _ = task.encode_lr({}, lr)
        y = jnp.zeros_like(z_lr) if residual else z_lr
        latent = resshift_ancestral(
            schedule, lambda x, index: 0.5 * x / std[index], y, lambda number: task.noise(y, noise, number)
        )
        one_step = 0.5 * y / std[-1]
        latent = (1 - mean_share) * latent + mean_share * one_step
        with_previews = stepwise.sample(params, {}, lr, noise, 2)[..., :3]
        results = mean(params, {}, lr, noise), recipe.sample(params, {}, lr, noise), with_previews
        return results, tuple(task.decode({}, x0, z_lr) for x0 in (one_step, latent, latent))

    results, expected = results_and_expected(batch(count=1)["lr"], noise_field(jax.random.key(4), 1))
    for result, image in zip(results, expected, strict=True):
        np.testing.assert_allclose(result, image, atol=1e-5)


def test_centred_examples_start_from_the_prior_without_a_trace_of_the_answer():
    """The network sees the zeros that the one-step mean starts from; other indices are left alone."""
    denoiser, seen = watched()
    for share, last in ((1.0, 1.0), (1.0, 0.0), (0.0, 1.0)):
        settings = ResShiftSettings(
            steps=3,
            kappa=2.0,
            min_noise_level=0.04,
            residual=True,
            last_step_probability=last,
            centred_probability=share,
            centred_mean=True,
        )
        recipe = resshift(denoiser, wavelet_space(wavelets.WaveletCodec(levels=2)), 4, settings)
        params = {"denoiser": {"factor": jnp.float32(1)}}
        recipe.updates[0].loss(params, {}, {}, batch(count=16), jax.random.key(0), jnp.int32(0))
        x, t = seen.pop()
        centred = np.asarray([not np.any(part) for part in x])
        np.testing.assert_array_equal(centred, (np.asarray(t) == 2) & (share == 1))
        assert len(set(np.asarray(t).tolist())) == (1 if last else 3)


@pytest.mark.parametrize(("name", "denoiser"), BASES)
def test_tiles_of_a_canvas_equal_the_whole_in_the_interior_only_for_local_denoisers(name, denoiser):
    """Noise follows the position, so a U-Net's tile agrees with the whole image away from the tile's edge."""
    steps = {"resshift": {"resshift__steps": 2}, "rectified_flow": {"rectified_flow__sampling_steps": 1}}
    recipe = build_recipe(config(name, denoiser, **steps[name]))
    lr = jax.random.uniform(jax.random.key(5), (1, 64, 8, 3), jnp.float32)
    params = initialised(recipe, {"hr": jnp.zeros((1, 256, 32, 3)), "lr": lr}, spread=0.02)
    field = noise_field(jax.random.key(6), 1)
    part, there = lr[:, 32:], NoiseField(field.key, jnp.asarray([[32, 0]], jnp.int32))
    if denoiser == "unet":
        whole, tile = mean_of(recipe, params, lr, field), mean_of(recipe, params, part, there)
        np.testing.assert_allclose(tile[:, 80:], whole[:, 208:], atol=1e-4)
    else:
        assert jax.eval_shape(recipe.mean, params, {}, part, there).shape == (1, 128, 32, 3)


def test_framer_leaves_sampling_untouched_and_adds_its_term():
    base, data = build_recipe(config()), batch()
    framed = framer(base, paper())
    assert framed.sample is base.sample
    assert framed.mean is base.mean
    assert framed.exported == base.exported
    assert framed.updates[0].groups == ("denoiser", HEADS)
    params = initialised(framed, data)
    with_term = loss_of(framed, params, data)
    plain = loss_of(base, params, data)
    np.testing.assert_allclose(with_term.metrics["base_loss"], plain.values, rtol=1e-6)
    np.testing.assert_allclose(with_term.values, plain.values + with_term.metrics["framer_term"], rtol=1e-6)
    assert np.all(with_term.metrics["framer_term"] > 0)
    ratio = with_term.metrics["framer_term"].mean() / plain.values.mean()
    assert with_term.metrics["framer_ratio"] == pytest.approx(float(ratio), rel=1e-5)


def test_framer_trains_the_heads_and_the_denoiser():
    # without FAM, whose alignment is 0 for a layer whose cosine happens to start below zero
    framed, data = framer(build_recipe(config()), paper(fam=False)), batch()
    params = initialised(framed, data)

    def term(params):
        return framed.updates[0].loss(params, {}, {}, data, jax.random.key(3), STEP).metrics["framer_term"].mean()

    gradient = jax.jit(jax.grad(term))(params)
    assert all(np.any(leaf) for leaf in jax.tree.leaves(gradient[HEADS]))
    assert np.any(gradient["denoiser"]["down_0_block_0"]["conv_0"]["kernel"])
    # the teacher is a constant and the head of the denoiser is beyond it
    assert not np.any(gradient["denoiser"]["conv_out"]["kernel"])


def test_framer_needs_no_heads_where_taps_agree():
    framed, data = framer(build_recipe(config(denoiser="dit")), paper()), batch()
    params = initialised(framed, data)
    assert params[HEADS] == {}
    metrics = loss_of(framed, params, data).metrics
    assert {f"framer_cosine_high/{layer}" for layer in range(2)} <= set(metrics)


def test_released_variant_takes_the_output_as_a_further_teacher():
    settings = config("rectified_flow", "dit", denoiser__dit__taps="prediction")
    settings["denoiser"]["dit"]["taps"] = "prediction"
    framed, data = framer(build_recipe(settings), released()), batch()
    metrics = loss_of(framed, initialised(framed, data), data).metrics
    assert "framer_cosine_high/2" in metrics  # three blocks, all of them students
    assert metrics["framer_cosine_high/2"] == pytest.approx(1.0, abs=1e-5)  # the last one equals the output
    assert metrics["framer_weight_low/2"] == pytest.approx(1.0, abs=1e-5)


def test_a_middle_teacher_has_no_head_and_the_others_are_mapped_to_it():
    framed, data = framer(build_recipe(config()), paper(teacher="middle", fam=False)), batch()
    params = initialised(framed, data)
    assert set(params[HEADS]) == {"head_0", "head_2"}
    assert params[HEADS]["head_2"]["kernel"].shape == (8, 12)

    def term(params):
        return framed.updates[0].loss(params, {}, {}, data, jax.random.key(3), STEP).metrics["framer_term"].mean()

    assert all(np.any(leaf) for leaf in jax.tree.leaves(jax.jit(jax.grad(term))(params)[HEADS]))


def test_variants_that_a_denoiser_cannot_serve_are_errors():
    with pytest.raises(ValueError, match="taps=prediction"):
        framer(build_recipe(config()), released())
    with pytest.raises(ValueError, match="use last or middle"):
        jax.eval_shape(framer(build_recipe(config()), paper(teacher="next")).init, jax.random.key(0), batch())


def test_framer_weight_follows_its_schedule():
    framed, data = framer(build_recipe(config()), paper(start_step=10, ramp_steps=10)), batch()
    params = initialised(framed, data)
    terms = [float(loss_of(framed, params, data, step=jnp.int32(k)).metrics["framer_term"].mean()) for k in (9, 15, 20)]
    assert terms[0] == 0.0
    assert terms[1] == pytest.approx(terms[2] / 2, rel=1e-5)


def test_framer_without_an_objective_is_the_recipe_itself():
    base = build_recipe(config())
    assert framer(base, paper(objective="none")) is base
    assert add_framer(base, to_dict(default())["framer"]) is base


def test_framer_errors():
    base = build_recipe(config())
    with pytest.raises(ValueError, match="no update 'critic': choose from denoiser"):
        framer(base, paper(), updates=("critic",))
    tapless = dataclasses.replace(
        base.updates[0], loss=lambda *arguments: base.updates[0].loss(*arguments)._replace(taps=())
    )
    with pytest.raises(ValueError, match="at least two taps"):
        jax.eval_shape(framer(dataclasses.replace(base, updates=(tapless,)), paper()).init, jax.random.key(0), batch())


def test_heads_map_to_the_teachers_shape():
    shapes = ((2, 8, 8, 4), (2, 4, 4, 6), (2, 8, 8, 5))
    heads = init_heads(jax.random.key(0), shapes, 2)
    assert set(heads) == {"head_0", "head_1"}
    mapped = apply_heads(heads, tuple(jnp.ones(shape) for shape in shapes), 2)
    assert [tap.shape for tap in mapped] == [(2, 8, 8, 5)] * 3
    np.testing.assert_allclose(mapped[1][0, 3, 3], heads["head_1"]["kernel"].sum(axis=0), rtol=1e-5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "sinssr"}, r"unknown method recipe\.name 'sinssr': did you mean 'sinsr'"),
        ({"denoiser__name": "mlp"}, r"recipe\.denoiser\.name unet or dit or resshift_unet, not mlp"),
        ({"space__name": "vae"}, r"recipe\.space\.name is 'vae': .* wavelet, vq_f4, kl"),
        ({"space__statistics": "none"}, r"recipe\.space\.statistics is 'none': .* image, residual"),
        ({"dtype": "int8"}, r"recipe\.dtype is 'int8': .* float32, bfloat16"),
    ],
)
def test_unknown_names_are_errors_that_name_the_known_ones(changes, message):
    settings = config(**{name: value for name, value in changes.items() if name != "name"})
    with pytest.raises(ValueError, match=message):
        build_recipe({**settings, "name": changes.get("name", "resshift")})


def test_unknown_framer_values_are_errors():
    settings = to_dict(default())["framer"]
    base = build_recipe(config())
    with pytest.raises(ValueError, match="paper, released"):
        add_framer(base, settings | {"variant": "blog"})
    with pytest.raises(ValueError, match=r"framer\.negatives"):
        add_framer(base, settings | {"variant": "paper", "negatives": "all"})


def test_the_published_model_has_the_papers_chain():
    settings = shipped("resshift_v1").recipe.resshift
    assert (settings.steps, settings.kappa, settings.min_noise_level, settings.residual) == (15, 2.0, 0.04, False)


def test_a_recipe_needs_an_update():
    with pytest.raises(ValueError, match="no update"):
        Recipe(name="empty", scale=4, init=lambda key, batch: {}, updates=(), sample=lambda *arguments: arguments[2])
