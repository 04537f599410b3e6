"""LPIPS: properties of the distance and its networks (its parity fixtures are in tests/tools/test_check_parity.py)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from framer_jax.losses.lpips import lpips, lpips_terms, unit_length
from framer_jax.models.vgg import TRUNKS, Lpips, Trunk
from tests.support.drawn import drawn

KEYS = jax.random.split(jax.random.key(0), 6)
FEATURES = [jnp.abs(jax.random.normal(key, (3, side, side, 8))) for key, side in zip(KEYS[:2], (6, 3), strict=True)]
OTHER = [jnp.abs(jax.random.normal(key, (3, side, side, 8))) for key, side in zip(KEYS[2:4], (6, 3), strict=True)]
HEADS = [jax.random.uniform(key, (8,)) for key in KEYS[4:]]

compiled = jax.jit(lpips)


def test_one_distance_per_example_zero_for_equal_images_and_symmetric():
    distance = compiled(FEATURES, OTHER, HEADS)
    assert distance.shape == (3,)
    assert (np.asarray(distance) > 0).all()
    np.testing.assert_array_equal(compiled(FEATURES, FEATURES, HEADS), np.zeros(3))
    np.testing.assert_array_equal(compiled(OTHER, FEATURES, HEADS), distance)
    terms = lpips_terms(FEATURES, OTHER, HEADS)
    np.testing.assert_allclose(terms[0] + terms[1], distance, rtol=1e-6)
    part = lpips([feature[1:2] for feature in FEATURES], [feature[1:2] for feature in OTHER], HEADS)
    np.testing.assert_allclose(part, distance[1:2], rtol=1e-6)


def test_the_terms_are_equation_1():
    for term, first, second, head in zip(lpips_terms(FEATURES, OTHER, HEADS), FEATURES, OTHER, HEADS, strict=True):
        one, two = (np.asarray(maps, np.float64) for maps in (first, second))
        one, two = (maps / np.sqrt((maps**2).sum(axis=-1, keepdims=True)) for maps in (one, two))
        expected = ((one - two) ** 2 @ np.asarray(head, np.float64)).mean(axis=(1, 2))
        np.testing.assert_allclose(term, expected, rtol=1e-5)


def test_dead_features_give_no_nan():
    """A position whose channels are all zero has no direction; the root's derivative there is infinite."""
    dead = [feature.at[:, 0, 0].set(0.0) for feature in FEATURES]
    np.testing.assert_array_equal(unit_length(dead[0])[:, 0, 0], np.zeros((3, 8)))
    gradient = jax.jit(jax.grad(lambda features: lpips(features, OTHER, HEADS).sum()))(dead)
    assert all(np.isfinite(leaf).all() and leaf.any() for leaf in gradient)


def test_features_and_heads_must_fit():
    with pytest.raises(ValueError, match="1 heads"):
        lpips(FEATURES, OTHER, HEADS[:1])
    with pytest.raises(ValueError, match=r"head \(7,\)"):
        lpips(FEATURES, OTHER, [HEADS[0], HEADS[1][:7]])


@pytest.mark.parametrize(("net", "smallest"), [("vgg", 16), ("alex", 31)])
def test_trunks_give_five_features(net, smallest):
    model = Lpips(net)
    shapes = jax.eval_shape(model.init_with_output, jax.random.key(0), jnp.zeros((2, smallest, smallest, 3)))
    (features, heads), _ = shapes
    assert [head.shape for head in heads] == [(layer.channels,) for layer in TRUNKS[net] if layer.tap]
    for feature, head in zip(features, heads, strict=True):
        assert feature.shape[0] == 2 and feature.shape[1] > 0 and feature.shape[3:] == head.shape


def test_bfloat16_stays_close_to_float32():
    image = jax.random.uniform(KEYS[0], (1, 31, 31, 3), jnp.float32, -1.0, 1.0)
    tree = drawn(Trunk("alex").init, jax.random.key(0), image)
    rough, exact = (jax.jit(Trunk("alex", dtype).apply)(tree, image) for dtype in (jnp.bfloat16, jnp.float32))
    for mine, reference in zip(rough, exact, strict=True):
        assert mine.dtype == jnp.float32
        assert np.sqrt(np.mean(np.square(mine - reference)) / np.mean(np.square(reference))) < 0.02


def test_unknown_nets_are_errors():
    with pytest.raises(ValueError, match="vgg, alex"):
        Trunk("squeeze")
