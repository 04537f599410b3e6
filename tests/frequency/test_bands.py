"""Fourier bands, compared with the full complex FFT."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from framer_jax.frequency import bands

SIDES = st.integers(1, 9)
RADII = st.floats(0.0, 1.5)
SIZES = st.sampled_from([(4, 4), (5, 7), (6, 5), (3, 8), (1, 2), (2, 1)])  # few, because every shape compiles


def draw(shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def full_cosine(x, y, mask):
    """Cosines Re<X, Y> / (|X| |Y|) of the masked full spectra, float64, per image."""
    first, second = (np.fft.fft2(z.astype(np.float64), axes=(-3, -2)) * mask[..., None] for z in (x, y))
    dots = (first * second.conj()).real.sum((-3, -2, -1))
    return dots / np.sqrt((np.abs(first) ** 2).sum((-3, -2, -1)) * (np.abs(second) ** 2).sum((-3, -2, -1)))


@given(height=SIDES, width=SIDES, radius=RADII)
@settings(deadline=None, max_examples=60)
def test_disc_layouts_agree(height, width, radius):
    full = bands.disc_mask((height, width), radius, "full")
    np.testing.assert_array_equal(bands.disc_mask((height, width), radius), full[:, : width // 2 + 1])
    np.testing.assert_array_equal(bands.disc_mask((height, width), radius, "centered"), np.fft.fftshift(full))
    assert full[0, 0]
    mirrored = full[(-np.arange(height)) % height][:, (-np.arange(width)) % width]
    np.testing.assert_array_equal(mirrored, full)  # the filtered maps are real
    weighted = (full[:, : width // 2 + 1] * bands.hermitian_weights(width)).sum()
    assert weighted == full.sum()


def test_disc_radius_is_a_fraction_of_nyquist():
    assert bands.disc_mask((16, 16), 0.2, "full").sum() == 9  # |k| <= 1.6: the 3 x 3 corner
    assert bands.disc_mask((20, 20), 0.2, "full").sum() == 13  # |k| <= 2, including the rim
    assert bands.disc_mask((64, 64), 0.002, "full").sum() == 1
    assert bands.disc_mask((6, 8), 1.5).all()
    tall = bands.disc_mask((40, 10), 0.5, "full")  # an ellipse: 10 bins along the rows axis, 2.5 along the columns
    assert (tall.any(1).sum(), tall.any(0).sum()) == (21, 5)


@given(size=SIZES, seed=st.integers(0, 99))
@settings(deadline=None, max_examples=8)
def test_half_spectrum_products_are_those_of_the_full_fft(size, seed):
    width = size[1]
    x, y = draw((2, *size, 2), seed), draw((2, *size, 2), seed + 100)
    first, second = (np.fft.fft2(z.astype(np.float64), axes=(1, 2)) for z in (x, y))
    half = [bands.spectrum(jnp.asarray(z)) for z in (x, y)]
    assert half[0].dtype == jnp.complex64
    products = {False: (first * second.conj()).real, True: np.abs(first) * np.abs(second)}
    for magnitude_only, expected in products.items():
        a, b = (np.asarray(bands.spectral_features(z, width, magnitude_only)) for z in half)
        np.testing.assert_allclose((a * b).sum((1, 2, 3, 4)), expected.sum((1, 2, 3)), rtol=1e-4, atol=1e-3)
    magnitudes = bands.full_layout(jnp.abs(half[0]), width)
    np.testing.assert_allclose(magnitudes, np.abs(first), rtol=1e-4, atol=1e-4)


@given(size=SIZES, radius=st.sampled_from([0.0, 0.2, 0.5, 0.75, 1.0, 1.5]))
@settings(deadline=None, max_examples=10)
def test_split_without_fft_equals_the_filtered_maps(size, radius):
    height, width = size
    x = draw((2, height, width, 2))
    mask = bands.disc_mask((height, width), radius, "full")
    spectra = np.fft.fft2(x.astype(np.float64), axes=(1, 2))
    expected = np.fft.ifft2(spectra * ~mask[..., None], axes=(1, 2)).real
    basis = bands.low_pass((height, width), radius)
    assert basis.mask.sum() == mask.sum()
    low, high = bands.split_bands(jnp.asarray(x), basis)
    np.testing.assert_allclose(high, expected, atol=3e-6)
    energy = (np.abs(spectra * mask[..., None]) ** 2).sum((1, 2, 3)) / (height * width)
    np.testing.assert_allclose(np.square(low).sum((1, 2, 3)), energy, rtol=1e-4, atol=1e-5)


def test_gradient_of_the_split_is_that_of_the_full_fft():
    x, y = (jnp.asarray(draw((3, 5, 6, 2), seed)) for seed in (0, 1))
    mask = bands.disc_mask((5, 6), 0.5, "full")
    basis = bands.low_pass((5, 6), 0.5)

    def product(x, index):
        return (bands.split_bands(x, basis)[index] * bands.split_bands(y, basis)[index]).sum()

    for index, keep in enumerate((mask, ~mask)):
        keep = jnp.asarray(keep, jnp.complex64)[None, :, :, None]

        def by_fft(x, keep=keep):
            first, second = (jnp.fft.fft2(z, axes=(1, 2)) * keep for z in (x, y))
            return (first * second.conj()).real.sum() / 30

        np.testing.assert_allclose(jax.grad(product)(x, index), jax.grad(by_fft)(x), atol=5e-6)


@given(size=st.sampled_from([(4, 4), (5, 7), (6, 5), (3, 8)]), radius=st.floats(0.0, 0.9))
@settings(deadline=None, max_examples=8)
def test_band_cosine_equals_the_full_fft(size, radius):
    height, width = size
    x, y = draw((3, height, width, 2)), draw((3, height, width, 2), 1)
    full = bands.disc_mask((height, width), radius, "full")
    low, high = bands.band_cosine(jnp.asarray(x), jnp.asarray(y), bands.disc_mask((height, width), radius))
    np.testing.assert_allclose(low, full_cosine(x, y, full), atol=1e-5)
    np.testing.assert_allclose(high, full_cosine(x, y, ~full), atol=1e-5)


def test_half_precision_maps_are_compared_in_float32():
    x = jnp.asarray(draw((2, 4, 4, 2)), jnp.bfloat16)
    assert bands.spectrum(x).dtype == jnp.complex64
    low, _ = bands.band_cosine(x, x, bands.disc_mask((4, 4), 0.5))
    assert low.dtype == jnp.float32
    np.testing.assert_allclose(low, 1.0, rtol=1e-6)


@given(size=SIZES, quantile=st.floats(0.0, 1.0))
@settings(deadline=None, max_examples=10)
def test_quantile_mask_counts_the_full_spectrum(size, quantile):
    width = size[1]
    magnitude = jnp.abs(bands.spectrum(jnp.asarray(draw((2, *size, 3)))))
    full = np.asarray(bands.full_layout(magnitude, width), np.float64)
    threshold = np.stack([np.quantile(one, quantile) for one in full])[:, None, None, None]
    near = np.abs(full - threshold) < 1e-5 * threshold  # rounding decides for magnitudes at the threshold itself
    mine = np.asarray(bands.full_layout(bands.quantile_mask(magnitude, width, quantile), width))
    np.testing.assert_array_equal(mine | near, (full < threshold) | near)


@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("width", [5, 6])
def test_band_magnitude_equals_the_full_spectrum(width, per_channel):
    magnitude = jnp.abs(bands.spectrum(jnp.asarray(draw((2, 4, width, 3)))))
    full = np.asarray(bands.full_layout(magnitude, width))
    disc = bands.disc_mask((4, width), 0.6)
    quantile = bands.quantile_mask(magnitude, width, 0.4)
    for mask in (jnp.asarray(disc)[None, :, :, None], quantile, quantile[..., :1]):
        where = np.broadcast_to(np.asarray(bands.full_layout(mask, width)), full.shape)
        if per_channel:
            expected = [np.mean([one[m].mean() for one, m in zip(f.T, w.T, strict=True)]) for f, w in zip(full, where)]  # noqa: B905
        else:
            expected = [f[w].mean() for f, w in zip(full, where, strict=True)]
        np.testing.assert_allclose(bands.band_magnitude(magnitude, mask, width, per_channel), expected, rtol=1e-5)
    empty = bands.band_magnitude(magnitude, jnp.zeros((1, 4, width // 2 + 1, 1), bool), width, per_channel)
    assert not np.asarray(empty).any()


def test_similarity_matrices():
    x, y = draw((2, 5, 6, 2)), draw((3, 5, 6, 2), 1)
    full = bands.disc_mask((5, 6), 0.6, "full")
    low, high = bands.band_similarity_matrices(jnp.asarray(x), jnp.asarray(y), bands.disc_mask((5, 6), 0.6))
    for mine, mask in ((low, full), (high, ~full)):
        np.testing.assert_allclose(mine, full_cosine(x[:, None], y[None], mask), atol=1e-5)


def test_log_magnitude_density():
    x, edges = draw((2, 5, 6, 3)), np.linspace(0.0, 5.0, 11)
    full = bands.disc_mask((5, 6), 0.6, "full")
    values = np.log1p(np.abs(np.fft.fft2(x, axes=(1, 2))))
    low, high = bands.log_magnitude_density(jnp.asarray(x), bands.disc_mask((5, 6), 0.6), edges)
    for mine, mask in ((low, full), (high, ~full)):
        np.testing.assert_allclose(mine, np.histogram(values[:, mask], edges, density=True)[0], atol=1e-5)
        assert float((mine * 0.5).sum()) == pytest.approx(1.0, rel=1e-5)


def test_only_vectors_below_the_bound_are_taken_for_longer_ones():
    """1e-12, or 1e-6 of the length before a mask was applied; the bound has no gradient."""
    direction = jnp.asarray([[0.6, 0.8]], jnp.float32)
    for whole, length, counted in ((None, 2e-12, 2e-12), (None, 1e-13, 1e-12), (3.0, 6e-6, 6e-6), (3.0, 1e-6, 3e-6)):
        scale = None if whole is None else jnp.asarray([whole], jnp.float32)
        inverse = bands.inverse_length(jnp.float32(length) * direction, scale)
        np.testing.assert_allclose(inverse, [1 / counted], rtol=1e-5)
    slope = jax.grad(lambda scale: bands.inverse_length(jnp.float32(1e-6) * direction, scale).sum())
    np.testing.assert_array_equal(slope(jnp.asarray([3.0], jnp.float32)), [0.0])


def test_leading_axes_of_a_half_spectrum_are_free():
    half = jnp.asarray(draw((2, 3, 4, 3, 2)))
    np.testing.assert_array_equal(bands.full_layout(half, 5)[1, 2], bands.full_layout(half[1, 2], 5))


def test_rounding_errors_do_not_count_as_a_high_band():
    flat = jnp.full((2, 8, 8, 3), 3.1, jnp.float32)
    _, high = bands.split_bands(flat, bands.low_pass((8, 8), 0.2))
    lengths = jnp.sqrt(jnp.sum(jnp.square(flat), axis=(1, 2, 3)))
    vectors = high.reshape(2, -1)
    unit = vectors * bands.inverse_length(vectors, lengths)[:, None]
    assert float(jnp.square(unit).sum(-1).max()) < 0.5
    assert np.isfinite(np.asarray(bands.inverse_length(jnp.zeros((2, 3)))) * 0.0).all()


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: bands.disc_mask((8, 8), -0.1), "radius"),
        (lambda: bands.disc_mask((8, 8), float("nan")), "radius"),
        (lambda: bands.disc_mask((0, 8), 0.1), "positive sides"),
        (lambda: bands.disc_mask((8, 8), 0.1, "shifted"), "shifted"),
        (lambda: bands.low_pass((8, 8), -1.0), "radius"),
        (lambda: bands.quantile_mask(jnp.ones((1, 2, 2, 1)), 2, 1.1), "quantile"),
        (lambda: bands.spectrum(jnp.ones((2, 2))), r"\[..., H, W, C\]"),
    ],
)
def test_bad_input_raises_an_error_that_names_it(call, words):
    with pytest.raises(ValueError, match=words):
        call()
