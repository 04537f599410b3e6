"""Layer analysis: cosines, factors, densities and matrices of a recipe with constructed taps."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from framer_jax.evaluation.layers import (
    BINS,
    layer_analysis,
    layer_similarity,
    mapped_taps,
    tap_program,
    tap_shapes,
)
from framer_jax.recipes.base import LayerTaps, Loss, Recipe, Update

KEY = jax.random.key(0)


def recipe(taps, layer_taps=None):
    """A recipe whose taps are a function of the batch's 'lr' and its parameters' 'gain'."""

    def loss(params, frozen, state, batch, key, step):
        maps = taps(batch["lr"] * params["gain"])
        return Loss(jnp.zeros(batch["lr"].shape[0]), {}, tuple(maps), state)

    def sample(params, frozen, lr, noise):
        return lr

    return Recipe("constructed", 1, lambda key, batch: {}, (Update("only", (), loss),), sample, layer_taps=layer_taps)


def batch(seed, count=3, side=8):
    rng = np.random.default_rng(seed)
    return {"lr": rng.standard_normal((count, side, side, 4)).astype(np.float32)}


def average(x):
    """The low band only: the mean of every feature map."""
    return jnp.broadcast_to(x.mean(axis=(1, 2), keepdims=True), x.shape)


def students(x):
    return [x, -x, x - 2 * average(x), 3 * x, x]


PARAMS = {"gain": jnp.float32(1)}


@pytest.fixture(scope="module")
def analysis():
    program = tap_program(recipe(students))
    return layer_analysis(program, PARAMS, batch(0), batch(1), KEY, radius=0.1)  # the low band is the mean


def test_cosines_of_known_feature_maps(analysis):
    np.testing.assert_allclose(analysis.similarity.low, [1, -1, -1, 1], atol=1e-5)
    np.testing.assert_allclose(analysis.similarity.high, [1, -1, 1, 1], atol=1e-5)
    assert analysis.similarity.middle_high == pytest.approx(0, abs=1e-5)
    assert analysis.cosines.low.shape == (4, 3)
    alone = layer_similarity(recipe(students), PARAMS, batch(0), batch(1), KEY, radius=0.1)
    np.testing.assert_array_equal(alone, analysis.similarity)


def test_factors_are_those_of_the_loss(analysis):
    weight, alignment, factor = analysis.factors
    for band in (weight.low, weight.high):
        np.testing.assert_allclose(band, [1, 1, 1, 1 / 3], rtol=1e-5)  # 3 x has a relative difference of 2
    np.testing.assert_allclose(alignment.low, [1, 0, 0, 1], atol=1e-5)
    np.testing.assert_allclose(alignment.high, [1, 0, 1, 1], atol=1e-5)
    np.testing.assert_allclose(factor.high, [1, 0, 1, 1 / 3], atol=1e-5)


def test_densities_cover_every_coefficient(analysis):
    edges, low, high = analysis.densities
    assert low.shape == high.shape == (5, BINS)
    for band in (low, high):
        np.testing.assert_allclose(band @ np.diff(edges), 1, rtol=1e-4)
    np.testing.assert_array_equal(low[0], low[-1])
    centers = (edges[1:] + edges[:-1]) / 2
    assert (high[3] * np.diff(edges)) @ centers > (high[0] * np.diff(edges)) @ centers + 0.5  # 3 x is larger


def test_matrices_compare_the_images_of_one_layer(analysis):
    x = batch(1)["lr"]
    mean = x.mean(axis=(1, 2))  # [B, C]
    mean /= np.linalg.norm(mean, axis=1, keepdims=True)
    for band in analysis.matrices:
        assert band.shape == (5, 3, 3)
        np.testing.assert_allclose(np.diagonal(band, axis1=1, axis2=2), 1, atol=1e-5)
    for layer in analysis.matrices.low:
        np.testing.assert_allclose(layer, mean @ mean.T, atol=1e-5)


def test_the_probe_recovers_a_linear_map_of_the_teacher():
    mixing = np.random.default_rng(2).standard_normal((4, 6)).astype(np.float32)

    def taps(x):
        wider = x @ mixing + 1
        coarse = x[:, ::2, ::2]
        return [wider, jnp.zeros_like(wider), coarse, x]

    mapped = mapped_taps(tap_program(recipe(taps)), PARAMS, batch(0), batch(1), KEY)
    assert [tap.shape for tap in mapped] == [(3, 8, 8, 4)] * 4
    measured = layer_similarity(recipe(taps), PARAMS, batch(0), batch(1), KEY)
    assert min(measured.low[0], measured.high[0]) > 0.99
    assert measured.high[1] == pytest.approx(0, abs=1e-3)  # constant features: the best linear map is the mean
    assert 0 < measured.high[2] < 0.9


def test_one_tap_is_refused():
    with pytest.raises(ValueError, match="has 1 taps"):
        mapped_taps(tap_program(recipe(lambda x: [x])), PARAMS, batch(0), batch(1), KEY)


def test_a_chosen_time_asks_for_taps_at_it():
    times = []

    def compute(params, frozen, batch, key, time):
        times.append(time)
        return batch["lr"] * time, batch["lr"]

    timed = recipe(students, LayerTaps(compute, timesteps=5))
    program = tap_program(timed)
    for time in (0.25, 0.75):
        first, last = mapped_taps(program, PARAMS, batch(0), batch(1), KEY, time)
        np.testing.assert_allclose(first, time * last, rtol=1e-6)
    assert len(times) == 1, "one program serves all times"
    assert tap_shapes(timed, PARAMS, batch(1)) == ((8, 8, 4),) * 2
    assert tap_shapes(recipe(students), PARAMS, batch(1)) == ()
    with pytest.raises(ValueError, match="no taps at chosen timesteps"):
        mapped_taps(tap_program(recipe(students)), PARAMS, batch(0), batch(1), KEY, 0.5)


@pytest.mark.parametrize(("timesteps", "nearest"), [(0, 0.3), (1, 1.0), (5, 0.25), (1000, 300 / 999)])
def test_the_nearest_timestep(timesteps, nearest):
    assert LayerTaps(lambda *arguments: (), timesteps).nearest(0.3) == pytest.approx(nearest)
