"""Noise: random words as a function of position, exact Poisson counts, and the published formulas."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from framer_jax.degradations import noise, random_words


@pytest.fixture(scope="module")
def reference(fixtures):
    with np.load(fixtures / "realesrgan_primitives.npz") as archive:
        return {name: archive[name] for name in archive.files}


@pytest.fixture(scope="module")
def tolerance(reference):
    entries = json.loads(str(reference["meta"]))["float32_vs_float64"]
    return lambda name: entries[name]["atol"]


def pixel_words(seed, height=512, width=512):
    run = jax.jit(random_words.pixel_words, static_argnums=(2, 3))
    return np.asarray(run(np.uint32(seed), np.arange(4, dtype=np.uint32), height, width))


@pytest.fixture(scope="module")
def words():
    return pixel_words([123456789, 987654321])


def test_a_pixels_words_do_not_depend_on_the_canvas(words):
    small = pixel_words([123456789, 987654321], 100, 333)
    np.testing.assert_array_equal(small, words[:, :100, :333])


def test_planes_with_the_same_number_are_equal(words):
    gray = random_words.pixel_words(jnp.uint32([123456789, 987654321]), jnp.zeros(3, jnp.uint32), 8, 8)
    np.testing.assert_array_equal(gray, np.repeat(words[:1, :8, :8], 3, axis=0))


def test_words_are_uniform_and_independent(words):
    """Each plane, its highest and lowest bits; neighboring pixels, planes, and neighboring seeds."""
    unit = words.astype(np.float64) / 2**32
    for plane in unit:
        assert stats.kstest(plane.reshape(-1), "uniform").pvalue > 1e-3
    for shift in (0, 8, 16, 24):
        counts = np.bincount(((words >> shift) & 255).reshape(-1), minlength=256)
        assert stats.chisquare(counts).pvalue > 1e-3
    centered = unit - unit.mean(axis=(1, 2), keepdims=True)
    limit = 4.5 / 512
    for down, right in ((0, 1), (1, 0), (1, 1), (0, 2), (2, 0), (0, 16), (16, 0), (64, 64)):
        other = np.roll(centered, (-down, -right), axis=(1, 2))
        correlations = (centered[:, None] * other[None]).mean(axis=(2, 3)) * 12
        assert np.abs(correlations).max() < limit
    planes = (centered[:, None] * centered[None]).mean(axis=(2, 3)) * 12
    assert np.abs(planes - np.eye(4)).max() < limit
    for seed in ((123456799, 987654321), (123456789, 987654322), (987654321, 123456789)):
        other = pixel_words(seed) / 2**32 - 0.5
        assert np.abs((centered[:, None] * other[None]).mean(axis=(2, 3))).max() * 12 < limit


def test_the_spectrum_of_the_words_is_flat(words):
    """A poor hash of coordinates shows patterns, which are peaks in the spectrum."""
    power = np.abs(np.fft.fft2(words[0] / 2**32 - 0.5)) ** 2 / (512 * 512 / 12)
    assert power.max() < 25  # exponentially distributed: P(any of 2^18 above 25) = 4e-6
    assert stats.kstest(power[1:256].reshape(-1), "expon").pvalue > 1e-3


def test_folding_gives_another_seed_for_each_key():
    seeds = [
        np.asarray(random_words.fold_seed(jnp.uint32([1, 2]), jnp.uint32(key)))
        for key in ([0, 0], [0, 1], [1, 0], [7, 7])
    ]
    assert len({tuple(seed) for seed in seeds}) == 4


def test_gaussian_noise_is_standard_normal(words):
    normal = np.asarray(noise.standard_normal(jnp.asarray(words[:3])))
    for plane in normal:
        assert stats.kstest(plane.reshape(-1), "norm").pvalue > 1e-3
    extremes = np.asarray(noise.standard_normal(jnp.uint32([0, 2**31, 2**32 - 1])))
    assert np.isfinite(extremes).all()
    np.testing.assert_allclose(extremes[0], -extremes[2], rtol=1e-6)
    assert extremes[2] > 5


def test_poisson_noise_matches_given_the_same_counts(reference, tolerance):
    for index in range(2):
        image, scale = reference["in/img"][index], reference["in/poisson_scale"][index]
        color_rate, gray_rate = noise.poisson_rate(image), noise.poisson_rate(noise.grayscale(jnp.asarray(image)))
        for name, rate in (("out/poisson/rate_color", color_rate), ("out/poisson/rate_gray", gray_rate)):
            ours = rate.image * rate.gain
            np.testing.assert_allclose(ours, reference[name][index], rtol=0, atol=tolerance(name))
        color = noise.poisson_noise(color_rate, reference["in/poisson_color_counts"][index], scale)
        name = "out/poisson/noise_color_only"
        np.testing.assert_allclose(color, reference[name][index], rtol=0, atol=tolerance(name))
        luma = noise.poisson_noise(gray_rate, reference["in/poisson_gray_counts"][index], scale)
        ours = np.where(reference["in/gray_flag"][index] > 0.5, luma, color)
        name = "out/poisson/noise"
        np.testing.assert_allclose(ours, reference[name][index], rtol=0, atol=tolerance(name))


def test_gaussian_noise_matches_given_the_same_draws(reference, tolerance):
    sigma, gray = reference["in/gauss_sigma"] / 255, reference["in/gray_flag"] > 0.5
    for index in range(2):
        color, gray_draws = reference["in/gauss_color_noise"][index], reference["in/gauss_gray_noise"][None]
        for name, draws in (
            ("out/gauss/noise", gray_draws if gray[index] else color),
            ("out/gauss/noise_color_only", color),
        ):
            ours = np.broadcast_to(noise.gaussian_noise(jnp.asarray(draws), sigma[index]), (3, 48, 60))
            np.testing.assert_allclose(ours, reference[name][index], rtol=0, atol=tolerance(name))


def test_alias_tables_hold_the_exact_distribution():
    """The probability of every count in each of the 2304 tables, to 2^-32 per rounding."""
    tables = noise.alias_tables()
    assert tables.entries.nbytes < 1.5 * 2**20
    for exponent in range(noise.NUM_GAINS):
        bits = int(tables.bits[exponent])
        width = 2**bits
        rows = tables.entries[tables.starts[exponent] :][: 256 * width].reshape(256, width).astype(np.int64)
        threshold, alias = rows >> bits, rows & (width - 1)
        weight = np.zeros((256, width), np.int64)
        level = np.broadcast_to(np.arange(256)[:, None], rows.shape)
        np.add.at(weight, (level, np.arange(width)[None]), threshold)
        np.add.at(weight, (level, alias), 2 ** (32 - bits) - threshold)
        rates = np.arange(256) / 255 * 2.0**exponent
        exact = stats.poisson.pmf(np.arange(width)[None], rates[:, None])
        assert (weight.sum(axis=1) == 2**32).all()
        np.testing.assert_allclose(weight / 2**32, exact, rtol=0, atol=width * 2.0**-33)
        assert stats.poisson.sf(width - 1, 2.0**exponent) < 2.0**-32


@pytest.mark.parametrize(("level", "exponent"), [(1, 0), (255, 0), (40, 4), (200, 6), (3, 8), (130, 8), (255, 8)])
def test_poisson_counts_follow_the_poisson_distribution(words, level, exponent):
    rate = noise.PoissonRate(jnp.full((1, 512, 512), level, jnp.int32), jnp.int32(exponent))
    counts = np.asarray(jax.jit(noise.poisson_counts)(rate, words[:1])).reshape(-1).astype(int)
    mean = level / 255 * 2**exponent
    low, high = (int(bound) for bound in stats.poisson.ppf([0.001, 0.999], mean))
    inside = np.bincount(np.clip(counts, low, high) - low, minlength=high - low + 1)
    edges = stats.poisson.cdf(np.arange(low, high), mean)
    expected = np.diff(edges, prepend=0, append=1) * counts.size
    likely = expected > 5
    scaled = expected[likely] * inside[likely].sum() / expected[likely].sum()
    assert stats.chisquare(inside[likely], scaled).pvalue > 1e-3
    assert abs(counts.mean() - mean) < 5 * np.sqrt(mean / counts.size)


def test_poisson_gain_counts_the_distinct_levels_of_valid_pixels():
    image = np.zeros((4, 1, 8, 8), np.float32)
    image[1, 0, 0, 0] = 1
    image[2, 0, 0, :5] = np.arange(5) / 255
    image[3, 0] = np.arange(64).reshape(8, 8) / 255
    rate = jax.vmap(noise.poisson_rate)
    np.testing.assert_array_equal(rate(image).exponent, [0, 1, 3, 6])
    valid = np.ones((4, 8, 8), bool)
    valid[:, 0] = False
    np.testing.assert_array_equal(rate(image, valid).exponent, [0, 0, 0, 6])
