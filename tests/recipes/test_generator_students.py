"""RRDBNet and SRVGG wherever SwinIR is: students of every method, teachers, FRAMER, published weights as a start."""

import jax
import numpy as np
import pytest

from framer_jax.checkpoints.open import build_recipe
from framer_jax.commands.train import initial_weights
from framer_jax.losses.framer import paper
from framer_jax.recipes.base import expected_params
from framer_jax.recipes.components.networks import NETWORKS
from framer_jax.recipes.components.teacher import TEACHER
from framer_jax.recipes.framer import HEADS, framer
from tests.support.students import AUGKD, DTKD, STEP, batch, recipe_of, teachers
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
