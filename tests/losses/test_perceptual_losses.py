"""DISTS and the L1 distance of features: equal images, symmetry, known values, shapes that do not fit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from framer_jax.losses.dists import dists, structure_similarity, texture_similarity
from framer_jax.losses.features import feature_distance

MAPS, OTHER = (
    [
        jax.random.uniform(jax.random.fold_in(key, side), (2, side, side, channels), jnp.float32)
        for side, channels in ((6, 3), (3, 5))
    ]
    for key in jax.random.split(jax.random.key(0), 2)
)
ALPHA, BETA = (jax.random.uniform(key, (8,)) for key in jax.random.split(jax.random.key(1), 2))


def test_dists_is_zero_for_equal_images_symmetric_and_as_written():
    distance = jax.jit(dists)
    value = distance(MAPS, OTHER, ALPHA, BETA)
    assert value.shape == (2,) and (np.asarray(value) > 0).all()
    np.testing.assert_allclose(distance(MAPS, MAPS, ALPHA, BETA), 0, atol=1e-6)
    np.testing.assert_allclose(distance(OTHER, MAPS, ALPHA, BETA), value, rtol=1e-6)
    shares, start = 0.0, 0
    for one, two in zip(MAPS, OTHER, strict=True):
        x, y = (np.asarray(maps, np.float64).reshape(2, -1, maps.shape[-1]) for maps in (one, two))
        part = slice(start, start := start + x.shape[-1])
        mean, other = x.mean(axis=1), y.mean(axis=1)
        covariance = (x * y).mean(axis=1) - mean * other
        texture = (2 * mean * other + 1e-6) / (mean**2 + other**2 + 1e-6)
        structure = (2 * covariance + 1e-6) / (x.var(axis=1) + y.var(axis=1) + 1e-6)
        np.testing.assert_allclose(texture_similarity(one, two), texture, rtol=1e-5)
        np.testing.assert_allclose(structure_similarity(one, two), structure, rtol=1e-4, atol=1e-5)
        shares = shares + (np.asarray(ALPHA)[part] * texture + np.asarray(BETA)[part] * structure).sum(axis=1)
    np.testing.assert_allclose(value, 1 - shares / float(ALPHA.sum() + BETA.sum()), rtol=1e-4)


def test_feature_distance_weighs_the_mean_absolute_difference_of_each_feature():
    value = feature_distance(MAPS, [maps + 0.5 for maps in MAPS], (0.1, 1.0))
    np.testing.assert_allclose(value, [0.55, 0.55], rtol=1e-5)
    np.testing.assert_array_equal(feature_distance(MAPS, MAPS, (0.1, 1.0)), [0, 0])


def test_the_weights_of_vgg19s_features_are_real_esrgans():
    """A difference of 10^l in feature l alone shows its weight as a digit."""
    zeros = [jnp.zeros((1, 2, 2, 3), jnp.float32)] * 5
    powers = [zero + 10.0**index for index, zero in enumerate(zeros)]
    np.testing.assert_allclose(feature_distance(powers, zeros), [0.1 * 1 + 0.1 * 10 + 100 + 1000 + 10_000], rtol=1e-6)


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="one entry for each of the 8 channels"):
        dists(MAPS, OTHER, ALPHA[:3], BETA)
    with pytest.raises(ValueError, match="features must agree"):
        dists(MAPS, OTHER[:1], ALPHA, BETA)
    with pytest.raises(ValueError, match="each needs one weight"):
        feature_distance(MAPS, OTHER)
