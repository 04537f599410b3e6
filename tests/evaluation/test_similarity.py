"""SSIM per channel and MS-SSIM: plain float64 formulas, scikit-image, and what holds for any images."""

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from framer_jax.evaluation.metrics import METRICS, score
from framer_jax.evaluation.similarity import SCALE_WEIGHTS, ms_ssim_y, multi_scale_similarity, ssim_rgb

WEIGHTS = np.exp(-(np.arange(-5, 6) ** 2) / (2 * 1.5**2))
WEIGHTS /= WEIGHTS.sum()


def pair(seed=0, batch=2, height=24, width=20, noise=0.1):
    generator = np.random.default_rng(seed)
    first = generator.random((batch, height, width, 3), np.float32)
    return first, np.clip(first + generator.normal(0, noise, first.shape).astype(np.float32), 0, 1)


def smooth(plane):
    """The Gaussian window 11x11 over a plane in float64, without padding."""
    rows = np.lib.stride_tricks.sliding_window_view(plane, 11, axis=0) @ WEIGHTS
    return np.lib.stride_tricks.sliding_window_view(rows, 11, axis=1) @ WEIGHTS


def terms(first, second, peak=255.0):
    """Luminance and contrast-structure of two planes, the formula of 2004 in float64."""
    mean, other = smooth(first), smooth(second)
    variance, other_variance = smooth(first**2) - mean**2, smooth(second**2) - other**2
    covariance = smooth(first * second) - mean * other
    small, large = (0.01 * peak) ** 2, (0.03 * peak) ** 2
    luminance = (2 * mean * other + small) / (mean**2 + other**2 + small)
    return luminance, (2 * covariance + large) / (variance + other_variance + large)


def halved(plane):
    padded = np.pad(plane, [(side % 2, side % 2) for side in plane.shape])
    height, width = (side // 2 * 2 for side in padded.shape)
    cut = padded[:height, :width]
    return (cut[::2, ::2] + cut[1::2, ::2] + cut[::2, 1::2] + cut[1::2, 1::2]) / 4


def multi_scale(first, second):
    value = 1.0
    for scale, weight in enumerate(SCALE_WEIGHTS):
        luminance, structure = terms(first, second)
        mean = (luminance * structure if scale == 4 else structure).mean()
        value *= max(mean, 0.0) ** weight
        first, second = halved(first), halved(second)
    return value


def levels(image):
    """Rounded BT.601 studio luma in float64."""
    return np.round(image.astype(np.float64) @ np.array([65.481, 128.553, 24.966]) + 16.0)


@settings(deadline=None, max_examples=5)
@given(seed=st.integers(0, 10_000), noise=st.sampled_from([0.01, 0.1, 0.5]))
def test_ssim_rgb_is_the_formula_in_float64(seed, noise):
    first, second = pair(seed, noise=noise)
    made = np.asarray(ssim_rgb(first, second))
    for index in range(2):
        planes = [image[index].astype(np.float64) * 255 for image in (first, second)]
        channels = [np.prod(terms(planes[0][..., c], planes[1][..., c]), axis=0).mean() for c in range(3)]
        assert made[index] == pytest.approx(np.mean(channels), abs=2e-6)


def test_ssim_rgb_equals_scikit_image():
    similarity = pytest.importorskip("skimage.metrics").structural_similarity
    first, second = (np.round(255 * image) for image in pair(height=40, width=36))
    made = np.asarray(ssim_rgb(first / np.float32(255), second / np.float32(255)))
    for index in range(2):
        planes = [image[index].astype(np.float64) for image in (first, second)]
        options = {"data_range": 255, "gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
        maps = [similarity(*(plane[..., c] for plane in planes), full=True, **options)[1] for c in range(3)]
        assert made[index] == pytest.approx(np.mean([entry[5:-5, 5:-5].mean() for entry in maps]), abs=2e-6)


def test_negative_structure_counts_for_ssim_rgb_only():
    image, _ = pair()
    scores = score(1 - image, image, ["ssim-rgb", "ssim-y"])
    assert (scores["ssim-rgb"] < 0).all() and (scores["ssim-y"] >= 0).all()


@pytest.mark.parametrize(("height", "width"), [(176, 192), (161, 170), (203, 187)])
def test_ms_ssim_is_the_formula_in_float64(height, width):
    first, second = pair(height + width, 1, height, width, noise=0.3)
    made = float(ms_ssim_y(first, second)[0])
    assert made == pytest.approx(multi_scale(levels(first[0]), levels(second[0])), abs=2e-6)


def test_ms_ssim_weighs_five_scales_and_needs_161_pixels():
    assert sum(SCALE_WEIGHTS) == pytest.approx(1, abs=2e-4)
    image, other = pair(0, 1, 161, 160)
    assert METRICS["ms-ssim-y"].fits(161, 161) and not METRICS["ms-ssim-y"].fits(161, 160)
    with pytest.raises(ValueError, match="at least 161x161 pixels; got 161x160"):
        score(image, other, ["ms-ssim-y"])
    with pytest.raises(ValueError, match="at least 161x161 pixels; got 159x158"):
        score(image, other, ["ms-ssim-y"], crop_border=1)


def test_an_inverted_image_has_no_multi_scale_similarity():
    plane = np.round(255 * pair(1, 1, 161, 161)[0][..., 0])
    assert float(jax.jit(multi_scale_similarity)(plane, 255 - plane)[0]) == 0.0


@pytest.mark.parametrize(("name", "side"), [("ssim-rgb", 24), ("ms-ssim-y", 161)])
def test_equal_images_noise_flips_and_order(name, side):
    image, _ = pair(3, 1, side, side + 1)
    noise = np.random.default_rng(4).normal(size=image.shape).astype(np.float32)
    noisy = [np.clip(image + np.float32(level) * noise, 0, 1) for level in (0.0, 0.02, 0.1, 0.3)]
    scores = [float(score(other, image, [name])[name][0]) for other in noisy]
    assert scores[0] == pytest.approx(1, abs=1e-6)
    assert scores == sorted(scores, reverse=True) and len(set(scores)) == 4
    assert float(score(image, noisy[2], [name])[name][0]) == pytest.approx(scores[2], abs=1e-6)
    if name == "ssim-rgb":  # halving an odd side starts at the left
        flipped = score(noisy[2][:, ::-1, ::-1], image[:, ::-1, ::-1], [name])[name]
        assert float(flipped[0]) == pytest.approx(scores[2], abs=1e-6)
