"""Blend weights sum to 1 at every pixel, and tiles have one size and start at multiples of the latent grid."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from framer_jax.inference.tiler import (
    add_tile,
    gaussian_blend_weights,
    pad_image,
    plan_tiles,
    static_batch_size,
    tile_batches,
)


@st.composite
def layouts(draw):
    multiple = draw(st.sampled_from([1, 2, 3, 8]))
    tile = multiple * draw(st.integers(1, 6))
    overlap = draw(st.integers(0, tile - multiple))
    return draw(st.integers(1, 50)), draw(st.integers(1, 50)), tile, overlap, multiple


@settings(deadline=None, max_examples=60)
@given(layouts(), st.sampled_from([1, 2]), st.integers(1, 5), st.booleans())
def test_blending_the_tiles_of_an_image_restores_it(layout, scale, batch, reference_midpoint):
    height, width, side_limit, overlap, multiple = layout
    plan = plan_tiles(height, width, side_limit, overlap, multiple)
    for starts, side, padded, length in zip(
        (plan.grid.rows, plan.grid.columns), plan.grid.tile, plan.grid.shape, plan.image, strict=True
    ):
        assert all(start % multiple == 0 for start in starts)
        assert side % multiple == 0
        assert side <= side_limit
        assert starts[0] == 0
        assert starts[-1] + side == padded >= length
        assert all(a < b <= a + side - overlap for a, b in pairwise(starts))
    image = np.random.default_rng(0).random((height, width, 3), np.float32)
    padded_image = pad_image(image, plan)
    assert padded_image.shape[:2] == plan.grid.shape
    weights = gaussian_blend_weights(plan, scale, reference_midpoint)
    canvas = np.zeros((height * scale, width * scale, 3), np.float32)
    seen = []
    for indices, tiles, origins in tile_batches(padded_image, plan, batch):
        assert tiles.shape == (batch, *plan.grid.tile, 3)
        assert origins.dtype == np.int32
        seen += indices.tolist()
        for index, tile in zip(indices.tolist(), tiles, strict=False):
            add_tile(canvas, tile.repeat(scale, 0).repeat(scale, 1), index, plan, weights)
    assert seen == list(range(plan.grid.num_tiles))
    np.testing.assert_allclose(canvas, image.repeat(scale, 0).repeat(scale, 1), atol=2e-6)


def test_a_single_tile_has_weight_one():
    plan = plan_tiles(13, 16, 16, 4, 4)
    assert all((profile == 1).all() for profiles in gaussian_blend_weights(plan, 4) for profile in profiles)


def test_small_images_have_few_tile_shapes():
    shapes = {plan_tiles(h, w, 128, 16, 16).grid.tile for h in range(1, 200, 7) for w in range(1, 200, 7)}
    assert shapes == {(h, w) for h in (32, 64, 96, 128) for w in (32, 64, 96, 128)}
    assert {static_batch_size(tiles, 6) for tiles in range(1, 50)} == {1, 2, 4, 6}


def test_tiles_are_as_small_as_their_number_allows():
    plan = plan_tiles(140, 300, 128, 16)
    assert plan.grid.tile == (96, 128)
    assert plan.grid.rows == (0, 44)
    assert plan.grid.columns == (0, 112, 172)
    for length in range(129, 500, 3):
        plan = plan_tiles(length, 1, 128, 16)
        rows, side = plan.grid.rows, plan.grid.tile[0]
        assert len(rows) == -(-(length - 128) // 112) + 1  # as many as tiles of the requested side
        assert side == 128 or (len(rows) - 1) * (side - 16) + side >= length


def test_reflection_padding_longer_than_the_image():
    image = np.arange(2, dtype=np.float32).reshape(1, 2, 1)
    padded = pad_image(image, plan_tiles(1, 2, 8, 0, 8))
    np.testing.assert_array_equal(padded[3, :, 0], [0, 1, 0, 1, 0, 1, 0, 1])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((10, 10, 130, 16, 64), "use 128 or 192"),
        ((10, 10, 20, 4, 64), "use 64"),
        ((10, 10, 128, 65, 64), "between 0 and 64"),
        ((10, 10, 128, -1, 64), "between 0 and 64"),
        ((0, 10, 128, 0, 64), "0x10 pixels"),
    ],
)
def test_bad_plans_name_a_remedy(arguments, message):
    with pytest.raises(ValueError, match=message):
        plan_tiles(*arguments)
