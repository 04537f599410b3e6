"""SupResDiffGAN's generator: sizes, taps, settings, gradients. Its parity fixture is in test_check_parity.py."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from framer_jax.models.denoiser import LR_LATENT
from framer_jax.models.supresdiffgan_unet import SupResDiffGanUNet
from tests.support.drawn import drawn

TINY = SupResDiffGanUNet(channels=(8, 16), blocks=1, head_width=8, groups=4)
X, LR = (jax.random.normal(jax.random.key(seed), (2, 6, 4, 4), jnp.float32) for seed in (0, 1))
LEVEL = jnp.asarray([0.2, 0.9], jnp.float32)


@functools.cache
def variables():
    return drawn(TINY.init, jax.random.key(0), X, LEVEL, {LR_LATENT: LR})


def test_the_release_has_taps_of_every_level():
    """Shapes alone: nine maps, each twice as coarse as the one before, then finer again."""
    module = SupResDiffGanUNet()
    x = jax.ShapeDtypeStruct((2, 64, 48, 4), jnp.float32)
    level = jax.ShapeDtypeStruct((2,), jnp.float32)
    (estimate, taps), tree = jax.eval_shape(module.init_with_output, jax.random.key(0), x, level, {LR_LATENT: x})
    assert estimate.shape == x.shape and len(taps) == module.tap_count == 9
    assert [tap.shape[1:] for tap in taps] == [
        (32, 24, 64),
        (16, 12, 96),
        (8, 6, 128),
        (8, 6, 512),
        (8, 6, 512),
        (16, 12, 512),
        (32, 24, 128),
        (64, 48, 96),
        (64, 48, 64),
    ]
    assert tree["params"]["conv_in"]["kernel"].shape == (3, 3, 8, 64)
    assert tree["params"]["time"]["dense_0"]["kernel"].shape == (64, 256)


def test_the_estimate_depends_on_everything_it_is_given():
    estimate, taps = TINY.apply(variables(), X, LEVEL, {LR_LATENT: LR})
    assert estimate.shape == X.shape and estimate.dtype == jnp.float32
    assert [tap.shape for tap in taps] == [(2, 3, 2, 8), *[(2, 3, 2, 16)] * 2, (2, 6, 4, 16), (2, 6, 4, 8)]
    for changed in ((X + 1, LEVEL, LR), (X, LEVEL + 0.1, LR), (X, LEVEL, LR + 1)):
        other, _ = TINY.apply(variables(), *changed[:2], {LR_LATENT: changed[2]})
        assert np.abs(other - estimate).min(axis=(1, 2, 3)).shape == (2,) and not np.allclose(other, estimate)
    swapped, _ = TINY.apply(variables(), X[::-1], LEVEL[::-1], {LR_LATENT: LR[::-1]})
    np.testing.assert_allclose(swapped[::-1], estimate, atol=1e-5)


def test_gradients_reach_every_parameter():
    def loss(params):
        estimate, _ = TINY.apply({"params": params}, X, LEVEL, {LR_LATENT: LR})
        return jnp.square(estimate).mean()

    gradients = jax.jit(jax.grad(loss))(variables()["params"])
    still = [path for path, leaf in jax.tree.leaves_with_path(gradients) if not np.any(leaf)]
    # A bias of the keys adds the same to all scores of a query: softmax does not see it.
    assert {jax.tree_util.keystr(path) for path in still} <= {"['middle_attention']['key']['bias']"}


def test_bfloat16_stays_close_to_float32():
    inputs = variables(), X, LEVEL, {LR_LATENT: LR}
    rough, reference = (TINY.clone(dtype=dtype).apply(*inputs)[0] for dtype in (jnp.bfloat16, jnp.float32))
    assert rough.dtype == jnp.float32
    assert 1e-4 < np.sqrt(np.mean(np.square(rough - reference)) / np.mean(np.square(reference))) < 0.05


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"channels": (8, 18)}, "channels hold 18: they must be multiples of the 4 groups"),
        ({"head_width": 5}, "head_width is 5: it must divide the width of the last level, 16"),
        ({"blocks": 0}, "blocks"),
    ],
)
def test_contradictory_settings_are_errors(changes, message):
    with pytest.raises(ValueError, match=message):
        TINY.clone(**changes)


@pytest.mark.parametrize(
    ("x", "condition", "message"),
    [
        (X[:, :5], {LR_LATENT: LR[:, :5]}, "multiples of 2"),
        (X, {LR_LATENT: LR[:, :4]}, r"shapes \(2, 6, 4, 4\) and \(2, 4, 4, 4\)"),
        (X[..., :3], {LR_LATENT: LR[..., :3]}, r"\[B, H, W, 4\]"),
        (X, {}, "lr_latent"),
    ],
)
def test_inputs_that_do_not_fit_are_errors(x, condition, message):
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(TINY.init, jax.random.key(0), x, LEVEL, condition)
