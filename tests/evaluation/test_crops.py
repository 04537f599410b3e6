"""Where automatic crops are."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from framer_jax.evaluation.crops import Crop, automatic_crop, default_crop_size


def test_the_crop_is_where_the_images_disagree():
    images = np.zeros((3, 40, 60, 3), np.uint8)
    images[1, 20:24, 41:45] = 200
    crop = automatic_crop(list(images), 4)
    assert crop == Crop(41, 20, 4)
    x, y, size = automatic_crop(list(images), 10)
    assert x <= 41 and x + size >= 45 and y <= 20 and y + size >= 24


def test_equal_images_and_a_single_one_are_cropped_in_the_middle():
    image = np.arange(30 * 20 * 3, dtype=np.uint8).reshape(30, 20, 3)
    assert automatic_crop([image, image], 10) == automatic_crop([image], 10) == Crop(5, 10, 10)


def test_of_equal_squares_the_first_is_taken():
    images = np.zeros((2, 12, 12, 3), np.uint8)
    images[1, 2, 3] = images[1, 8, 9] = 50
    assert automatic_crop(list(images), 1) == Crop(3, 2, 1)


@given(st.integers(1, 8), st.integers(0, 100))
def test_the_sum_is_the_largest_of_all_squares(size, seed):
    images = np.random.default_rng(seed).integers(0, 256, (3, 9, 11, 3)).astype(np.uint8)
    variance = images.astype(np.float64).var(axis=0).sum(axis=2)
    sums = {
        (x, y): variance[y : y + size, x : x + size].sum() for y in range(9 - size + 1) for x in range(11 - size + 1)
    }
    crop = automatic_crop(list(images), size)
    assert sums[crop.x, crop.y] == pytest.approx(max(sums.values()))


@pytest.mark.parametrize(("side", "size"), [(8, 8), (40, 16), (512, 128)])
def test_the_default_side_is_a_quarter(side, size):
    assert default_crop_size(side, side + 100) == size


def test_a_crop_that_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="11 pixels does not fit into an image of 10x10"):
        automatic_crop([np.zeros((10, 10, 3), np.uint8)], 11)
