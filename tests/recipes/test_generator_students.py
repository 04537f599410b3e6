"""RRDBNet and SRVGG wherever SwinIR is: students of every method, teachers, FRAMER, published weights as a start."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from framer_jax.checkpoints.open import build_recipe
from framer_jax.commands.train import initial_weights
from framer_jax.diffusion.noise import noise_field
from framer_jax.losses.framer import paper
from framer_jax.recipes.augkd.recipe import CORNER, ENTRIES
from framer_jax.recipes.base import expected_params
from framer_jax.recipes.components.networks import NETWORKS
from framer_jax.recipes.components.one_pass import luma
from framer_jax.recipes.components.teacher import TEACHER
from framer_jax.recipes.framer import HEADS, framer
from tests.support.drawn import drawn
from tests.support.students import AUGKD, DTKD, STEP, batch, recipe_of, run, teachers
from tests.support.tiny import config, ported, weights

L1, NAMES = "recipe.name=supervised_l1", ("rrdbnet", "srvgg")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = teachers(tmp_path_factory.mktemp("generators"))
    for name in NAMES:
        weights(place / f"{name}.safetensors", L1, f"recipe.student.name={name}")
    return place


def student_recipe(folder, method, *changes):
    """A recipe; the L1 method has no teacher."""
    return build_recipe(config(L1, *changes)["recipe"]) if method == L1 else recipe_of(folder, method, *changes)


def evaluated(recipe, data):
    """(parameters, loss, gradient) in shapes, without computing them."""
    params = jax.eval_shape(recipe.init, jax.random.key(0), data)
    key = jax.eval_shape(lambda: jax.random.key(0))

    def mean_loss(params, frozen, key):
        loss = recipe.updates[0].loss(params, frozen, {}, data, key, STEP)
        return loss.values.mean(), loss

    gradient, loss = jax.eval_shape(jax.grad(mean_loss, has_aux=True), params, recipe.frozen, key)
    return params, loss, gradient


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("method", [L1, DTKD, AUGKD])
def test_students_of_every_method(folder, method, name):
    recipe, data = student_recipe(folder, method, f"recipe.student.name={name}"), batch()
    params, loss, gradient = evaluated(recipe, data)
    assert loss.values.shape == (2,)
    assert len(loss.taps) == NETWORKS[name].module(**NETWORKS[name].tiny).tap_count
    assert jax.tree.structure(gradient) == jax.tree.structure(params)


@pytest.mark.parametrize("name", NAMES)
def test_teachers(folder, name, tmp_path):
    assert recipe_of(folder, DTKD, teacher=name).frozen[TEACHER]["params"].keys() == {"student"}
    settings = config(DTKD)["recipe"]
    settings["teacher"]["checkpoint"] = str(ported(tmp_path / "published.safetensors", name))
    settings["teacher"]["published"] = config(L1, f"recipe.student.name={name}")["recipe"]
    assert build_recipe(settings).frozen[TEACHER]["params"].keys() == {"student"}


def test_framer_has_taps_to_align(folder):
    changes = ("recipe.student.name=rrdbnet", "recipe.student.rrdbnet.blocks=2")
    recipe = framer(student_recipe(folder, L1, *changes), paper(weight=0.5))
    data = batch()
    params, loss, gradient = evaluated(recipe, data)
    assert HEADS in params and len(loss.taps) == 2
    assert jax.tree.structure(gradient) == jax.tree.structure(params)


@pytest.mark.parametrize("name", NAMES)
def test_published_weights_start_training_and_others_are_refused(tmp_path, name):
    path = ported(tmp_path / "published.safetensors", name)
    settings = config(L1, f"recipe.student.name={name}")["recipe"]
    recipe = build_recipe(settings)
    start, _ = initial_weights(recipe, settings, str(path))
    jax.tree.map(lambda leaf, shape: np.testing.assert_equal(leaf.shape, shape.shape), start, expected_params(recipe))
    other = config(L1, f"recipe.student.name={name}", f"recipe.student.{name}.channels=16")["recipe"]
    with pytest.raises(ValueError, match=rf"recipe.student.{name}.channels 8, not 16"):
        initial_weights(build_recipe(other), other, str(path))


# --- networks of gray images ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", [L1, DTKD, AUGKD])
def test_gray_networks_learn_the_luma(folder, method):
    """From colored images and teachers' outputs as from gray ones; the sampler's image has the training's distance."""
    changes = ("recipe.student.name=srvgg", "recipe.student.srvgg.image_channels=1")
    if method == L1:
        recipe, data = student_recipe(folder, method, *changes), batch()
    else:
        recipe, data = recipe_of(folder, method, *changes, data="teacher"), batch()
        sides = {view: 8 if view == "zoom_out" else 32 for view in ENTRIES}
        for number, (view, entry) in enumerate(ENTRIES.items()):
            shape = (2, 1, sides[view], sides[view], 3)
            data[entry] = jax.random.uniform(jax.random.key(number), shape, jnp.float32)
        data[CORNER] = jnp.zeros((2, 2), jnp.int32)
    params = drawn(recipe.init, jax.random.key(1), data)
    assert params["student"]["body_0"]["kernel"].shape[2] == 1
    loss = run(recipe, params, data, frozen={})
    gray = {
        name: jnp.repeat(luma(value), 3, axis=-1) if value.shape[-1] == 3 else value for name, value in data.items()
    }
    assert all(np.abs(gray[name] - data[name]).max() > 0.1 for name in ("hr", "lr"))
    np.testing.assert_allclose(loss.values, run(recipe, params, gray, frozen={}).values, rtol=1e-5)
    sr = recipe.sample(params, {}, data["lr"], noise_field(jax.random.key(0), 2))
    expected = np.abs(sr[..., :1] - luma(data["hr"])).mean(axis=(1, 2, 3))
    np.testing.assert_allclose(loss.metrics["pixel_l1"], expected, rtol=1e-5)


@pytest.mark.parametrize("name", ["swinir", *NAMES])
@pytest.mark.parametrize("method", [L1, DTKD, AUGKD])
def test_gray_students_of_every_method(folder, method, name):
    changes = (f"recipe.student.name={name}", f"recipe.student.{name}.image_channels=1")
    params, loss, gradient = evaluated(student_recipe(folder, method, *changes), batch())
    assert loss.values.shape == (2,) and jax.tree.structure(gradient) == jax.tree.structure(params)
