"""Metrics by frequency: float64 formulas, Parseval's theorem, and what holds for any images."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from framer_jax.evaluation.metrics import METRICS, score
from framer_jax.evaluation.spectrum import BAND_RADIUS, QUANTISATION_POWER, radial_bins

BANDS = ("psnr-low", "psnr-high")
ERRORS = ("error-low", "error-high")
ALL = (*BANDS, *ERRORS, "spectrum-distance")

LUMA = np.array([65.481, 128.553, 24.966])


def pair(seed=0, batch=2, height=24, width=20, noise=0.1):
    generator = np.random.default_rng(seed)
    first = generator.random((batch, height, width, 3), np.float32)
    return np.clip(first + generator.normal(0, noise, first.shape).astype(np.float32), 0, 1), first


def wave(frequency, side=32, amplitude=0.25):
    """Gray columns [1, side, side, 3] with a cosine of an integer frequency about 0.5."""
    cosine = 0.5 + amplitude * np.cos(2 * np.pi * frequency * np.arange(side) / side)
    return np.broadcast_to(cosine[None, None, :, None], (1, side, side, 3)).astype(np.float32)


def low_band(height, width):
    rows, columns = np.fft.fftfreq(height) * 2, np.fft.fftfreq(width) * 2
    return np.hypot(rows[:, None], columns[None, :]) <= BAND_RADIUS * (1 + 1e-9)


def unit_luma(images):
    return images.astype(np.float64) @ LUMA / 219


sizes = pytest.mark.parametrize(("height", "width"), [(24, 20), (31, 17), (10, 40)])


@sizes
def test_band_scores_are_the_formulas_in_float64(height, width):
    sr, reference = pair(height, 2, height, width)
    made = score(sr, reference, [*BANDS, *ERRORS])
    low = low_band(height, width)
    error = np.fft.fft2(unit_luma(sr) - unit_luma(reference))
    whole = np.abs(np.fft.fft2(unit_luma(reference)))
    for name, mask in zip(("low", "high"), (low, ~low), strict=True):
        squares = (np.abs(error) ** 2 * mask).sum(axis=(1, 2)) / (height * width) ** 2 * (219 / 255) ** 2
        np.testing.assert_allclose(made[f"psnr-{name}"], -10 * np.log10(squares + 1e-8), atol=2e-4)
        relative = (np.abs(error) * mask).sum(axis=(1, 2)) / (whole * mask).sum(axis=(1, 2))
        np.testing.assert_allclose(made[f"error-{name}"], relative, rtol=2e-5)


@settings(deadline=None, max_examples=5)
@given(seed=st.integers(0, 10_000), noise=st.sampled_from([0.02, 0.1, 0.5]))
def test_the_squared_errors_of_the_bands_are_that_of_the_luma(seed, noise):
    scores = score(*pair(seed, noise=noise), [*BANDS, "psnr-y"])
    low, high, both = (10 ** (-scores[name].astype(np.float64) / 10) for name in (*BANDS, "psnr-y"))
    np.testing.assert_allclose(low + high - 1e-8, both, rtol=1e-4)


@pytest.mark.parametrize(("frequency", "band", "other"), [(3, "low", "high"), (4, "high", "low"), (15, "high", "low")])
def test_a_wave_is_in_one_band(frequency, band, other):
    """The rim of the low band lies at 0.2 * 16 = 3.2 periods."""
    scores = score(wave(frequency), wave(frequency, amplitude=0.0), [*BANDS, "psnr-y"])
    np.testing.assert_allclose(scores[f"psnr-{band}"], scores["psnr-y"], atol=1e-3)
    assert scores[f"psnr-{other}"][0] > 79


def test_relative_errors_of_known_images():
    reference = 0.3 * wave(2) + 0.3 * wave(9)
    for name, missing in (("error-low", 2), ("error-high", 9)):
        other = "error-high" if name == "error-low" else "error-low"
        without = reference - np.float32(0.3) * (wave(missing) - np.float32(0.5))
        scores = score(without, reference, ERRORS)
        assert scores[other][0] == pytest.approx(0, abs=1e-5)
        # 1 if the band is empty; the low band also holds the mean, whose magnitude is 0.3 against 2 * 0.0375
        assert scores[name][0] == pytest.approx(1 if name == "error-high" else 0.075 / 0.375, abs=1e-5)
    np.testing.assert_allclose(list(score(np.zeros_like(reference), reference, ERRORS).values()), 1.0, atol=1e-5)


def test_flat_and_black_references_have_no_relative_error():
    image, _ = pair(0, 1)
    gray, black = np.full_like(image, 0.3), np.zeros_like(image)
    for reference, undefined in ((gray, ["error-high"]), (black, list(ERRORS))):
        for sr in (image, reference):
            scores = score(sr, reference, ERRORS)
            assert [name for name in ERRORS if np.isnan(scores[name]).all()] == undefined
    one_level = gray.copy()
    one_level[0, 3, 4, 2] += 1 / 255  # the smallest detail of an 8-bit image
    assert np.isfinite(score(image, one_level, ["error-high"])["error-high"]).all()
    assert all("undefined: the reference" in METRICS[name].undefined for name in ERRORS)


@sizes
def test_spectrum_distance_is_the_formula_in_float64(height, width):
    sr, reference = pair(7, 2, height, width)
    window = np.outer(*(np.sin(np.pi * (np.arange(side) + 0.5) / side) ** 2 for side in (height, width)))
    count = min(height, width) // 2
    radius = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width)[None, :]) * 2
    bins = np.rint(radius * count).astype(int)

    def decibels(image):
        plane = unit_luma(image)
        centered = (plane - (plane * window).sum() / window.sum()) * window
        power = np.abs(np.fft.fft2(centered)) ** 2 / (window**2).sum()
        means = np.array([power[bins == k].mean() for k in range(1, count + 1)])
        return 10 * np.log10(means + QUANTISATION_POWER)

    expected = [
        np.sqrt(np.mean((decibels(first) - decibels(second)) ** 2)) for first, second in zip(sr, reference, strict=True)
    ]
    made = score(sr, reference, ["spectrum-distance"])["spectrum-distance"]
    np.testing.assert_allclose(made, expected, rtol=1e-4)


@sizes
def test_radial_bins_count_the_full_spectrum(height, width):
    bins, counts = radial_bins((height, width))
    radius = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width)[None, :]) * 2
    full = np.rint(radius * (min(height, width) // 2)).astype(int)
    assert bins[0, 0] == 0 and bins.max() == len(counts) == min(height, width) // 2
    np.testing.assert_array_equal(counts, [(full == k).sum() for k in range(1, len(counts) + 1)])
    assert (counts > 0).all()


def test_spectrum_distance_ignores_phase_contrast_of_nothing_and_scales_in_decibels():
    _, reference = pair(1, 1, 32, 32)
    name = "spectrum-distance"
    half = 0.5 + 0.5 * (reference - 0.5)
    assert score(half, reference, [name])[name][0] == pytest.approx(20 * np.log10(2), abs=1e-2)
    gray = np.full_like(reference, 0.4)
    assert score(gray, gray + np.float32(0.1), [name])[name][0] == pytest.approx(0, abs=1e-3)
    assert score(gray, reference, [name])[name][0] > 20


@pytest.mark.parametrize("name", ALL)
def test_equal_images_noise_and_flips(name):
    _, image = pair(3, 1, 33, 26)
    smooth = 0.5 + (wave(1, 40) - 0.5)[:, :33, :26] + 0.1 * (image - 0.5)
    noise = np.random.default_rng(4).normal(size=image.shape).astype(np.float32)
    noisy = [np.clip(smooth + np.float32(level) * noise, 0, 1) for level in (0.0, 0.02, 0.1, 0.3)]
    scores = [float(score(other, smooth, [name])[name][0]) for other in noisy]
    higher = METRICS[name].higher_is_better
    assert scores[0] == pytest.approx(80 if higher else 0, abs=1e-4)
    assert scores == sorted(scores, reverse=higher) and len(set(scores)) == 4
    for flip in (np.s_[:, ::-1], np.s_[:, :, ::-1]):
        assert float(score(noisy[2][flip], smooth[flip], [name])[name][0]) == pytest.approx(scores[2], rel=1e-4)
    padded = [np.pad(images, ((0, 0), (3, 3), (3, 3), (0, 0)), mode="reflect") for images in (noisy[2], smooth)]
    assert float(score(*padded, [name], crop_border=3)[name][0]) == pytest.approx(scores[2], rel=1e-5)
    batch = score(np.concatenate([noisy[1], noisy[2]]), np.concatenate([smooth, smooth]), [name])[name]
    np.testing.assert_allclose(batch, scores[1:3], rtol=1e-5)


@pytest.mark.parametrize("name", ALL)
def test_images_must_have_ten_pixels(name):
    image, other = pair(0, 1, 12, 9)
    assert METRICS[name].fits(10, 10) and not METRICS[name].fits(12, 9)
    with pytest.raises(ValueError, match="at least 10x10 pixels; got 12x9"):
        score(image, other, [name])


def test_large_images_are_summed_without_loss():
    generator = np.random.default_rng(0)
    reference = generator.random((1, 1024, 1536, 3), np.float32)
    sr = np.clip(reference + np.float32(0.01), 0, 1)
    scores = score(sr, reference, [*BANDS, *ERRORS, "psnr-y"])
    error = unit_luma(sr) - unit_luma(reference)
    low = low_band(1024, 1536)
    power = np.abs(np.fft.fft2(error)) ** 2 / error.size**2 * (219 / 255) ** 2
    for name, mask in (("psnr-low", low), ("psnr-high", ~low)):
        expected = -10 * np.log10((power * mask[None]).sum() + 1e-8)
        assert scores[name][0] == pytest.approx(expected, abs=2e-3)
    whole = np.abs(np.fft.fft2(unit_luma(reference)))
    for name, mask in (("error-low", low), ("error-high", ~low)):
        expected = (np.abs(np.fft.fft2(error)) * mask[None]).sum() / (whole * mask[None]).sum()
        assert scores[name][0] == pytest.approx(expected, rel=1e-4)
