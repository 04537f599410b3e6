import re

import numpy as np
import pytest
from PIL import Image

from framer_jax.evaluation.layer_figures import DepthLine, draw_depth_bands, shown_layers
from framer_jax.evaluation.layers import Bands
from framer_jax.evaluation.paper_figures import (
    COLUMN,
    PAGE,
    FigureContent,
    add_legend,
    draw_image_grid,
    grid_height,
    write_content,
    write_figure,
)

pytest.importorskip("matplotlib")


def lines(figure):
    axis = figure.subplots()
    axis.plot([0, 1], [1, 2])
    axis.set_xlabel("depth of <layers>")


def test_equal_drawings_are_equal_files(tmp_path):
    import matplotlib

    before = dict(matplotlib.rcParams)
    for name in ("a", "b"):
        write_figure(tmp_path / name, COLUMN, 2.0, lines)
    for suffix in ("png", "svg"):
        assert (tmp_path / f"a.{suffix}").read_bytes() == (tmp_path / f"b.{suffix}").read_bytes()
    assert dict(matplotlib.rcParams) == before, "no global state is changed"
    with Image.open(tmp_path / "a.png") as image:
        assert image.size == (975, 600)  # 300 dpi
        assert image.info["dpi"] == pytest.approx((300, 300), abs=0.1)
    text = (tmp_path / "a.svg").read_text(encoding="utf-8")
    assert "depth of &lt;layers&gt;</text>" in text, "text stays text"
    assert not re.search(r"20\d\d-\d\d-\d\d", text), "no date"


def test_the_numbers_are_written_next_to_the_figure(tmp_path):
    rows = [{"layer": 1, "cosine": 0.5}, {"layer": 2, "cosine": 0.25}]
    content = FigureContent("caption", 2.0, 1.0, lines, rows, {"values": np.arange(3)})
    assert write_content(tmp_path, "name", content) == ["name.png", "name.svg", "name.csv", "name.npz"]
    assert (tmp_path / "name.csv").read_text() == "layer,cosine\n1,0.5\n2,0.25\n"
    with np.load(tmp_path / "name.npz") as arrays:
        np.testing.assert_array_equal(arrays["values"], np.arange(3))
    assert {path.name for path in tmp_path.iterdir()} == {"name.png", "name.svg", "name.csv", "name.npz"}


def drawn(draw):
    """A figure without files."""
    from matplotlib.figure import Figure

    figure = Figure(layout="constrained")
    draw(figure)
    return figure


def depth_line(run, time, value):
    return DepthLine(run, time, Bands(np.full(3, value), np.full(3, -value)))


def test_times_have_colors_and_runs_have_styles():
    given = [depth_line(run, time, 0.5) for run in ("a", "b") for time in ("early", "late")]
    axis = drawn(lambda figure: draw_depth_bands(figure, given)).axes[0]
    looks = [(line.get_color(), line.get_linestyle()) for line in axis.lines]
    assert looks[0][0] == looks[2][0] != looks[1][0] == looks[3][0]
    assert looks[0][1] == looks[1][1] != looks[2][1] == looks[3][1]


def test_runs_without_times_differ_in_color_too():
    figure = drawn(lambda figure: draw_depth_bands(figure, [depth_line(run, "", 0.5) for run in "abc"]))
    assert len({line.get_color() for line in figure.axes[1].lines}) == 3
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["a", "b", "c"]
    assert not drawn(lambda figure: draw_depth_bands(figure, [depth_line("alone", "", 0.5)])).legends


def test_a_legend_that_needs_two_rows_has_one_for_each_group():
    from matplotlib.lines import Line2D

    names = (("t = 1", "t = 2", "t = 3"), ("first run", "second run"))
    groups = [[Line2D([], [], label=label) for label in labels] for labels in names]
    by_column = ["t = 1", "first run", "t = 2", "second run", "t = 3", " "]
    for width, expected in ((PAGE, [*names[0], *names[1]]), (COLUMN, by_column)):
        figure = drawn(lambda figure: None)
        figure.set_figwidth(width)
        add_legend(figure, groups)
        assert [text.get_text() for text in figure.legends[0].get_texts()] == expected


def test_images_are_drawn_in_rows():
    rows = [[np.zeros((4, 6, 3)), np.ones((4, 6))], [np.ones((4, 6, 3)), np.zeros((4, 6))]]
    figure = drawn(lambda figure: draw_image_grid(figure, rows, ["x", "y"], ["first", "second"], cmap="gray"))
    assert [axis.get_title() for axis in figure.axes] == ["x", "y", "", ""]
    assert [axis.get_ylabel() for axis in figure.axes] == ["first", "", "second", ""]
    assert grid_height(2, 2, PAGE, 0.5) == pytest.approx((PAGE - 0.2) / 2 + 0.2)


@pytest.mark.parametrize(("count", "shown"), [(2, (0, 1)), (5, (0, 1, 2, 3, 4)), (9, (0, 2, 4, 6, 8))])
def test_layers_that_are_shown(count, shown):
    assert shown_layers(count) == shown
