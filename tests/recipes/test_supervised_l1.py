"""Supervised training of SwinIR: the L1 loss, one forward pass, published weights as a start, export to PyTorch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file

from framer_jax import cli
from framer_jax.checkpoints.open import build_recipe
from framer_jax.commands.train import initial_weights
from framer_jax.diffusion.noise import noise_field
from framer_jax.inference.model import load_model, settings_for
from framer_jax.inference.upscaler import UpscaleSettings
from framer_jax.losses.framer import paper
from framer_jax.porting.maps import to_torch
from framer_jax.porting.table import MAPS
from framer_jax.porting.torch_files import write_state
from framer_jax.porting.weights import load_weights, save_weights
from framer_jax.recipes.base import expected_params
from framer_jax.recipes.framer import HEADS, framer
from tests.support.drawn import drawn
from tests.support.paths import CONFIGS
from tests.support.tiny import TINY, config, overrides, photo, ported, weights

NAME = "recipe.name=supervised_l1"

STEP = jnp.int32(0)


def recipe_of(*changes, purpose="training"):
    return build_recipe(config(NAME, *changes)["recipe"], purpose)


def batch(count=2, height=8, width=16):
    hr = jax.random.uniform(jax.random.key(0), (count, 4 * height, 4 * width, 3), jnp.float32)
    return {"hr": hr, "lr": hr.reshape(count, height, 4, width, 4, 3).mean(axis=(2, 4))}


def test_it_needs_neither_space_nor_denoiser():
    recipe = recipe_of()
    assert not {"space", "denoiser"} & config(NAME)["recipe"].keys()
    assert recipe.frozen == {} and recipe.exported == ("student",) and recipe.lr_multiple == 1
    assert set(expected_params(recipe)) == {"student"}
    assert [(update.name, update.groups) for update in recipe.updates] == [("student", ("student",))]


def test_the_loss_is_the_l1_distance_and_reaches_every_parameter():
    recipe, data = recipe_of("recipe.student.swinir.drop_path=0.0"), batch()
    params = drawn(recipe.init, jax.random.key(1), data)

    def mean_loss(params):
        loss = recipe.updates[0].loss(params, recipe.frozen, {}, data, jax.random.key(3), STEP)
        return loss.values.mean(), loss

    gradient, loss = jax.jit(jax.grad(mean_loss, has_aux=True))(params)
    sr = jax.jit(recipe.mean)(params, {}, data["lr"], noise_field(jax.random.key(0), 2))
    np.testing.assert_allclose(loss.values, np.abs(sr - data["hr"]).mean(axis=(1, 2, 3)), rtol=1e-5)
    np.testing.assert_allclose(loss.metrics["pixel_mse"], np.square(sr - data["hr"]).mean(axis=(1, 2, 3)), rtol=1e-5)
    assert loss.values.dtype == jnp.float32
    assert [tap.shape for tap in loss.taps] == [(2, 8, 16, 8)] * 2
    for path, leaf in jax.tree.leaves_with_path(gradient):
        assert np.isfinite(leaf).all() and leaf.any(), jax.tree_util.keystr(path)


def test_training_drops_branches_by_the_key_and_sampling_does_not():
    recipe, data = recipe_of("recipe.student.swinir.drop_path=0.9"), batch()
    params = drawn(recipe.init, jax.random.key(1), data)
    loss = jax.jit(lambda key: recipe.updates[0].loss(params, {}, {}, data, key, STEP).values)
    values = [np.asarray(loss(jax.random.key(seed))) for seed in (0, 0, *range(1, 6))]
    np.testing.assert_array_equal(values[0], values[1])
    assert len({value.tobytes() for value in values}) > 1
    sample = jax.jit(recipe.sample)
    one, other = (sample(params, {}, data["lr"], noise_field(jax.random.key(seed), 2)) for seed in (0, 1))
    np.testing.assert_array_equal(one, other)


def test_any_size_in_one_pass():
    recipe = recipe_of()
    for height, width in ((13, 19), (17, 23), (64, 96)):
        lr = jax.ShapeDtypeStruct((1, height, width, 3), jnp.float32)
        for sampler in (recipe.sample, recipe.mean):
            sr = jax.eval_shape(sampler, expected_params(recipe), {}, lr, noise_field(jax.random.key(0), 1))
            assert sr.shape == (1, 4 * height, 4 * width, 3) and sr.dtype == jnp.float32


def test_framer_compares_its_groups_without_heads():
    base, data = recipe_of("recipe.student.swinir.drop_path=0.0"), batch()
    recipe = framer(base, paper(weight=0.5))
    params = drawn(recipe.init, jax.random.key(1), data)
    assert params[HEADS] == {}
    run = (params, {}, {}, data, jax.random.key(3), STEP)
    framed, plain = (jax.jit(one.updates[0].loss)(*run) for one in (recipe, base))
    np.testing.assert_allclose(framed.values, plain.values + framed.metrics["framer_term"], rtol=1e-5)
    assert recipe.sample is base.sample and recipe.exported == ("student",)


# --- weights by path --------------------------------------------------------------------------------------------------


@pytest.fixture
def published(tmp_path):
    """A published file in PyTorch's names, as the map writes it."""
    params, _ = load_weights(ported(tmp_path / "ported.safetensors", "swinir"))
    write_state(tmp_path / "published.safetensors", to_torch(MAPS["swinir"], params, "", TINY["swinir"]))
    return tmp_path / "published.safetensors", params


def test_training_starts_from_published_weights(published, tmp_path):
    path, params = published
    settings = config(NAME)["recipe"]
    for file in (path, tmp_path / "ported.safetensors"):
        initial, _ = initial_weights(build_recipe(settings), settings, str(file))
        assert initial.keys() == {"student"}
        jax.tree.map(np.testing.assert_array_equal, initial["student"], params)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ("recipe.student.swinir.channels=16", "recipe.student.swinir.channels 8, not 16"),
        ("recipe.student.swinir.head=pixelshuffle", r"recipe.student.swinir.head 'nearest\+conv', not 'pixelshuffle'"),
        ("recipe.scale=2", "recipe.scale 4, not 2"),
    ],
)
def test_another_variant_or_scale_is_named(published, change, named):
    settings = config(NAME, change)["recipe"]
    variant = r"published.safetensors, a checkpoint of SwinIR, x4 \(head nearest\+conv, 8 channels.*was made with "
    with pytest.raises(ValueError, match=variant + named):
        initial_weights(build_recipe(settings), settings, str(published[0]))


def test_the_range_of_jpeg_models_is_named(tmp_path):
    path = ported(tmp_path / "jpeg.safetensors", "swinir")
    params, metadata = load_weights(path)
    metadata["arguments"]["value_range"] = 255.0
    save_weights(path, params, metadata)
    with pytest.raises(ValueError, match=r"recipe\.student\.swinir\.value_range 255\.0, not 1\.0"):
        load_model(path, config(NAME))
    assert load_model(path, config(NAME, "recipe.student.swinir.value_range=255.0")).recipe.name == "supervised_l1"


def test_weights_of_other_recipes_are_refused(published, tmp_path):
    settings = config(NAME)["recipe"]
    other = weights(tmp_path / "resshift.safetensors")
    with pytest.raises(ValueError, match=r"resshift.safetensors does not fit this model; missing .* student/"):
        initial_weights(build_recipe(settings), settings, str(other))
    settings = config("recipe.name=resshift", "recipe.denoiser.name=resshift_unet")["recipe"]
    with pytest.raises(ValueError, match="this is a swinir checkpoint, not resshift_unet"):
        initial_weights(build_recipe(settings), settings, str(published[0]))


def test_a_trained_student_is_loaded_and_goes_back_to_pytorch(tmp_path):
    path = weights(tmp_path / "trained.safetensors", NAME)
    model = load_model(path)
    assert model.recipe.name == "supervised_l1" and set(model.params) == {"student"}
    out = tmp_path / "out.safetensors"
    assert cli.main(["port", str(path), str(out), "--model", "swinir", "--to", "torch"]) == 0
    state = load_file(out)
    np.testing.assert_array_equal(
        state["conv_first.bias"], np.asarray(load_weights(path)[0]["student"]["conv_in"]["bias"])
    )
    assert state["layers.0.residual_group.blocks.0.attn.relative_position_index"].shape == (64, 64)


# --- upscaling --------------------------------------------------------------------------------------------------------


def upscaled(path, out, weights, *words):
    assert cli.main(["upscale", str(path), str(out), "--weights", str(weights), *words]) == 0
    return np.asarray(Image.open(out), np.float32)


def test_upscale_is_one_pass_over_any_size(tmp_path):
    """From our file, from the same model in PyTorch's format, and in tiles."""
    path, small = weights(tmp_path / "trained.safetensors", NAME), photo(13, 19)
    Image.fromarray(small).save(tmp_path / "small.png")
    image = upscaled(tmp_path / "small.png", tmp_path / "ours.png", path)
    model = load_model(path)
    # Images of similar sizes share a program: the upscaler reflects them to multiples of 32 first.
    filled = np.pad(small, ((0, 19), (0, 13), (0, 0)), mode="reflect")[None].astype(np.float32) / 255
    sr = jax.jit(model.recipe.sample)(model.params, {}, filled, noise_field(jax.random.key(0), 1))[0, :52, :76]
    assert image.shape == (52, 76, 3)
    np.testing.assert_allclose(image, np.clip(sr, 0, 1) * 255, atol=0.51)

    torch = tmp_path / "back.safetensors"
    assert cli.main(["port", str(path), str(torch), "--model", "swinir", "--to", "torch"]) == 0
    knobs = [word for change in overrides(NAME) for word in ("--set", change)]
    recipe = ("--recipe", str(CONFIGS / "default.py"), *knobs)
    back = upscaled(tmp_path / "small.png", tmp_path / "back.png", torch, *recipe)
    np.testing.assert_array_equal(back, image)

    Image.fromarray(photo(40, 44)).save(tmp_path / "large.png")
    whole, tiled = (
        upscaled(tmp_path / "large.png", tmp_path / f"{tile}.png", path, "--tile", tile, "--overlap", "16")
        for tile in ("64", "32")
    )
    assert tiled.shape == whole.shape == (160, 176, 3)
    assert np.corrcoef(tiled.ravel(), whole.ravel())[0, 1] > 0.99


def test_a_local_network_takes_the_usual_tiles(tmp_path):
    model = load_model(weights(tmp_path / "trained.safetensors", NAME))
    assert settings_for(model).tile == UpscaleSettings.tile
