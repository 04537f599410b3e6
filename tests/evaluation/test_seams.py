"""The seam measure: where lines lie, steps and kinks across them, and images without seams."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from framer_jax.evaluation.metrics import METRICS, score
from framer_jax.evaluation.seams import TileLines, line_positions, parse_tile_lines

LINES = TileLines(16)


def seam(image, lines=LINES, crop_border=0):
    return float(score(image, None, ["seam"], crop_border=crop_border, tile_lines=lines)["seam"][0])


def texture(seed=0, height=64, width=80, contrast=0.1):
    generator = np.random.default_rng(seed)
    return (0.5 + contrast * (generator.random((1, height, width, 3), np.float32) - 0.5)).astype(np.float32)


def tiled(image, step, side=16):
    """The image with a constant per tile added, of either sign like a chessboard."""
    rows, columns = (np.arange(length) // side for length in image.shape[1:3])
    sign = 1 - 2 * ((rows[:, None] + columns[None, :]) % 2)
    return (image + np.float32(step / 2) * sign[None, :, :, None]).astype(np.float32)


@pytest.mark.parametrize(("text", "lines"), [("512", (512, 0)), ("512:64", (512, 64)), (" 16 : 8", (16, 8))])
def test_tile_lines_are_read(text, lines):
    assert parse_tile_lines(text) == lines


@pytest.mark.parametrize("text", ["", "a", "512:", "512:64:2", "-512", "512:-1", "5.5", "7", "64:57", "64:64", "0"])
def test_bad_tile_lines_are_refused(text):
    with pytest.raises(ValueError, match=r"--tile-lines"):
        parse_tile_lines(text)


def test_lines_lie_at_the_start_of_a_tile_and_at_the_end_of_the_one_before():
    assert line_positions(64, TileLines(16)) == [16, 32, 48]
    assert line_positions(65, TileLines(16)) == [16, 32, 48, 64]
    assert line_positions(40, TileLines(16, 4)) == [12, 16, 24, 28, 36]
    assert line_positions(16, TileLines(16)) == []


def test_the_ratio_is_the_definition():
    image = texture(height=40, width=48)[:, :, :20]
    rows = np.abs(np.diff(image[0].astype(np.float64), 2, axis=0)).mean(axis=(1, 2))  # [38], centered at 1 .. 38
    columns = np.abs(np.diff(image[0].astype(np.float64), 2, axis=1)).mean(axis=(0, 2))
    at = np.isin(np.arange(1, 39), [15, 16, 31, 32]), np.isin(np.arange(1, 19), [15, 16])
    numerator = (rows[at[0]].mean() + columns[at[1]].mean()) / 2
    denominator = (rows[~at[0]].mean() + columns[~at[1]].mean()) / 2
    assert seam(image) == pytest.approx((numerator + 1e-4) / (denominator + 1e-4), rel=1e-5)


@settings(deadline=None, max_examples=5)
@given(seed=st.integers(0, 1000))
def test_a_texture_has_no_seam_and_steps_add_one(seed):
    image = texture(seed)
    plain = seam(image)
    assert plain == pytest.approx(1, abs=0.15)
    steps = [seam(tiled(image, step)) for step in (0.02, 0.05, 0.2)]
    assert plain < steps[0] < steps[1] < steps[2] and steps[2] > 3
    assert seam(tiled(image, 0.2), TileLines(20)) < steps[2] / 1.5, "steps elsewhere are no seams"
    for flip in (np.s_[:, ::-1], np.s_[:, :, ::-1]):  # both sides are whole numbers of tiles
        assert seam(tiled(image, 0.2)[flip]) == pytest.approx(steps[2], rel=1e-5)


def test_flat_images_and_gradients_have_the_ratio_one():
    gray = np.full((1, 48, 48, 3), 0.3, np.float32)
    ramp = np.broadcast_to(np.linspace(0, 1, 48, dtype=np.float32)[None, None, :, None], gray.shape)
    assert seam(gray) == pytest.approx(1, abs=1e-6)
    assert seam(ramp) == pytest.approx(1, abs=5e-3)
    assert seam(tiled(gray, 0.1)) > 100


def test_a_kink_is_seen():
    slope = np.abs(np.arange(64) - 31.5) / 64  # a kink between two tiles, without a step
    image = texture(contrast=0.002) + np.broadcast_to(slope[None, :, None, None], (1, 64, 80, 3)).astype(np.float32)
    assert seam(image, TileLines(32)) > 2


def test_only_axes_with_lines_count():
    image = texture(1, 14, 64)
    columns_only = np.concatenate([image, texture(2, 2, 64, 0.9)], axis=1)[:, :14]
    assert seam(columns_only) == pytest.approx(seam(image), rel=1e-5)


def test_lines_stay_where_they_are_when_borders_are_ignored():
    image = tiled(texture(), 0.2)
    inner = seam(image, crop_border=5)
    assert inner == pytest.approx(seam(image), rel=0.2) and inner > 3
    shifted = score(image[:, 5:-5, 5:-5], None, ["seam"], tile_lines=LINES)["seam"][0]
    assert shifted < inner / 2


def test_an_image_within_a_tile_has_no_score():
    assert np.isnan(seam(texture(0, 16, 16)))
    assert np.isnan(seam(texture(0, 2, 2)))
    assert "no line" in METRICS["seam"].undefined
    with pytest.raises(ValueError, match=r"seam needs to know where tiles meet.*--tile-lines 512:64"):
        score(texture(), None, ["seam"])
