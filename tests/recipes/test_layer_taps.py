"""Taps at chosen timesteps: every method has them, of the shapes that its loss returns, without weights of training."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from framer_jax.checkpoints.open import build_recipe
from framer_jax.config import default
from framer_jax.inference.model import load_model
from framer_jax.recipes.base import expected_params, timestep_index
from framer_jax.recipes.table import METHODS
from tests.support.tiny import config, weights

ONE_TIME = {"sinsr", "hf_diff", "tsd_sr", "pisa_sr", "osediff", "supervised_l1", "dtkd", "augkd", "realesrgan"}
"""Methods whose network is called at one time."""


def shapes_of(recipe):
    """Shapes of the taps at a time, computed from the exported groups alone."""
    side = 8 * recipe.lr_multiple
    batch = {
        "hr": jax.ShapeDtypeStruct((2, side * recipe.scale, side * recipe.scale, 3), jnp.float32),
        "lr": jax.ShapeDtypeStruct((2, side, side, 3), jnp.float32),
    }
    arguments = expected_params(recipe), recipe.frozen, batch, jax.random.key(0), jnp.float32(0.5)
    return [tap.shape for tap in jax.eval_shape(recipe.layer_taps.compute, *arguments)]


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_every_method_has_taps_without_weights_of_training(method):
    changes = [f"recipe.name={method.name}"]
    if method.networks.names == ("controlled_sd_unet",):
        knobs = ("control=latent", "image_widths=(16,)")  # wavelets are finer than its image
        changes += [f"recipe.denoiser.controlled_sd_unet.{knob}" for knob in knobs]
    if "encoder_lora_modules" in default(method.name).recipe.get(method.name, {}):
        changes.append(f"recipe.{method.name}.encoder_lora_modules=")  # wavelets have no encoder
    recipe = build_recipe(config(*changes)["recipe"], "description")
    shapes = shapes_of(recipe)
    assert len(shapes) >= 1 and all(len(shape) == 4 and shape[0] == 2 for shape in shapes)
    assert (recipe.layer_taps.timesteps == 1) == (method.name in ONE_TIME)


@pytest.mark.parametrize("name", ["resshift", "rectified_flow"])
def test_they_are_those_of_the_loss(name, tmp_path):
    model = load_model(weights(tmp_path / "tiny.safetensors", f"recipe.name={name}"))
    recipe, side = model.recipe, 2 * model.recipe.lr_multiple
    rng = np.random.default_rng(0)
    batch = {
        "hr": rng.random((2, side * recipe.scale, side * recipe.scale, 3), np.float32),
        "lr": rng.random((2, side, side, 3), np.float32),
    }

    @jax.jit
    def of_loss(batch):
        return recipe.updates[0].loss(model.params, recipe.frozen, {}, batch, jax.random.key(1), jnp.int32(0)).taps

    @jax.jit
    def at(batch, time):
        return recipe.layer_taps.compute(model.params, recipe.frozen, batch, jax.random.key(1), time)

    early, late = at(batch, jnp.float32(0.0)), at(batch, jnp.float32(1.0))
    assert [tap.shape for tap in early] == [tap.shape for tap in of_loss(batch)]
    assert any(not np.allclose(a, b) for a, b in zip(early, late, strict=True))
    for a, b in zip(early, at(batch, jnp.float32(0.01)), strict=True):
        assert np.allclose(a, b) == (recipe.layer_taps.timesteps > 1), "of few timesteps the nearest is taken"


def test_the_index_of_a_timestep():
    for time, index in ((0.0, 0), (0.3, 1), (1.0, 3)):
        indices = timestep_index(jnp.float32(time), 4, 2)
        assert indices.dtype == jnp.int32
        np.testing.assert_array_equal(indices, [index, index])
