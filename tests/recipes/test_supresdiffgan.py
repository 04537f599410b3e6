"""SupResDiffGAN: both losses against NumPy, gradients of both variants, adaptive noise, samplers, latents, FRAMER."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest

from framer_jax.checkpoints.autoencoder import read_autoencoder
from framer_jax.checkpoints.networks import network_shapes
from framer_jax.checkpoints.open import build_recipe, open_recipe
from framer_jax.commands.precompute.latents import precompute_latents
from framer_jax.commands.precompute.work import Work
from framer_jax.commands.train import train_from_config
from framer_jax.config import ConfigError, load_config, to_dict
from framer_jax.data.latents import HR_LATENT, LR_LATENT
from framer_jax.diffusion.ddpm import cosine_schedule
from framer_jax.diffusion.noise import noise_field, noise_window
from framer_jax.frequency import wavelets
from framer_jax.losses.framer import paper
from framer_jax.models.denoiser import LR_LATENT as LR_CONDITION
from framer_jax.models.pair_discriminator import STATISTICS, PairDiscriminator, StoredPairDiscriminator
from framer_jax.models.supresdiffgan_unet import SupResDiffGanUNet
from framer_jax.porting.weights import load_weights, save_weights
from framer_jax.recipes.base import PIXELS, Tiling, expected_params
from framer_jax.recipes.components.latent_space import upsample_bicubic
from framer_jax.recipes.framer import HEADS, framer
from framer_jax.recipes.method import LATENTS, PHOTOS, TEACHER_OUTPUTS
from framer_jax.recipes.supresdiffgan import METHOD
from tests.support.drawn import drawn
from tests.support.tiny import config, photos, ported, random_weights
from tests.support.training_toys import same

NAME = "recipe.name=supresdiffgan"
STEP, KEY = jnp.int32(0), jax.random.key(3)
UNET = SupResDiffGanUNet(out_channels=48, channels=(8, 16), blocks=1, head_width=8, groups=4)
DISCRIMINATOR = PairDiscriminator(channels=(4, 8))


def section(*changes):
    return config(NAME, *changes)["recipe"]


@functools.cache
def recipe_of(*changes, data=PHOTOS):
    return build_recipe(section(*changes), "training", data)


def batch(count=4, side=4):
    hr = jax.random.uniform(jax.random.key(0), (count, 4 * side, 4 * side, 3), jnp.float32)
    return {"hr": hr, "lr": hr.reshape(count, side, 4, side, 4, 3).mean(axis=(2, 4))}


@functools.cache
def start(average=0.75):
    """Random parameters, and a state whose moving accuracy gives noise at half of all times."""
    recipe = recipe_of()
    return drawn(recipe.init, jax.random.key(0), batch()), {**recipe.init_state(), "accuracy": jnp.float32(average)}


def loss_of(recipe, number=0):
    """(params, state, batch) → loss of an update, compiled."""
    return jax.jit(lambda params, state, data: recipe.updates[number].loss(params, {}, state, data, KEY, STEP))


def encode(image):
    return np.asarray(wavelets.encode(2 * image - 1, CODEC))


CODEC = wavelets.WaveletCodec(levels=2, scale=wavelets.RESIDUAL_SCALE)


def expected(params, state, data):
    """Estimate, clean latent, logits of the true order and changed statistics, with the draws of a loss's key."""
    key_generate, key_discriminate = jax.random.split(KEY)
    key_time, key_noise = jax.random.split(key_generate)
    bar = cosine_schedule(1000).alphas_cumprod
    z_hr, z_lr = encode(data["hr"]), encode(upsample_bicubic(data["lr"], 4))
    t = np.asarray(jax.random.randint(key_time, (4,), 0, 1000, jnp.int32))
    signal, sigma = (np.sqrt(level[t]).reshape(-1, 1, 1, 1) for level in (bar, 1 - bar))
    x = signal * z_hr + sigma * np.asarray(jax.random.normal(key_noise, z_hr.shape, jnp.float32))
    level, condition = bar[t].astype(np.float32), {LR_CONDITION: z_lr}
    estimate = np.asarray(UNET.apply({"params": params["denoiser"]}, x.astype(np.float32), level, condition)[0])
    key_order, key_fake, key_real = jax.random.split(key_discriminate, 3)
    images = []
    for latent, key in ((estimate, key_fake), (z_hr, key_real)):
        noise = np.asarray(jax.random.normal(key, latent.shape, jnp.float32))
        noisy = np.sqrt(bar[500]) * latent + np.sqrt(1 - bar[500]) * noise
        images.append(np.clip(wavelets.decode(noisy.astype(np.float32), CODEC), -1, 1))
    fake, real = images
    second_is_real = np.asarray(jax.random.bernoulli(key_order, 0.5, (4,)))
    assert 0 < second_is_real.sum() < 4, "both orders are drawn"
    swap = second_is_real.reshape(-1, 1, 1, 1)
    variables = {"params": params["discriminator"], STATISTICS: state["discriminator"]}
    pair = np.where(swap, fake, real), np.where(swap, real, fake)
    logits, changed = DISCRIMINATOR.apply(variables, *pair, True, mutable=[STATISTICS])
    return estimate, z_hr, np.asarray(logits, np.float64), second_is_real, changed[STATISTICS]


def cross_entropy(logits, label):
    probability = 1 / (1 + np.exp(-logits))
    return -(label * np.log(probability) + (1 - label) * np.log(1 - probability))


def test_both_losses_against_numpy():
    data, (params, state) = batch(), start()
    estimate, z_hr, logits, order, statistics = expected(params, state, data)
    generator, critic = (loss_of(recipe_of(), number)(params, state, data) for number in (0, 1))
    mse = np.square(estimate - z_hr).mean(axis=(1, 2, 3))
    np.testing.assert_allclose(generator.values, mse + 0.01 * cross_entropy(logits, 1 - order), rtol=1e-4)
    np.testing.assert_allclose(generator.metrics["latent_mse"], mse, rtol=1e-4)
    np.testing.assert_allclose(critic.values, cross_entropy(logits, order), rtol=1e-3)
    right = (logits > 0) == order
    for loss in (generator, critic):
        np.testing.assert_array_equal(loss.metrics["accuracy"], right)
        assert loss.metrics["noise_time"] == 500 and loss.metrics["moving_accuracy"] == 0.75
        assert float(loss.state["accuracy"]) == pytest.approx(0.97 * 0.75 + 0.03 * right.mean(), rel=1e-6)
        jax.tree.map(
            lambda one, two: np.testing.assert_allclose(one, two, rtol=1e-3, atol=1e-5),
            loss.state["discriminator"],
            statistics,
        )
    moved = jax.tree.map(lambda one, two: bool(np.any(one != two)), state["discriminator"], statistics)
    assert all(jax.tree.leaves(moved)), "batch statistics move in both updates"


def test_the_terms_on_images_have_a_gradient_in_the_paper_and_none_in_the_release():
    data, (params, state) = batch(), start()
    gradients, values = {}, {}
    for variant in ("paper", "released"):
        recipe = recipe_of(f"recipe.supresdiffgan.variant={variant}")

        @jax.jit
        def slopes(denoiser, recipe=recipe):
            def adversarial(denoiser):
                loss = recipe.updates[0].loss({**params, "denoiser": denoiser}, {}, state, data, KEY, STEP)
                return loss.metrics["adversarial"].mean(), loss.values

            return jax.grad(adversarial, has_aux=True)(denoiser)

        gradients[variant], values[variant] = slopes(params["denoiser"])
    np.testing.assert_allclose(values["paper"], values["released"], rtol=1e-6)
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(gradients["released"]))
    assert np.abs(gradients["paper"]["conv_out"]["kernel"]).max() > 1e-6
    assert np.abs(gradients["paper"]["conv_in"]["kernel"]).max() > 1e-6


def test_generator_and_discriminator_take_turns():
    recipe = recipe_of()
    assert [(update.name, update.groups, update.every, update.offset) for update in recipe.updates] == [
        ("generator", ("denoiser",), 2, 0),
        ("discriminator", ("discriminator",), 2, 1),
    ]
    assert recipe.exported == ("denoiser",)
    state = recipe.init_state()
    assert set(state) == {"discriminator", "accuracy"} and state["accuracy"] == 0.5
    plain = recipe_of("recipe.supresdiffgan.adversarial_weight=0.0")
    assert [(update.name, update.every) for update in plain.updates] == [("generator", 1)]
    assert plain.init_state() == {} and set(jax.eval_shape(plain.init, KEY, batch())) == {"denoiser"}


def test_both_updates_overfit_one_batch():
    recipe, data = recipe_of("recipe.space.statistics=image"), batch(2)
    params, state = drawn(recipe.init, jax.random.key(0), data), recipe.init_state()

    @jax.jit
    def step(params, state, rate):
        metrics = []
        for update in recipe.updates:

            def mean_loss(trained, update=update, params=params, state=state):
                loss = update.loss({**params, **trained}, {}, state, data, KEY, STEP)
                return loss.values.mean(), loss

            trained = {name: params[name] for name in update.groups}
            gradient, loss = jax.grad(mean_loss, has_aux=True)(trained)
            moved = jax.tree.map(lambda leaf, slope: leaf - rate * jnp.sign(slope), trained, gradient)
            params, state = {**params, **moved}, loss.state
            metrics.append(loss.values.mean())
        return params, state, metrics

    history = []
    for rate in np.linspace(8e-3, 4e-4, 60, dtype=np.float32):
        params, state, metrics = step(params, state, rate)
        history.append(jax.tree.map(float, metrics))
    assert history[-1][0] < 0.6 * history[0][0]
    assert history[-1][1] < 0.7 * history[0][1]
    assert float(state["accuracy"]) > 0.6


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_the_sampler_is_the_released_loop_over_a_shorter_schedule(eta):
    """With ᾱ of a cosine schedule of three steps; the last step returns the estimate."""
    recipe = recipe_of("recipe.supresdiffgan.sampling_steps=3", f"recipe.supresdiffgan.eta={eta}")
    params, lr, field = start()[0], batch(1)["lr"], noise_field(jax.random.key(5), 1)
    schedule = cosine_schedule(3)
    bar, z_lr = schedule.alphas_cumprod, encode(upsample_bicubic(lr, 4))
    before = np.append(1.0, bar[:-1])
    draws = [np.asarray(noise_window(field, number, z_lr.shape[1:])) for number in range(4)]
    x, estimates = draws[0], []
    for number, t in enumerate((2, 1, 0)):
        beta, rest = schedule.betas[t], (1 - before[t]) / (1 - bar[t])
        level = np.asarray([bar[t]], np.float32)
        x0 = UNET.apply({"params": params["denoiser"]}, x.astype(np.float32), level, {LR_CONDITION: z_lr})[0]
        estimates.append(x0 := np.asarray(x0, np.float64))
        if eta:
            mean = np.sqrt(before[t]) * beta / (1 - bar[t]) * x0 + np.sqrt(1 - beta) * rest * x
            x = mean + np.sqrt(rest * beta) * draws[number + 1]
        else:
            x = np.sqrt(rest) * x + (np.sqrt(before[t]) - np.sqrt(rest * bar[t])) * x0
    images = [np.asarray(wavelets.decode(z.astype(np.float32), CODEC)) / 2 + 0.5 for z in (x, *estimates[:2])]
    np.testing.assert_allclose(x, estimates[-1], atol=1e-6)
    sr = jax.jit(recipe.sample)(params, {}, lr, field)
    np.testing.assert_allclose(sr, images[0], atol=2e-4)
    shown = jax.jit(recipe.stepwise.sample, static_argnums=4)(params, {}, lr, field, 1)
    np.testing.assert_allclose(shown, np.concatenate(images, axis=-1), atol=2e-4)
    big = upsample_bicubic(lr, 4)
    tiled = jax.jit(recipe.sample_tiled, static_argnums=4)(params, {}, big, field, Tiling())
    np.testing.assert_allclose(tiled, sr, atol=2e-4)


def test_the_mean_is_one_call_at_the_last_time_of_training():
    params, lr, field = start()[0], batch(1)["lr"], noise_field(jax.random.key(5), 1)
    z_lr, level = encode(upsample_bicubic(lr, 4)), cosine_schedule(1000).alphas_cumprod[-1:].astype(np.float32)
    x = noise_window(field, 0, z_lr.shape[1:])
    estimate = UNET.apply({"params": params["denoiser"]}, x, level, {LR_CONDITION: z_lr})[0]
    mean = jax.jit(recipe_of().mean)(params, {}, lr, field)
    np.testing.assert_allclose(mean, wavelets.decode(estimate, CODEC) / 2 + 0.5, atol=1e-5)


def test_tiles_are_blended_in_each_step():
    recipe, params = recipe_of(), start()[0]
    field, image = noise_field(jax.random.key(5), 1), upsample_bicubic(batch(1, 12)["lr"], 4)
    whole, tiled = (
        jax.jit(recipe.sample_tiled, static_argnums=4)(params, {}, image, field, tiling)
        for tiling in (Tiling(), Tiling(32, 16, 2))
    )
    assert whole.shape == tiled.shape == image.shape and np.isfinite(tiled).all()
    assert 1e-4 < np.abs(whole - tiled).max() < 0.5


def test_precomputed_latents_give_the_losses_of_their_images():
    data, (params, state) = batch(), start()
    latents = {HR_LATENT: encode(data["hr"]), LR_LATENT: encode(upsample_bicubic(data["lr"], 4))}
    recipe = recipe_of(data=LATENTS)
    assert recipe.batch_entries == (HR_LATENT, LR_LATENT) and recipe_of().batch_entries == PIXELS
    for number in (0, 1):
        one, other = loss_of(recipe_of(), number)(params, state, data), loss_of(recipe, number)(params, state, latents)
        np.testing.assert_allclose(one.values, other.values, rtol=1e-4)
    perceptual = section("recipe.supresdiffgan.perceptual_weight=0.001")
    with pytest.raises(ValueError, match=r"set recipe\.supresdiffgan\.perceptual_weight=0, or data\.train to photogr"):
        METHOD.batch_entries(perceptual, LATENTS)
    with pytest.raises(ValueError, match=r"cannot train on teacher: set data\.train to photographs or precomputed lat"):
        METHOD.batch_entries(section(), TEACHER_OUTPUTS)


def saved(workdir, step):
    with ocp.Checkpointer(ocp.StandardCheckpointHandler()) as reader:
        return reader.restore(workdir / "checkpoints" / str(step) / "state")


def test_a_run_on_latents_updates_one_network_a_step(tmp_path):
    """From the command line: latents without texts, which a method without latents refuses."""
    autoencoder = ported(tmp_path / "taesd.safetensors", "taesd")
    changes = [f"data.train={photos(tmp_path / 'photos')}", "data.validation_count=0", "training.best_metric=None"]
    changes = [NAME, *changes, "recipe.space.name=taesd", f"recipe.space.checkpoint={autoencoder}"]
    folder = tmp_path / "latents"
    precompute_latents(config(*changes), read_autoencoder("taesd", autoencoder), folder, Work(8, 8, 8))
    run = train_from_config(config(*changes, f"data.train={folder}"), tmp_path / "run")
    first, second = (saved(tmp_path / "run", step) for step in (1, 2))
    assert run.step == 2
    assert same(first["params"]["denoiser"], second["params"]["denoiser"])
    assert not same(first["params"]["discriminator"], second["params"]["discriminator"])
    for name in ("discriminator", "accuracy"):
        assert not same(first["mutable"][name], second["mutable"][name])
    with pytest.raises(ConfigError, match=r"holds records: recipe\.name resshift cannot train on latents"):
        train_from_config(config(f"data.train={folder}"), tmp_path / "other")


def test_a_description_of_kl_has_the_latents_of_stable_diffusion_2():
    """The published configuration, without the autoencoder's weights: four channels, not version 3's sixteen."""
    recipe = build_recipe(to_dict(load_config("supresdiffgan"))["recipe"], "description")
    kernel = expected_params(recipe)["denoiser"]["conv_out"]["kernel"]
    assert kernel.shape[-1] == 4


def test_the_small_configuration_has_variants_with_framer():
    base, *framed = (
        to_dict(load_config(f"supresdiffgan_taesd_small{name}")) for name in ("", ":framer_0.01", ":framer_0.1")
    )
    assert base["framer"]["variant"] == "none"
    assert [(each["framer"]["variant"], each["framer"]["weight"]) for each in framed] == [
        ("paper", 0.01),
        ("paper", 0.1),
    ]
    for each in framed:
        assert {**each, "framer": {}} == {**base, "framer": {}}
    with pytest.raises(ConfigError, match=r"there is no variant 'framer': choose one of base, framer_0\.01, framer"):
        load_config("supresdiffgan_taesd_small:framer")


def test_framer_extends_the_generators_update_and_leaves_the_sampler():
    recipe, data = recipe_of(), batch()
    framed = framer(recipe, paper())
    assert [HEADS in update.groups for update in framed.updates] == [True, False]
    assert framed.sample is recipe.sample and framed.exported == recipe.exported == ("denoiser",)
    params = jax.eval_shape(framed.init, KEY, data)
    assert set(params[HEADS]) == {f"head_{number}" for number in range(UNET.tap_count - 1)}
    loss = jax.eval_shape(framed.updates[0].loss, params, {}, recipe.init_state(), data, KEY, STEP)
    assert {"framer_term", "base_loss", "adversarial", "latent_mse"} <= loss.metrics.keys()


def test_a_published_discriminator_is_a_start(tmp_path):
    params = random_weights(network_shapes("pair_discriminator", StoredPairDiscriminator(channels=(4, 8))))
    arguments = {"image_channels": 3, "channels": (4, 8)}
    metadata = {"model": "pair_discriminator", "arguments": arguments, "source": {"files": [], "notes": []}}
    save_weights(tmp_path / "d.safetensors", params, metadata)
    checkpoint = f"recipe.supresdiffgan.discriminator_checkpoint={tmp_path}/d.safetensors"
    recipe = recipe_of(checkpoint)
    kernel = recipe.initial_params["discriminator"]["block_1"]["conv"]["kernel"]
    np.testing.assert_array_equal(kernel, params["network"]["block_1"]["conv"]["kernel"])
    variance = recipe.init_state()["discriminator"]["block_1"]["norm"]["variance"]
    np.testing.assert_array_equal(variance, params["statistics"]["block_1"]["norm"]["variance"])
    with pytest.raises(ValueError, match=r"recipe\.supresdiffgan\.discriminator_checkpoint: .*"):
        recipe_of(checkpoint, "recipe.supresdiffgan.discriminator_channels=(8, 8)")


def test_a_published_generator_is_a_model(tmp_path):
    path = ported(tmp_path / "generator.safetensors", "supresdiffgan_unet")
    autoencoder = ported(tmp_path / "taesd.safetensors", "taesd")
    recipe = section("recipe.space.name=taesd", f"recipe.space.checkpoint={autoencoder}")
    opened = open_recipe(path, recipe)
    assert set(opened.params) == {"denoiser"}
    np.testing.assert_array_equal(
        opened.params["denoiser"]["conv_in"]["kernel"], load_weights(path)[0]["conv_in"]["kernel"]
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("variant=publish", r"recipe\.supresdiffgan\.variant"),
        ("sampling_steps=1", r"recipe\.supresdiffgan\.sampling_steps"),
        ("eta=1.5", r"recipe\.supresdiffgan\.eta"),
        ("adversarial_weight=-1.0", r"recipe\.supresdiffgan\.adversarial_weight"),
    ],
)
def test_values_that_a_knob_does_not_take_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        recipe_of(f"recipe.supresdiffgan.{change}")


def test_weights_of_the_perceptual_term_are_needed():
    with pytest.raises(ValueError, match=r"recipe\.vgg19\.checkpoint is empty"):
        recipe_of("recipe.supresdiffgan.perceptual_weight=0.001")
