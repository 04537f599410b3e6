"""The figure of crops: geometry, outlines, enlarged pixels, scores."""

import numpy as np
import pytest
from PIL import Image

from framer_jax.evaluation.comparison_grid import (
    CELL,
    STYLE,
    best_score,
    comparison_grid,
    figure_images,
    parse_crop,
    write_grid,
)
from framer_jax.evaluation.crops import Crop
from framer_jax.evaluation.image_sets import Method, collect_images
from framer_jax.evaluation.method_scores import score_methods
from framer_jax.evaluation.scoring import ScoreSettings
from framer_jax.evaluation.sheets import BEST, PLAIN, SheetStyle, Tile, draw_tiles
from tests.support.results import result_folders


@pytest.fixture(scope="module")
def image_set(tmp_path_factory):
    folders = result_folders(tmp_path_factory.mktemp("results"))
    methods = [Method(name, folders[name]) for name in ("good", "bad")]
    return collect_images(methods, folders["gt"], folders["lr"])


@pytest.fixture(scope="module")
def arms(image_set):
    return score_methods(image_set, ScoreSettings(("psnr-y",)), lambda count: None)[0]


@pytest.mark.parametrize(
    ("text", "crop"), [("auto", None), ("auto,24", 24), ("0,0,1", Crop(0, 0, 1)), ("96, 40, 64", Crop(96, 40, 64))]
)
def test_crops_are_read(text, crop):
    assert parse_crop(text) == crop


@pytest.mark.parametrize("text", ["", "auto,", "auto,0", "auto,1,2", "1,2", "1,2,3,4", "-1,0,8", "1,2,0", "a,b,c"])
def test_other_crops_are_refused(text):
    with pytest.raises(ValueError, match=r"--crop is .*: write auto, auto,SIZE or X,Y,SIZE"):
        parse_crop(text)


def test_a_row_has_the_whole_image_and_a_crop_of_every_source(image_set):
    crop, factor = Crop(16, 8, 16), CELL // 16
    grid = np.asarray(comparison_grid(image_set, image_set.images[:1], (), (), crop))
    whole = round(64 * CELL / 48)
    columns = [whole + STYLE.gap + index * (CELL + STYLE.gap) for index in range(4)]
    assert grid.shape == (CELL + STYLE.line, columns[-1] + CELL, 3)
    files = [image_set.images[0].lr, *image_set.images[0].files, image_set.images[0].reference]
    for left, file in zip(columns, files, strict=True):
        pixels = np.asarray(Image.open(file))
        if file == files[0]:
            pixels = pixels.repeat(4, axis=0).repeat(4, axis=1)
        part = pixels[8:24, 16:32].repeat(factor, axis=0).repeat(factor, axis=1)
        assert (grid[:CELL, left : left + CELL] == part).all()
    # The outline of the crop is drawn into the whole image.
    scale = CELL / 48
    assert tuple(grid[round(8 * scale) - 1, round(24 * scale)]) == BEST


def test_automatic_crops_are_where_the_methods_differ(image_set, arms):
    image = figure_images(image_set, ["b"])
    automatic = np.asarray(comparison_grid(image_set, image, arms, ("psnr-y",), 10))
    named = np.asarray(comparison_grid(image_set, image, arms, ("psnr-y",), Crop(20, 10, 10)))
    assert (automatic == named).all()


def test_the_best_score_is_colored(image_set, arms):
    grid = np.asarray(comparison_grid(image_set, image_set.images[:1], arms, ("psnr-y",), Crop(0, 0, 16)))
    whole = round(64 * CELL / 48)
    good, bad = (
        grid[CELL + STYLE.line :, whole + STYLE.gap + index * (CELL + STYLE.gap) :][:, :CELL] for index in (1, 2)
    )
    red = [int(((part[..., 0].astype(int) - part[..., 1]) > 60).sum()) for part in (good, bad)]
    assert red[0] > 0 and red[1] == 0


def test_rows_are_chosen_and_ordered(image_set):
    assert [image.name for image in figure_images(image_set, ["c", "a"])] == ["c", "a"]
    assert len(figure_images(image_set)) == 3
    with pytest.raises(ValueError, match="there is no image 'd'; the first ones are a, b, c"):
        figure_images(image_set, ["a", "d"])
    with pytest.raises(ValueError, match="a figure of 30 images has too many rows"):
        figure_images(image_set._replace(images=image_set.images * 10))


def test_crops_outside_are_refused(image_set):
    with pytest.raises(ValueError, match=r"--crop 60,0,10 does not lie within a, which is 64x48"):
        comparison_grid(image_set, image_set.images[:1], (), (), Crop(60, 0, 10))
    with pytest.raises(ValueError, match=r"--crop auto,50 is larger than a, which is 64x48"):
        comparison_grid(image_set, image_set.images[:1], (), (), 50)


def test_the_file_states_its_resolution(image_set, tmp_path):
    size = write_grid(tmp_path / "grid.png", image_set, image_set.images[:1], (), (), Crop(0, 0, 8))
    with Image.open(tmp_path / "grid.png") as image:
        assert image.size == size and image.info["dpi"] == pytest.approx((300, 300), abs=0.1)


@pytest.mark.parametrize(
    ("scores", "higher", "best"),
    [([1.0, 2.0], True, 2.0), ([1.0, 2.0], False, 1.0), ([1.0, None], True, None), ([1.0, 1.0], True, None)],
)
def test_best_score(scores, higher, best):
    assert best_score(scores, higher) == best


def test_long_and_odd_labels_stay_in_their_column():
    tiles = [Tile(np.full((20, 60, 3), 255, np.uint8), (((label, PLAIN),),)) for label in ("x" * 500, "a\nb\udce9 字")]
    sheet = np.asarray(draw_tiles([tiles], SheetStyle(gap=30)))
    assert sheet.shape == (38, 150, 3) and (sheet[:, 60:90] == 255).all() and (sheet[20:] < 255).any()
