"""SwinIR: variants, sizes, stochastic depth, precision. Its parity fixtures are in test_check_parity.py."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from framer_jax.models.resampling import pixel_shuffle
from framer_jax.models.swinir import SwinIR, drop_path_mask, pad_to_windows
from tests.support.drawn import drawn

TINY = SwinIR(channels=8, depths=(2, 1), heads=2)

SIX = (6,) * 6


def shapes(model, *sides, batch=1):
    """Shapes of the parameters, the prediction and the taps, without computing them."""
    image = jax.ShapeDtypeStruct((batch, *sides, model.image_channels), jnp.float32)
    (prediction, taps), tree = jax.eval_shape(model.init_with_output, jax.random.key(0), image)
    return tree["params"], prediction, taps


@pytest.mark.parametrize(
    ("model", "count"),
    [
        (SwinIR(channels=180, depths=SIX, head="pixelshuffle"), 11_900_199),
        (SwinIR(head="pixelshuffledirect"), 929_628),
        (SwinIR(channels=180, depths=SIX), 11_715_559),
        (SwinIR(channels=240, depths=(6,) * 9, heads=8, residual="3conv"), 28_013_059),
        (SwinIR(head="pixelshuffle"), 1_235_439),
        (SwinIR(), 1_050_799),
    ],
    ids=["classical", "lightweight", "real M", "real L", "small pixelshuffle", "small nearest+conv"],
)
def test_published_variants_have_their_parameters(model, count):
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes(model, 8, 8)[0])) == count


@pytest.mark.parametrize("sides", [(13, 19), (17, 23), (64, 96)])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"scale": 2},
        *({"head": "pixelshuffle", "scale": scale} for scale in (2, 3, 4, 8)),
        *({"head": "pixelshuffledirect", "scale": scale} for scale in (2, 3, 4)),
        {"head": "none", "scale": 1},
        {"head": "none", "scale": 1, "image_channels": 1, "window": 7, "image_size": 126, "value_range": 255.0},
        {"residual": "3conv"},
    ],
    ids=lambda changes: " ".join(map(str, changes.values())) or "default",
)
def test_any_size_is_upsampled_and_each_group_has_a_tap(changes, sides):
    model = TINY.clone(dtype=jnp.bfloat16, **changes)
    _, prediction, taps = shapes(model, *sides, batch=2)
    assert prediction.shape == (2, *(side * model.scale for side in sides), model.image_channels)
    assert prediction.dtype == jnp.float32
    padded = [-(-side // model.window) * model.window for side in sides]
    assert [tap.shape for tap in taps] == [(2, *padded, 8)] * 2
    assert {tap.dtype for tap in taps} == {jnp.dtype(jnp.bfloat16)}


@pytest.fixture(scope="module")
def tree():
    return drawn(TINY.init, jax.random.key(0), jnp.zeros((1, 8, 8, 3)))


def photo(*sides, batch=1):
    return jax.random.uniform(jax.random.key(2), (batch, *sides, 3))


compiled = jax.jit(TINY.apply)


def test_sides_are_filled_up_by_reflection(tree):
    image = photo(5, 16)
    prediction, _ = compiled(tree, image)
    by_hand = jnp.concatenate([image, image[:, 3:0:-1]], axis=1)
    np.testing.assert_array_equal(prediction, compiled(tree, by_hand)[0][:, :20])
    assert pad_to_windows(photo(1, 2), 8).shape == (1, 8, 8, 3)  # smaller than what is missing: reflected again
    np.testing.assert_array_equal(pad_to_windows(photo(16, 8), 8), photo(16, 8))


def test_examples_do_not_see_each_other(tree):
    images = photo(8, 16, batch=2)
    # Sums of another batch size may run in another order (relative to values up to 17).
    np.testing.assert_allclose(compiled(tree, images)[0][1:], compiled(tree, images[1:])[0], rtol=1e-4, atol=1e-3)


def test_a_denoiser_without_correction_gives_its_input_back():
    model = TINY.clone(head="none", scale=1, window=7, image_size=126, value_range=255.0)
    image = photo(9, 11)
    params = drawn(model.init, jax.random.key(0), image)["params"]
    params["head"] = jax.tree.map(jnp.zeros_like, params["head"])
    np.testing.assert_allclose(model.apply({"params": params}, image)[0], image, atol=1e-6)


def test_bfloat16_stays_close_to_float32(tree):
    image = photo(8, 16)
    rough, exact = (jax.jit(TINY.clone(dtype=dtype).apply)(tree, image) for dtype in (jnp.bfloat16, jnp.float32))
    assert rough[0].dtype == jnp.float32
    for mine, reference in zip(jax.tree.leaves(rough), jax.tree.leaves(exact), strict=True):
        error = np.asarray(mine, np.float32) - reference
        assert 1e-5 < np.sqrt(np.mean(error**2) / np.mean(np.square(reference))) < 0.03


def test_every_parameter_has_a_gradient(tree):
    gradient = jax.jit(jax.grad(lambda tree: jnp.square(TINY.apply(tree, photo(16, 16))[0]).mean()))(tree)
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradient):
        assert np.isfinite(leaf).all() and np.abs(leaf).max() > 0, jax.tree_util.keystr(path)


def test_pixels_lie_in_the_channels_row_by_row():
    x = jnp.arange(2 * 12, dtype=jnp.float32).reshape(1, 1, 2, 12)
    np.testing.assert_array_equal(pixel_shuffle(x, 2)[0, :, :, 0], [[0, 1, 12, 13], [2, 3, 14, 15]])
    np.testing.assert_array_equal(pixel_shuffle(x, 2)[0, :, :, 2], [[8, 9, 20, 21], [10, 11, 22, 23]])


# --- stochastic depth -------------------------------------------------------------------------------------------------


def test_without_a_key_nothing_is_dropped_and_with_one_the_draw_decides(tree):
    image = photo(8, 8, batch=4)
    model = TINY.clone(drop_path=0.6)
    apply = jax.jit(model.apply)
    still, one, again, other = (
        np.asarray(apply(tree, image, key)[0]) for key in (None, *(jax.random.key(n) for n in (0, 0, 1)))
    )
    np.testing.assert_array_equal(still, compiled(tree, image)[0])
    np.testing.assert_array_equal(one, again)
    assert np.abs(one - still).max() > 1e-3 and np.abs(one - other).max() > 1e-3
    with jax.disable_jit():  # the same operations, whatever a compiler would fuse
        still, never = (
            np.asarray(network.apply(tree, image, key)[0])
            for network, key in ((model, None), (TINY.clone(drop_path=0.0), jax.random.key(0)))
        )
    np.testing.assert_allclose(never, still, atol=1e-6)


def test_drop_path_masks_have_mean_one_and_the_later_blocks_fewer():
    factors = np.asarray(drop_path_mask(jax.random.key(0), 0.5, 3, 4000))
    assert factors.shape == (3, 2, 4000)
    np.testing.assert_array_equal(factors[0], 1.0)
    np.testing.assert_allclose((factors == 0).mean(axis=2), [[0.0, 0.0], [0.25, 0.25], [0.5, 0.5]], atol=0.03)
    np.testing.assert_allclose(factors.mean(axis=2), 1.0, atol=0.05)
    assert set(np.unique(factors[2])) == {0.0, 2.0}
    assert not np.array_equal(factors[2, 0], factors[2, 1])


# --- bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"head": "conv"}, r"pixelshuffle, pixelshuffledirect, nearest\+conv, none"),
        ({"scale": 3}, "scale is 3: .* one of 2, 4"),
        ({"head": "none"}, "scale is 4: .* one of 1"),
        ({"residual": "2conv"}, "1conv, 3conv"),
        ({"heads": 3}, "multiple of heads"),
        ({"channels": 6, "residual": "3conv"}, "of 4 for 3conv"),
        ({"depths": ()}, "depths .* not empty"),
        ({"depths": (2, 0)}, "depths .* from 1"),
        ({"image_size": 7}, r"at least the window \(8\)"),
        ({"image_channels": 4}, "image_channels .* one of 1, 3"),
        ({"group_heads": (2,)}, r"group_heads .* for each of the 2 groups"),
        ({"group_heads": (2, 3)}, r"a divisor of channels \(8\)"),
        ({"mlp_ratio": 0.1}, "mlp_ratio is 0.1"),
        ({"absolute_positions": True, "image_size": 12}, r"a multiple of the window \(8\)"),
        ({"drop_path": 1.0}, "drop_path .* of at least 0 and below 1"),
    ],
)
def test_contradictory_settings_are_errors(changes, message):
    with pytest.raises(ValueError, match=message):
        TINY.clone(**changes)


def test_learned_positions_fit_one_size():
    model = TINY.clone(absolute_positions=True, image_size=16)
    assert shapes(model, 13, 16)[0]["positions"].shape == (1, 256, 8)
    with pytest.raises(ValueError, match=r"16x16 \(image_size\) only, got 16x24"):
        shapes(model, 16, 17)


@pytest.mark.parametrize("shape", [(8, 8, 3), (1, 8, 8, 1), (1, 0, 8, 3)])
def test_images_that_do_not_fit_are_errors(shape):
    with pytest.raises(ValueError, match=r"\[B, H, W, 3\]"):
        jax.eval_shape(TINY.init, jax.random.key(0), jnp.zeros(shape))
