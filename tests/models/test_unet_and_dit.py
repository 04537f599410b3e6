"""The small denoisers: shapes, precision, gradients, locality; and the layers that they share."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from framer_jax.models.denoiser import denoise
from framer_jax.models.dit import DiffusionTransformer, from_patches, to_patches
from framer_jax.models.layers import LayerNorm, local_contrast, position_table, sinusoidal_embedding
from framer_jax.models.unet import UNet, depth_to_space
from tests.support.drawn import drawn

UNET = UNet(out_channels=12, channels=(8, 12), blocks=1, time_width=16)
DIT = DiffusionTransformer(out_channels=12, width=16, depth=2, heads=2)


def inputs(height=8, width=12, batch=2):
    keys = jax.random.split(jax.random.key(0), 2)
    x = jax.random.normal(keys[0], (batch, height, width, 12))
    return x, jnp.arange(batch, dtype=jnp.float32), {"image": jax.random.normal(keys[1], (batch, height, width, 3))}


@functools.cache
def compiled(model):
    return jax.jit(lambda params, *arguments: model.apply({"params": params}, *arguments))


@functools.cache
def perturbed(model):
    """Zero-initialised layers would hide mistakes."""
    return drawn(model.init, jax.random.key(0), *inputs())["params"]


@pytest.mark.parametrize(
    ("model", "tap_shapes"),
    [
        (UNET, [(2, 8, 12, 8), (2, 4, 6, 12), (2, 8, 12, 8)]),
        (DIT, [(2, 4, 6, 16)] * 2),
        (DIT.clone(taps="prediction"), [(2, 8, 12, 12)] * 2),
    ],
    ids=["unet", "dit", "dit-prediction"],
)
def test_shapes_dtypes_and_zero_prediction_at_initialisation(model, tap_shapes):
    arguments = inputs()
    params = jax.jit(model.init)(jax.random.key(0), *arguments)["params"]
    prediction, taps = compiled(model)(params, *arguments)
    assert prediction.shape == (2, 8, 12, 12)
    assert prediction.dtype == jnp.float32
    assert [tap.shape for tap in taps] == tap_shapes
    assert not np.any(prediction)
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(params))


@pytest.mark.parametrize("model", [UNET, DIT], ids=["unet", "dit"])
def test_bfloat16_stays_near_float32_and_predicts_in_float32(model):
    arguments = inputs()
    params = perturbed(model)
    exact, _ = compiled(model)(params, *arguments)
    rough, taps = compiled(model.clone(dtype=jnp.bfloat16))(params, *arguments)
    assert rough.dtype == jnp.float32
    assert taps[0].dtype == jnp.bfloat16
    assert np.abs(rough - exact).max() < 0.05 * np.abs(exact).max()


@pytest.mark.parametrize("model", [UNET, DIT], ids=["unet", "dit"])
def test_every_parameter_and_input_matters(model):
    x, t, condition = inputs()
    params = perturbed(model)

    def scalar(params, x, t, condition):
        return jnp.square(model.apply({"params": params}, x, t, condition)[0]).sum()

    gradients = jax.jit(jax.grad(scalar, argnums=(0, 1, 2, 3)))(params, x, t, condition)
    for path, leaf in jax.tree.leaves_with_path(gradients):
        assert np.any(leaf), jax.tree_util.keystr(path)


@pytest.mark.parametrize("model", [UNET, DIT], ids=["unet", "dit"])
def test_examples_of_a_batch_do_not_mix(model):
    x, t, condition = inputs()
    params = perturbed(model)
    batch, _ = compiled(model)(params, x, t, condition)
    one, _ = compiled(model)(params, x[1:], t[1:], {"image": condition["image"][1:]})
    np.testing.assert_allclose(batch[1:], one, atol=2e-5)


@pytest.mark.parametrize("model", [UNET, DIT], ids=["unet", "dit"])
def test_sides_that_do_not_fit_are_errors(model):
    with pytest.raises(ValueError, match="multiples of 2"):
        model.init(jax.random.key(0), *inputs(height=7))


@pytest.mark.parametrize("model", [UNET, DIT], ids=["unet", "dit"])
def test_a_condition_without_an_image_is_an_error(model):
    x, t, condition = inputs()
    with pytest.raises(ValueError, match=r"lacks 'image' \(it holds text\)"):
        model.init(jax.random.key(0), x, t, {"text": condition["image"]})


def test_denoisers_state_their_grid_and_taps():
    assert (UNET.taps, UNET.downsampling, UNET.size_multiple) == ("hidden", 1, 2)
    assert (DIT.taps, DIT.downsampling, DIT.size_multiple) == ("hidden", 1, 2)
    assert DIT.clone(taps="prediction", patch=4).size_multiple == 4


def test_denoise_applies_the_network():
    params, arguments = perturbed(UNET), inputs()
    prediction, taps = jax.jit(functools.partial(denoise, UNET))(params, *arguments)
    expected, expected_taps = compiled(UNET)(params, *arguments)
    np.testing.assert_array_equal(prediction, expected)
    assert len(taps) == len(expected_taps) == 3


def test_unet_results_do_not_depend_on_what_is_far_away():
    """Norms use one position, so only the receptive field matters, and tiles agree with the whole image."""
    x, t, condition = inputs(48, 8, 1)
    params = perturbed(UNET)
    whole, _ = compiled(UNET)(params, x, t, condition)
    part, _ = compiled(UNET)(params, x[:, :32], t, {"image": condition["image"][:, :32]})
    np.testing.assert_allclose(whole[:, :16], part[:, :16], atol=1e-4)


def test_dit_prediction_taps_end_with_the_prediction():
    model = DIT.clone(taps="prediction")
    arguments = inputs()
    params = perturbed(model)
    prediction, taps = compiled(model)(params, *arguments)
    np.testing.assert_array_equal(prediction, taps[-1])
    np.testing.assert_allclose(prediction, compiled(DIT)(params, *arguments)[0], atol=1e-6)
    with pytest.raises(ValueError, match="hidden"):
        DIT.clone(taps="all")


def test_patches_and_depth_to_space_are_rearrangements():
    x = jnp.arange(2 * 4 * 6 * 3, dtype=jnp.float32).reshape(2, 4, 6, 3)
    np.testing.assert_array_equal(from_patches(to_patches(x, 2), (2, 3), 2), x)
    y = depth_to_space(jnp.arange(8, dtype=jnp.float32).reshape(1, 1, 1, 8))
    np.testing.assert_array_equal(y[0, :, :, 0], [[0, 2], [4, 6]])


def test_layer_norm_has_zero_mean_and_unit_variance_at_each_position():
    x = 3 + 2 * jax.random.normal(jax.random.key(0), (2, 3, 3, 64))
    y = LayerNorm(affine=False).apply({}, x)
    np.testing.assert_allclose(y.mean(-1), 0, atol=1e-6)
    np.testing.assert_allclose(y.std(-1), 1, atol=1e-5)


def test_embeddings():
    table = position_table(3, 5, 8)
    assert table.shape == (15, 8)
    assert len({row.tobytes() for row in table}) == 15
    with pytest.raises(ValueError, match="multiple of 4"):
        position_table(3, 5, 6)
    embedding = sinusoidal_embedding(jnp.asarray([0.0, 2.0]), 8)
    np.testing.assert_allclose(embedding[0], [1, 1, 1, 1, 0, 0, 0, 0])
    np.testing.assert_allclose(embedding[1, 0], np.cos(2.0), rtol=1e-6)


@pytest.mark.parametrize("shape", [(1, 1), (1, 4), (2, 2), (3, 5)])
def test_local_contrast_counts_the_pixels_that_are_there(shape):
    image = np.random.default_rng(0).normal(size=(2, *shape, 3)).astype(np.float32)
    expected = np.empty_like(image)
    for row, column in np.ndindex(shape):
        window = image[:, max(row - 1, 0) : row + 2, max(column - 1, 0) : column + 2]
        expected[:, row, column] = image[:, row, column] - window.mean(axis=(1, 2))
    np.testing.assert_allclose(local_contrast(jnp.asarray(image)), expected, atol=1e-6)
