"""Checkerboard artifacts as a metric."""

import numpy as np
import pytest

from framer_jax.evaluation.checkerboard import PERIOD, SMALLEST_SIDE, SMALLEST_TEXTURE_SIDE, checkerboard
from framer_jax.evaluation.metrics import score

SIDE = 2 * SMALLEST_SIDE


def photograph(seed=0):
    return np.random.default_rng(seed).random((2, SIDE, SIDE, 3), np.float32)


def pattern(levels):
    """A checkerboard of single pixels, from -levels to levels."""
    rows, columns = np.indices((SIDE, SIDE))
    return (np.float32(levels / 255) * (1 - 2 * ((rows + columns) % 2)))[..., None].astype(np.float32)


@pytest.mark.parametrize("border", [0, 3, PERIOD])
def test_it_is_the_amplitude_of_the_pattern_in_levels(border):
    reference = photograph()
    np.testing.assert_allclose(checkerboard(reference + pattern(2.0), reference, border), [2.0, 2.0], rtol=1e-3)
    np.testing.assert_allclose(checkerboard(reference, reference, border), [0.0, 0.0], atol=1e-6)


def test_errors_that_do_not_repeat_hardly_count():
    reference = photograph()
    noise = 2.0 / 255 * np.random.default_rng(1).standard_normal(reference.shape).astype(np.float32)
    assert (score(reference + noise, reference, ["checkerboard"])["checkerboard"] < 0.3).all()


def test_a_pattern_whose_sign_changes_is_seen_by_the_strength_of_texture():
    reference = np.full((2, SIDE, SIDE, 3), 0.5, np.float32)
    signs = np.sign(np.random.default_rng(2).standard_normal((2, SIDE // PERIOD, SIDE // PERIOD, 1))).astype(np.float32)
    dots = np.zeros_like(reference)
    dots[:, ::PERIOD, ::PERIOD] = signs * np.float32(16 / 255)  # one pixel of each cell
    scores = score(reference + dots, reference, ["checkerboard", "checkerboard-texture"])
    assert (scores["checkerboard"] < 0.5).all() and (scores["checkerboard-texture"] > 2).all()


def test_small_images_are_refused():
    for metric, side in (("checkerboard", SMALLEST_SIDE), ("checkerboard-texture", SMALLEST_TEXTURE_SIDE)):
        small = photograph()[:, : side - 1]
        with pytest.raises(ValueError, match=f"images of {side - 1} x {SIDE} are smaller than a window"):
            score(small, small, [metric])
