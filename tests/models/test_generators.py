"""RRDBNet and SRVGG: variants, sizes, settings. Their parity fixtures are in test_check_parity.py."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from framer_jax.models.rrdbnet import RRDBNet
from framer_jax.models.srvgg import SRVGG, Activation

RRDB = RRDBNet(channels=8, blocks=2, growth=4)
COMPACT = SRVGG(channels=8, depth=2)


def shapes(model, *sides, batch=1):
    """Shapes of the parameters, the prediction and the taps, without computing them."""
    image = jax.ShapeDtypeStruct((batch, *sides, model.image_channels), jnp.float32)
    (prediction, taps), tree = jax.eval_shape(model.init_with_output, jax.random.key(0), image)
    return tree["params"], prediction, taps


@pytest.mark.parametrize(
    ("model", "count"),
    [
        (RRDBNet(), 16_697_987),
        (RRDBNet(blocks=6), 4_467_779),
        (RRDBNet(scale=2), 16_703_171),
        (SRVGG(), 1_213_296),
        (SRVGG(depth=16), 621_424),
    ],
    ids=["x4plus", "x4plus anime", "x2plus", "general-x4v3", "animevideov3"],
)
def test_published_variants_have_their_parameters(model, count):
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes(model, 8, 8)[0])) == count


@pytest.mark.parametrize(
    ("model", "factor"),
    [
        (RRDB, 1),
        (RRDB.clone(scale=2), 2),
        (RRDB.clone(scale=1, image_channels=1), 4),
        (RRDB.clone(scale=2, variant="bsrgan"), 1),
        (COMPACT, 1),
        (COMPACT.clone(scale=1, activation="relu"), 1),
        (COMPACT.clone(scale=3, activation="leaky_relu", image_channels=1), 1),
    ],
)
@pytest.mark.parametrize("sides", [(13, 18), (1, 2)])
def test_any_size_is_upsampled_with_the_taps_that_are_counted(model, factor, sides):
    model = model.clone(dtype=jnp.bfloat16)
    _, prediction, taps = shapes(model, *sides, batch=2)
    assert prediction.shape == (2, *(side * model.scale for side in sides), model.image_channels)
    assert prediction.dtype == jnp.float32
    assert len(taps) == model.tap_count
    assert {tap.shape for tap in taps} == {(2, *(-(-side // factor) for side in sides), 8)}
    assert {tap.dtype for tap in taps} == {jnp.dtype(jnp.bfloat16)}


@pytest.mark.parametrize(("kind", "slope"), [("relu", 0.0), ("leaky_relu", 0.1), ("prelu", 0.25)])
def test_activations_have_their_slopes(kind, slope):
    values = jnp.float32([[[[-2.0, 0.0, 3.0]]]])
    activation = Activation(kind)
    result = activation.apply(activation.init(jax.random.key(0), values), values)
    np.testing.assert_allclose(result, [[[[-2.0 * slope, 0.0, 3.0]]]], atol=1e-7)


@pytest.mark.parametrize(
    ("model", "changes", "message"),
    [
        (RRDB, {"scale": 3}, "scale is 3: with variant real_esrgan it must be one of 1, 2, 4"),
        (RRDB, {"variant": "bsrgan", "scale": 1}, "one of 2, 4"),
        (RRDB, {"variant": "esrgan"}, "real_esrgan, bsrgan"),
        (RRDB, {"blocks": 0}, "blocks"),
        (RRDB, {"image_channels": 4}, "image_channels .* one of 1, 3"),
        (COMPACT, {"scale": 0}, "scale is 0: it must be at least 1"),
        (COMPACT, {"activation": "gelu"}, "prelu, relu, leaky_relu"),
        (COMPACT, {"depth": -1}, "depth"),
    ],
)
def test_contradictory_settings_are_errors(model, changes, message):
    with pytest.raises(ValueError, match=message):
        model.clone(**changes)


@pytest.mark.parametrize("model", [RRDB, COMPACT])
@pytest.mark.parametrize("shape", [(8, 8, 3), (1, 8, 8, 1), (1, 0, 8, 3)])
def test_images_that_do_not_fit_are_errors(model, shape):
    with pytest.raises(ValueError, match=r"\[B, H, W, 3\]"):
        jax.eval_shape(model.init, jax.random.key(0), jnp.zeros(shape))


@pytest.mark.parametrize("scale", [4, 2])
def test_scanned_blocks_compute_what_single_ones_do(scale):
    """Outputs, taps and gradients; the parameters are the same, and whoever asks for outputs of layers gets them."""
    scanned = RRDB.clone(blocks=3, scale=scale)
    single = scanned.clone(scan=False)
    image = np.random.default_rng(0).random((2, 10, 13, 3), np.float32)
    variables = single.init(jax.random.key(0), image)
    assert jax.tree.map(jnp.shape, scanned.init(jax.random.key(0), image)) == jax.tree.map(jnp.shape, variables)

    def program(model):
        def loss(variables):
            y, taps = model.apply(variables, image)
            return jnp.square(y).mean() + sum(jnp.square(tap).mean() for tap in taps), (y, taps)

        return jax.value_and_grad(loss, has_aux=True)

    assert "scan[" in str(jax.make_jaxpr(program(scanned))(variables))
    assert "scan[" not in str(jax.make_jaxpr(program(single))(variables))
    results = (jax.jit(program(model))(variables) for model in (scanned, single))
    for mine, other in zip(*map(jax.tree.leaves, results), strict=True):
        np.testing.assert_allclose(mine, other, rtol=1e-4, atol=1e-6)
    _, state = scanned.apply(variables, image, capture_intermediates=True)
    assert {"block_0", "block_2"} < state["intermediates"].keys()


def test_a_program_without_taps_does_not_store_them():
    """The compiler drops the scan's outputs: an image's memory does not grow with the number of blocks."""
    image = jnp.zeros((1, 32, 32, 3))

    def memory(blocks):
        model = RRDB.clone(blocks=blocks, channels=16)
        variables = jax.eval_shape(model.init, jax.random.key(0), image)
        analysis = (
            jax.jit(lambda variables: model.apply(variables, image)[0]).lower(variables).compile().memory_analysis()
        )
        weights = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(variables))
        return analysis.temp_size_in_bytes - weights  # which the scan stacks

    map_bytes = 32 * 32 * 16 * 4
    assert memory(12) - memory(4) < 4 * map_bytes
