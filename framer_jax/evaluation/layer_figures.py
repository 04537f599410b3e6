"""The figures of a layer analysis: FRAMER's Figs. 2, 3, 5, 7 and 9, of one run or of two in the same axes.

Colors tell timesteps (or layers, in the densities) apart and line styles tell runs apart; where there is one timestep
only, the runs differ in color too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from framer_jax.evaluation.layers import Bands, LayerAnalysis, LayerDensities
from framer_jax.evaluation.paper_figures import (
    COLORS,
    COLUMN,
    DASHES,
    PAGE,
    FigureContent,
    add_legend,
    draw_image_grid,
    grid_height,
)

SHOWN_LAYERS = 5
"""Largest number of layers in figures that have one line or one image for each; all are in the files of numbers."""

MOST_MARKERS = 10
"""Largest number of layers whose values have markers: more would hide the line styles."""

RUN_COLOR = "0.25"
"""Color of a run in the legend where colors tell other things apart: dark gray."""

FACTORS = {"weight": "w (FAW)", "alignment": "a (FAM)", "factor": "w · a"}
"""Fields of framer_jax.evaluation.layers.LayerFactors → names in the figure."""


class MeasuredRun(NamedTuple):
    """The layer analyses of one run.

    Attributes:
      label: name of the run in legends.
      analyses: one analysis for each time.
    """

    label: str
    analyses: tuple[LayerAnalysis, ...]


class LayerMeasurements(NamedTuple):
    """What the figures of layers show.

    Attributes:
      runs: one or two runs, analysed at the same times.
      times: fractions of the forward process; (1.0,) for a network that is called at one time.
      has_times: whether there are timesteps to choose from.
      radius: radius of the low band.
      images: names of the photographs.
      has_probes: whether layers were mapped to the last one by linear probes.
    """

    runs: tuple[MeasuredRun, ...]
    times: tuple[float, ...]
    has_times: bool
    radius: float
    images: tuple[str, ...]
    has_probes: bool

    @property
    def time_labels(self) -> tuple[str, ...]:
        """Names of the times in legends; '' for a network that has one only."""
        return tuple(f"t/T = {time:.2g}" if self.has_times else "" for time in self.times)

    @property
    def layers(self) -> int:
        """Number of layers, the last one included."""
        return len(self.runs[0].analyses[0].matrices.low)


class DepthLine(NamedTuple):
    """Values over depth.

    Attributes:
      run: name of the run.
      time: name of the time, '' for none.
      values: [N] for each band.
    """

    run: str
    time: str
    values: Bands


def similarity_figure(measured: LayerMeasurements) -> FigureContent:
    """Cosine of each layer's bands to the last layer's (Figs. 3 and 7)."""
    rows = [
        {
            "run": run,
            "time": time,
            "band": band,
            "layer": layer + 1,
            "cosine": _number(values.mean()),
            "standard_deviation": _number(values.std()),
        }
        for run, time, analysis in _each(measured)
        for band, per_layer in analysis.cosines._asdict().items()
        for layer, values in enumerate(per_layer)
    ]
    lines = _lines(measured, lambda analysis: Bands(*analysis.similarity))
    caption = (
        "Cosine similarity of each layer to the last one in the low and the high frequency band "
        f"({_band(measured)}){_at(measured)}; {_means(measured)}. After FRAMER, Figs. 3 and 7."
    )
    height = 1.95 + _second_legend_row(measured)
    return FigureContent(caption, COLUMN, height, partial(draw_depth_bands, lines=lines), rows)


def factors_figure(measured: LayerMeasurements) -> FigureContent:
    """FAW's weight, FAM's alignment and their product for each layer and band (Fig. 9)."""
    rows = [
        {"run": run, "time": time, "band": band, "layer": layer + 1}
        | {name: _number(getattr(getattr(analysis.factors, name), band)[layer]) for name in FACTORS}
        for run, time, analysis in _each(measured)
        for band in Bands._fields
        for layer in range(measured.layers - 1)
    ]
    lines = {
        title: _lines(measured, lambda analysis, name=name: getattr(analysis.factors, name))  # type: ignore[misc]
        for name, title in FACTORS.items()
    }
    caption = (
        "FRAMER's adaptive weight w (FAW), its alignment a (FAM) and their product, by which the loss of each layer is "
        f"multiplied, in the low and the high frequency band ({_band(measured)}){_at(measured)}; {_means(measured)}. "
        "After FRAMER, Fig. 9."
    )
    return FigureContent(caption, PAGE, 2.9, partial(_draw_factors, columns=lines), rows)


def densities_figure(measured: LayerMeasurements) -> FigureContent:
    """Densities of the spectral magnitudes in each layer's bands (Fig. 2)."""
    arrays = {"times": np.asarray(measured.times)}
    for number, run in enumerate(measured.runs):
        for name in LayerDensities._fields:
            stacked = np.stack([getattr(analysis.densities, name) for analysis in run.analyses])
            arrays[f"run_{number}_{name}"] = stacked
    caption = (
        "Density of log(1 + |S|), where S are the coefficients of the layers' spectra, in the low and the high "
        f"frequency band ({_band(measured)}){_at(measured)}, over all channels and {len(measured.images)} images. "
        f"Layers {_names(measured)} are shown.{_probes(measured)} After FRAMER, Fig. 2."
    )
    height = 0.85 + 1.1 * len(measured.times) + _second_legend_row(measured)
    return FigureContent(caption, COLUMN, height, partial(_draw_densities, measured=measured), arrays=arrays)


def matrices_figure(measured: LayerMeasurements) -> FigureContent:
    """Cosines between the images within each layer's bands (Fig. 5)."""
    arrays = {"times": np.asarray(measured.times), "images": np.asarray(measured.images)}
    for number, run in enumerate(measured.runs):
        for band in Bands._fields:
            arrays[f"run_{number}_{band}"] = np.stack([getattr(each.matrices, band) for each in run.analyses])
    time = measured.time_labels[_middle(measured)]
    caption = (
        f"Cosine similarities between {len(measured.images)} images within layers {_names(measured)}, in the low "
        f"and the high frequency band ({_band(measured)}){f', at {time}' if time else ''}.{_probes(measured)} "
        "After FRAMER, Fig. 5."
    )
    rows, columns = 2 * len(measured.runs), len(shown_layers(measured.layers))
    width = COLUMN if columns < 4 else PAGE
    height = grid_height(rows, columns, width - 0.6)
    return FigureContent(caption, width, height, partial(_draw_matrices, measured=measured), arrays=arrays)


LAYER_FIGURES: Mapping[str, Callable[[LayerMeasurements], FigureContent]] = {
    "similarity": similarity_figure,
    "factors": factors_figure,
    "densities": densities_figure,
    "matrices": matrices_figure,
}
"""Name of a figure → the function that makes it."""


def shown_layers(count: int) -> tuple[int, ...]:
    """Indices of at most `SHOWN_LAYERS` of `count` layers, evenly spaced from the first to the last."""
    return tuple(int(index) for index in np.unique(np.linspace(0, count - 1, min(count, SHOWN_LAYERS)).round()))


def draw_depth_bands(figure: Any, lines: Sequence[DepthLine], ylabel: str = "cosine to the last layer") -> None:
    """Draw values over depth, with one panel for each band."""
    axes = figure.subplots(1, 2, sharey=True)
    for axis, band in zip(axes, Bands._fields, strict=True):
        axis.set_title(f"{band} frequencies")
        _draw_depth(axis, lines, band)
        axis.set_xlabel("layer")
    axes[0].set_ylabel(ylabel)
    _add_legend(figure, lines)


def _draw_factors(figure: Any, columns: Mapping[str, Sequence[DepthLine]]) -> None:
    axes = figure.subplots(2, len(columns), sharex=True, sharey=True)
    for column, (title, lines) in enumerate(columns.items()):
        for row, band in enumerate(Bands._fields):
            _draw_depth(axes[row, column], lines, band)
            axes[row, 0].set_ylabel(f"{band} frequencies")
        axes[0, column].set_title(title)
        axes[1, column].set_xlabel("layer")
    axes[0, 0].set_ylim(-0.04, 1.04)
    _add_legend(figure, next(iter(columns.values())))


def _draw_depth(axis: Any, lines: Sequence[DepthLine], band: str) -> None:
    from matplotlib.ticker import MaxNLocator

    looks = _looks(lines)
    for line in lines:
        values = getattr(line.values, band)
        color, dash = looks[line.run, line.time]
        marker = "o" if len(values) <= MOST_MARKERS else ""
        axis.plot(np.arange(1, len(values) + 1), values, marker=marker, color=color, linestyle=dash)
    axis.set_xlim(0.5, len(getattr(lines[0].values, band)) + 0.5)
    axis.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True, min_n_ticks=1))
    axis.grid(axis="y")


def _names_of(lines: Sequence[DepthLine]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The runs and the times of some lines, in order."""
    return tuple(dict.fromkeys(line.run for line in lines)), tuple(dict.fromkeys(line.time for line in lines))


def _looks(lines: Sequence[DepthLine]) -> dict[tuple[str, str], tuple[str, Any]]:
    """(run, time) → color and line style."""
    runs, times = (
        tuple(dict.fromkeys(names)) for names in zip(*((line.run, line.time) for line in lines), strict=True)
    )
    by_time = len(times) > 1
    return {
        (run, time): (COLORS[(times.index(time) if by_time else runs.index(run)) % len(COLORS)], dash)
        for run, dash in zip(runs, _dashes(len(runs)), strict=True)
        for time in times
    }


def _dashes(count: int) -> tuple[Any, ...]:
    return tuple(DASHES[index % len(DASHES)] for index in range(count))


def _add_legend(figure: Any, lines: Sequence[DepthLine]) -> None:
    """One entry for each time and, of several runs, one for each run; none where there is nothing to tell apart."""
    from matplotlib.lines import Line2D

    (runs, times), looks, groups = _names_of(lines), _looks(lines), []
    if any(times):
        groups.append([Line2D([], [], color=looks[runs[0], time][0], label=time) for time in times])
    if len(runs) > 1:
        color = RUN_COLOR if len(times) > 1 else None
        groups.append(
            [
                Line2D([], [], color=color or looks[run, times[0]][0], linestyle=looks[run, times[0]][1], label=run)
                for run in runs
            ]
        )
    if groups:
        add_legend(figure, groups)


def _draw_densities(figure: Any, measured: LayerMeasurements) -> None:
    from matplotlib import colormaps
    from matplotlib.lines import Line2D
    from matplotlib.ticker import MaxNLocator

    shown = shown_layers(measured.layers)
    shades = colormaps["viridis"](np.linspace(0.85, 0.15, max(len(shown) - 1, 1)))
    colors = {layer: "black" if layer == shown[-1] else tuple(shades[i]) for i, layer in enumerate(shown)}
    axes = figure.subplots(len(measured.times), 2, squeeze=False, sharex="col")
    for row, time in enumerate(measured.time_labels):
        for axis, band in zip(axes[row], Bands._fields, strict=True):
            for run, dash in zip(measured.runs, _dashes(len(measured.runs)), strict=True):
                densities = run.analyses[row].densities
                centers = (densities.edges[1:] + densities.edges[:-1]) / 2
                for layer in shown:
                    axis.plot(centers, getattr(densities, band)[layer], color=colors[layer], linestyle=dash, lw=0.9)
            axis.set_ylim(bottom=0)
            axis.xaxis.set_major_locator(MaxNLocator(nbins=4, integer=True))
            if row == 0:
                axis.set_title(f"{band} frequencies")
            if row == len(measured.times) - 1:
                axis.set_xlabel("log(1 + |S|)")
        axes[row, 0].set_ylabel(f"density\n{time}" if time else "density")
    _limit_to_content(axes, measured, shown)
    groups = [
        [
            Line2D([], [], color=colors[layer], label="last layer" if layer == shown[-1] else f"layer {layer + 1}")
            for layer in shown
        ]
    ]
    if len(measured.runs) > 1:
        dashes = _dashes(len(measured.runs))
        groups.append(
            [
                Line2D([], [], color=RUN_COLOR, linestyle=dash, label=run.label)
                for run, dash in zip(measured.runs, dashes, strict=True)
            ]
        )
    add_legend(figure, groups)


def _limit_to_content(axes: Any, measured: LayerMeasurements, shown: Sequence[int]) -> None:
    """End the horizontal axes where the densities of the shown layers end."""
    for axis, band in zip(axes[-1], Bands._fields, strict=True):
        ends = []
        for run in measured.runs:
            for analysis in run.analyses:
                edges, values = analysis.densities.edges, getattr(analysis.densities, band)[list(shown)]
                present = np.flatnonzero((values * np.diff(edges)).max(axis=0) > 1e-4)
                ends.append(edges[min(present[-1] + 2, len(edges) - 1)] if len(present) else edges[-1])
        axis.set_xlim(0, max(ends))


def _draw_matrices(figure: Any, measured: LayerMeasurements) -> None:
    shown, time = shown_layers(measured.layers), _middle(measured)
    several = len(measured.runs) > 1
    rows, labels = [], []
    for run in measured.runs:
        for band in Bands._fields:
            matrices = getattr(run.analyses[time].matrices, band)
            rows.append([matrices[layer] for layer in shown])
            labels.append(f"{band} band\n{run.label}" if several else f"{band} band")
    columns = [*(f"layer {layer + 1}" for layer in shown[:-1]), "last layer"]
    axes = draw_image_grid(figure, rows, columns, labels, vmin=-1, vmax=1, cmap="RdBu_r", interpolation="nearest")
    bar = figure.colorbar(axes[0, 0].images[0], ax=axes, shrink=0.9, aspect=25, pad=0.02, ticks=(-1, 0, 1))
    bar.set_label("cosine between images")
    bar.outline.set_visible(False)


def _each(measured: LayerMeasurements) -> list[tuple[str, float | str, LayerAnalysis]]:
    """(run, time or '', analysis) of everything that was measured."""
    return [
        (run.label, round(time, 6) if measured.has_times else "", analysis)
        for run in measured.runs
        for time, analysis in zip(measured.times, run.analyses, strict=True)
    ]


def _lines(measured: LayerMeasurements, values: Callable[[LayerAnalysis], Bands]) -> list[DepthLine]:
    return [
        DepthLine(run.label, time, values(analysis))
        for run in measured.runs
        for time, analysis in zip(measured.time_labels, run.analyses, strict=True)
    ]


def _number(value: Any) -> float:
    return float(f"{float(value):.6g}")


def _second_legend_row(measured: LayerMeasurements) -> float:
    """Height in inches of the legend's row that names the runs."""
    return 0.15 if len(measured.runs) > 1 else 0.0


def _middle(measured: LayerMeasurements) -> int:
    """The index of the middle one of the times."""
    return len(measured.times) // 2


def _band(measured: LayerMeasurements) -> str:
    return f"the low band is a disc of radius {measured.radius:g} of the Nyquist frequency"


def _at(measured: LayerMeasurements) -> str:
    if not measured.has_times:
        return ""
    fractions = ", ".join(f"{time:.2g}" for time in measured.times)
    return f", at the fractions t/T = {fractions} of the forward process"


def _probes(measured: LayerMeasurements) -> str:
    if not measured.has_probes:
        return ""
    return " Layers are mapped to the last one's shape by ridge regressions, fitted on other halves of the images."


def _means(measured: LayerMeasurements) -> str:
    runs = " and ".join(
        f"{style} lines: {run.label}" for run, style in zip(measured.runs, ("solid", "dashed"), strict=False)
    )
    of_runs = f"; {runs}" if len(measured.runs) > 1 else ""
    return f"means over {len(measured.images)} images{of_runs}.{_probes(measured)}".removesuffix(".")


def _names(measured: LayerMeasurements) -> str:
    return ", ".join(str(layer + 1) for layer in shown_layers(measured.layers))
