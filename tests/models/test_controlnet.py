"""ControlNet: size, residuals, scales. Its parity fixture is in test_check_parity.py."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from framer_jax.models.controlnet import ControlNet, scale_residuals
from framer_jax.models.sd_unet import ControlResiduals, SDUNet
from tests.support.drawn import drawn
from tests.support.tiny import TINY as ARGUMENTS

TINY = ControlNet(**ARGUMENTS["controlnet"], attention="manual")
UNET = SDUNet(**ARGUMENTS["sd_unet"], attention="manual")


def inputs(model=TINY, height=4, width=6, batch=2):
    keys = jax.random.split(jax.random.key(3), 3)
    x = jax.random.normal(keys[0], (batch, height, width, model.in_channels))
    text = jax.random.normal(keys[1], (batch, 5, model.context_width))
    sides = (height * model.downsampling, width * model.downsampling)
    image = jax.random.uniform(keys[2], (batch, *sides, model.image_channels), minval=-1.0)
    return x, jnp.linspace(20.0, 900.0, batch), {"text": text, "image": image}


@pytest.fixture(scope="module")
def tree():
    return drawn(TINY.init, jax.random.key(0), *inputs())


@pytest.fixture(scope="module")
def residuals(tree):
    return jax.jit(TINY.apply)(tree, *inputs())


def test_the_published_network_fits_the_published_unet():
    model, unet = ControlNet(), SDUNet()
    arguments = jax.eval_shape(lambda: inputs(model, 64, 64))
    residuals, tree = jax.eval_shape(model.init_with_output, jax.random.key(0), *arguments)
    assert sum(leaf.size for leaf in jax.tree.leaves(tree)) == 364_228_240
    sides = (64, 64, 64, 32, 32, 32, 16, 16, 16, 8, 8, 8)
    assert [each.shape[1] for each in residuals.down] == list(sides)
    assert residuals.middle.shape == (2, 8, 8, 1280) and model.downsampling == 8
    jax.eval_shape(unet.init, jax.random.key(0), *arguments, residuals)  # refuses other shapes


def test_a_new_network_controls_nothing():
    params = TINY.init(jax.random.key(0), *inputs())
    assert all(not np.any(leaf) for leaf in jax.tree.leaves(jax.jit(TINY.apply)(params, *inputs())))


def test_image_text_and_time_reach_all_residuals(tree, residuals):
    assert len(residuals.down) == 4 and all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(residuals))
    x, t, condition = inputs()
    for changed in ({"image": -condition["image"]}, {"text": -condition["text"]}):
        other = jax.jit(TINY.apply)(tree, x, t, condition | changed)
        assert np.abs(other.middle - residuals.middle).max() > 1e-3
    assert np.abs(jax.jit(TINY.apply)(tree, x, t[::-1], condition).middle - residuals.middle).max() > 1e-3


def test_the_residuals_fit_the_unet_and_change_its_prediction(residuals):
    x, t, condition = inputs()
    tree = drawn(UNET.init, jax.random.key(0), x, t, condition)
    predict = jax.jit(UNET.apply)
    plain, controlled = predict(tree, x, t, condition)[0], predict(tree, x, t, condition, residuals)[0]
    assert np.abs(plain - controlled).max() > 1e-2


@pytest.mark.parametrize("remat", ["everything", "attention"])
def test_precision_and_rematerialisation(tree, residuals, remat):
    rough = jax.jit(TINY.clone(dtype=jnp.bfloat16, remat=remat).apply)(tree, *inputs())
    for mine, reference in zip(jax.tree.leaves(rough), jax.tree.leaves(residuals), strict=True):
        assert mine.dtype == jnp.bfloat16
        error = np.asarray(mine, np.float32) - reference
        assert np.sqrt(np.mean(error**2) / np.mean(np.square(reference))) < 0.03


def test_scales():
    ones = ControlResiduals(tuple(jnp.ones((1, 2, 2, 3)) for _ in range(12)), jnp.ones((1, 1, 1, 3), jnp.bfloat16))

    def factors(*arguments):
        return [float(leaf.reshape(-1)[0]) for leaf in jax.tree.leaves(scale_residuals(ones, *arguments))]

    np.testing.assert_allclose(factors(0.75), 0.75)
    np.testing.assert_allclose(factors(0.5, True), 0.5 * np.logspace(-1, 0, 13), rtol=1e-6)
    traced = jax.jit(lambda scale: scale_residuals(ones, scale, True))(jnp.float32(2.0))
    np.testing.assert_allclose(traced.down[0], 0.2, rtol=1e-6)
    assert traced.middle.dtype == jnp.bfloat16


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"x": (2, 4, 5, 4)}, "the ControlNet needs latents .* multiples of 2"),
        (
            {"image": (2, 4, 6, 3)},
            r"an image \(2, 8, 12, 3\) with latents of \(4, 6\), got .*: resize the image to 2 times",
        ),
        ({"image": (2, 8, 12, 4)}, r"an image \(2, 8, 12, 3\)"),
        ({"text": (2, 5, 11)}, r"text tokens \[2, T, 16\]"),
    ],
)
def test_inputs_that_do_not_fit_are_errors(changes, message):
    x, t, condition = inputs()
    arguments = {"x": x, **condition} | {name: jnp.zeros(shape) for name, shape in changes.items()}
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(TINY.init, jax.random.key(0), arguments.pop("x"), t, arguments)


@pytest.mark.parametrize("name", ["text", "image"])
def test_a_condition_that_lacks_an_entry_is_an_error(name):
    x, t, condition = inputs()
    with pytest.raises(ValueError, match=f"lacks '{name}'"):
        jax.eval_shape(TINY.init, jax.random.key(0), x, t, {key: condition[key] for key in condition if key != name})
