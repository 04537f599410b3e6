"""Figures that go into a paper as they are: their size, type, colors and files."""

from __future__ import annotations

import csv
import importlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from framer_jax.porting.files import atomic_write

COLUMN, PAGE = 3.25, 6.875
"""Widths in inches: of a column and of the page of a paper in two columns, as CVPR sets them."""

RESOLUTION = 300
"""Dots per inch of the PNG files."""

COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Colors that people with any color vision tell apart (Okabe and Ito, 2008): blue, vermilion, green, purple, orange,
sky blue, black."""

DASHES: tuple[Any, ...] = ("solid", (0, (3, 1.5)), (0, (1, 1.2)), (0, (4, 1.2, 1, 1.2)))
"""Line styles of runs, in order."""

STYLE: Mapping[str, Any] = {
    "font.family": "sans-serif",
    "font.size": 7.5,
    "axes.labelsize": 7.5,
    "axes.titlesize": 7.5,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.linewidth": 0.4,
    "grid.alpha": 0.35,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "ytick.minor.size": 0,
    "legend.fontsize": 7,
    "legend.frameon": False,
    "legend.handlelength": 1.8,
    "legend.columnspacing": 1.2,
    "lines.linewidth": 1.1,
    "lines.markersize": 2.6,
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "framer_jax",  # equal inputs give equal files
}
"""Matplotlib's settings: type of 7 points and more at the printed size."""

Draw = Callable[[Any], None]
"""Draws into a `matplotlib.figure.Figure`."""


class FigureContent(NamedTuple):
    """A figure and the numbers behind it.

    Attributes:
      caption: what it shows, for the caption of a paper.
      width: inches.
      height: inches.
      draw: draws it.
      rows: rows of its CSV file, which all have the same columns; () for none.
      arrays: arrays of its npz file; {} for none.
    """

    caption: str
    width: float
    height: float
    draw: Draw
    rows: Sequence[Mapping[str, Any]] = ()
    arrays: Mapping[str, np.ndarray] = MappingProxyType({})


def check_matplotlib() -> None:
    """Check that figures can be drawn.

    Raises:
      ImportError: matplotlib is not installed (extra `eval`).
    """
    _import("matplotlib")


def _import(module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError("figures need matplotlib: pip install matplotlib") from error


def file_names(name: str) -> tuple[str, ...]:
    """The files that `write_content` may write for a figure of this name."""
    return tuple(f"{name}.{suffix}" for suffix in ("png", "svg", "csv", "npz"))


def write_content(folder: Path, name: str, content: FigureContent) -> list[str]:
    """Write a figure as PNG and SVG and its numbers as CSV or npz, and return the files' names."""
    write_figure(folder / name, content.width, content.height, content.draw)
    written = [f"{name}.png", f"{name}.svg"]
    if content.rows:
        with atomic_write(folder / f"{name}.csv") as temporary, open(temporary, "w", encoding="utf-8", newline="") as f:
            writer = csv.DictWriter(f, fieldnames=list(content.rows[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(content.rows)
        written.append(f"{name}.csv")
    if content.arrays:
        with atomic_write(folder / f"{name}.npz") as temporary, open(temporary, "wb") as file:
            np.savez_compressed(file, allow_pickle=False, **content.arrays)
        written.append(f"{name}.npz")
    return written


def write_figure(stem: Path, width: float, height: float, draw: Draw) -> None:
    """Write a figure to STEM.png and STEM.svg; the same drawing gives the same bytes.

    Args:
      stem: path without a suffix.
      width: inches.
      height: inches.
      draw: draws into an empty figure.

    Raises:
      ImportError: matplotlib is not installed (extra `eval`).
    """
    with _import("matplotlib").rc_context(STYLE):
        figure = _import("matplotlib.figure").Figure(figsize=(width, height), layout="constrained")
        draw(figure)
        for suffix, metadata in (("png", {"Software": None}), ("svg", {"Date": None, "Creator": None})):
            with atomic_write(f"{stem}.{suffix}") as temporary:
                figure.savefig(temporary, format=suffix, dpi=RESOLUTION, metadata=metadata)


def add_legend(figure: Any, groups: Sequence[Sequence[Any]]) -> None:
    """Put a legend above the axes: in one row if it fits, otherwise with a new row for each group of entries.

    Args:
      figure: the figure.
      groups: handles with labels, at least one.
    """
    handles, blank = [handle for group in groups for handle in group], _import("matplotlib.lines").Line2D([], [])
    blank.set(linestyle="none", label=" ")
    columns = len(handles)
    if _legend_width(handles, columns) > figure.get_figwidth():
        for columns in range(max(map(len, groups)), 0, -1):
            handles = [handle for group in groups for handle in (*group, *[blank] * (-len(group) % columns))]
            if _legend_width(handles, columns) <= figure.get_figwidth():
                break
    by_column = [handle for column in range(columns) for handle in handles[column::columns]]  # as matplotlib orders
    figure.legend(handles=by_column, loc="outside upper center", ncols=columns)


def _legend_width(handles: Sequence[Any], columns: int) -> float:
    """Width in inches of a legend whose rows are filled one after the other, roughly."""
    longest = (max(len(str(handle.get_label())) for handle in handles[column::columns]) for column in range(columns))
    return sum(0.4 + 0.06 * length for length in longest)


def draw_image_grid(
    figure: Any,
    rows: Sequence[Sequence[np.ndarray]],
    columns: Sequence[str],
    labels: Sequence[str],
    **settings: Any,
) -> Any:
    """Draw images in rows of equal cells, with the columns' names above and the rows' at the left.

    Args:
      figure: an empty figure.
      rows: images [H, W] or [H, W, 3].
      columns: one name for each column.
      labels: one name for each row.
      settings: of `imshow`, for images without colors.

    Returns:
      The axes [rows, columns].
    """
    figure.get_layout_engine().set(w_pad=0.01, h_pad=0.01, wspace=0, hspace=0)
    axes = figure.subplots(len(rows), len(columns), squeeze=False)
    for row, (images, label) in enumerate(zip(rows, labels, strict=True)):
        for axis, image, column in zip(axes[row], images, columns, strict=True):
            axis.imshow(image, **({} if image.ndim == 3 else settings))
            axis.set(xticks=[], yticks=[])
            axis.spines[:].set_visible(False)
            if row == 0:
                axis.set_title(column, pad=2.5)
        axes[row][0].set_ylabel(label, labelpad=2.5)
    return axes


def grid_height(rows: int, columns: int, width: float, aspect: float = 1.0) -> float:
    """Height in inches of an image grid of a width, with room for the names; `aspect` is an image's height / width."""
    return (width - 0.2) / columns * aspect * rows + 0.2
