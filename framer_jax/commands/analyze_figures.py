"""The figures of `framer-jax analyze`: what each needs, and how it is computed from runs and images."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import jax
import numpy as np
from rich.console import Console

from framer_jax.commands.analyze_inputs import Pairs, Run, image_crops, read_files, read_steps
from framer_jax.data.whole_photos import ValidationPair
from framer_jax.evaluation.extractor_maps import extractor_maps
from framer_jax.evaluation.image_figures import (
    EXTRACTOR_IMAGES,
    TRAINING_IMAGES,
    ProgressRow,
    StudentImages,
    extractor_figure,
    sr_images,
    teacher_figure,
    training_figure,
)
from framer_jax.evaluation.layer_figures import LAYER_FIGURES, LayerMeasurements, MeasuredRun
from framer_jax.evaluation.layers import layer_analysis, tap_program, tap_shapes
from framer_jax.evaluation.lr_pairs import halves
from framer_jax.evaluation.paper_figures import FigureContent
from framer_jax.inference.model import Model
from framer_jax.inference.resample import upsample_bicubic
from framer_jax.progress import Report, track
from framer_jax.recipes.base import Params
from framer_jax.recipes.method import Pretrained

TEACHER, EXTRACTOR, TRAINING = "teacher", "extractor", "training"
"""Figures besides those of the layers."""

FIGURES: Mapping[str, str] = {
    "similarity": "cosine of each layer to the last one, in the low and the high frequency band (FRAMER, Figs. 3, 7)",
    "factors": "FRAMER's weights and alignments of each layer and band (FRAMER, Fig. 9)",
    "densities": "densities of the spectral magnitudes (FRAMER, Fig. 2)",
    "matrices": "similarity of the photographs to each other within the layers (FRAMER, Fig. 5)",
    TEACHER: "distance of the images to a teacher's by frequency band (DTKD, Figs. 3, 4)",
    EXTRACTOR: "maps of HF-Diff's feature extractor (HF-Diff, Fig. 5)",
    TRAINING: "images of a training run's checkpoints (FRAMER, Fig. 8)",
}
"""Name of a figure → what it shows."""

MAPS = 4
"""Number of single channels of the extractor that are drawn."""


class Inputs(NamedTuple):
    """What the figures are made of.

    Attributes:
      runs: one run, or two to compare.
      pairs: LR and HR images.
      multiple: sides of LR images that fit all models are multiples of this.
      times: requested fractions of the forward process.
      radius: radius of the low band.
      seed: seed of the noise.
      teacher: the teacher, or what is missing; '' if no figure needs it.
      extractor: likewise.
      steps: the steps of checkpoints, likewise.
      files: weights files in place of checkpoints.
      shapes: for each run, the shapes [H, W, C] of its taps; () if no layers are to be shown.
    """

    runs: tuple[Run, ...]
    pairs: Pairs
    multiple: int
    times: tuple[float, ...]
    radius: float
    seed: int
    teacher: Model | str
    extractor: Pretrained | str
    steps: list[int] | str
    files: tuple[str, ...]
    shapes: tuple[tuple[tuple[int, ...], ...], ...]


def shows_layers(figures: Sequence[str]) -> bool:
    """Whether one of the figures is of layers."""
    return not set(figures).isdisjoint(LAYER_FIGURES)


def missing_part(name: str, inputs: Inputs) -> str:
    """What a figure needs that is not there, '' if it can be made."""
    if name not in LAYER_FIGURES:
        part = {TEACHER: inputs.teacher, EXTRACTOR: inputs.extractor, TRAINING: inputs.steps}[name]
        return part if isinstance(part, str) else ""
    for run, shapes in zip(inputs.runs, inputs.shapes, strict=True):
        if len(shapes) < 2:
            return f"feature maps of two layers or more, and the network of {run.label} gives {len(shapes)}"
    if name == "matrices" and len(inputs.pairs.pairs) < 2:
        return "two photographs or more"
    return ""


def shapes_of_taps(
    runs: Sequence[Run], pairs: Sequence[ValidationPair], multiple: int
) -> tuple[tuple[tuple[int, ...], ...], ...]:
    """`Inputs.shapes`; arguments as of `Inputs`."""
    _, measure = halves(pairs, runs[0].model.recipe.scale, multiple)
    return tuple(tap_shapes(run.model.recipe, run.model.params, measure) for run in runs)


def check_same_taps(inputs: Inputs, chosen: Sequence[str]) -> None:
    """Refuse to draw layers of different networks in the same axes."""
    if len(inputs.runs) < 2 or not shows_layers(chosen):
        return
    first, second = inputs.shapes
    if first != second:
        names = [run.label for run in inputs.runs]
        others = [name for name in FIGURES if name not in LAYER_FIGURES]
        raise ValueError(
            f"{names[0]} and {names[1]} are networks of other layers ({_describe(first)} against {_describe(second)}): "
            f"compare runs of one network, or choose --figures among {', '.join(others)}"
        )


def _describe(shapes: Sequence[tuple[int, ...]]) -> str:
    """Shapes of taps in a few words, such as '9 of 64 to 256 channels'."""
    channels = sorted({shape[-1] for shape in shapes})
    width = str(channels[0]) if len(channels) == 1 else f"{channels[0]} to {channels[-1]}"
    return f"{len(shapes)} of {width} channels and up to {max(shape[0] for shape in shapes)} rows"


def make_contents(inputs: Inputs, chosen: Sequence[str], console: Console) -> dict[str, FigureContent]:
    """Compute the chosen figures; progress is reported on the console."""
    contents = {}
    if shows_layers(chosen):
        measured = _measure_layers(inputs, console)
        contents = {name: LAYER_FIGURES[name](measured) for name in chosen if name in LAYER_FIGURES}
    makers: dict[str, Callable[[Inputs], FigureContent]] = {
        TEACHER: _teacher_content,
        EXTRACTOR: _extractor_content,
        TRAINING: _training_content,
    }
    others = [name for name in chosen if name in makers]
    return contents | {name: makers[name](inputs) for name in track(others, "figures", console)}


def _measure_layers(inputs: Inputs, console: Console) -> LayerMeasurements:
    """Analyse the layers of all runs, at the same times with the same noise."""
    recipes = [run.model.recipe for run in inputs.runs]
    fit, measure = halves(inputs.pairs.pairs, recipes[0].scale, inputs.multiple)
    taps = [recipe.layer_taps for recipe in recipes]
    assert taps[0] is not None
    times = tuple(dict.fromkeys(taps[0].nearest(time) for time in inputs.times))
    if any(each is not None and each.timesteps != taps[0].timesteps for each in taps):
        counts = " and ".join(str(each.timesteps or "continuous") for each in taps if each is not None)
        raise ValueError(f"the runs have different timesteps ({counts}): compare runs of one diffusion process")
    key = jax.random.key(inputs.seed)
    measured = []
    with Report(console) as report:
        task = report.add_task("layers", total=len(recipes) * len(times))
        for run, recipe in zip(inputs.runs, recipes, strict=True):
            program, params = tap_program(recipe), jax.device_put(run.model.params)
            analyses = []
            for time in times:
                analyses.append(layer_analysis(program, params, fit, measure, key, time, inputs.radius))
                report.advance(task)
            measured.append(MeasuredRun(run.label, tuple(analyses)))
    _print_times(taps[0].timesteps, times)
    return LayerMeasurements(
        tuple(measured),
        times,
        taps[0].timesteps != 1,
        inputs.radius,
        tuple(pair.name for pair in inputs.pairs.pairs),
        len(set(inputs.shapes[0])) > 1,
    )


def _print_times(timesteps: int, times: Sequence[float]) -> None:
    if timesteps == 1:
        print("timesteps: the network is called at one time, so that --timesteps has no effect")
        return
    nearest_ones = f" (the nearest ones of {timesteps})" if timesteps else ""
    print(f"timesteps: {', '.join(f'{time:.3g}' for time in times)} of the forward process{nearest_ones}")


def _teacher_content(inputs: Inputs) -> FigureContent:
    assert not isinstance(inputs.teacher, str)
    hr, lr = image_crops(inputs.pairs.pairs, inputs.teacher.recipe.scale, inputs.multiple)
    students = [
        StudentImages(run.label, sr_images(run.model.recipe, [run.model.params], lr, inputs.seed)[0])
        for run in inputs.runs
    ]
    teacher = sr_images(inputs.teacher.recipe, [inputs.teacher.params], lr, inputs.seed)[0]
    return teacher_figure(students, teacher, hr)


def _extractor_content(inputs: Inputs) -> FigureContent:
    assert not isinstance(inputs.extractor, str)
    pairs = inputs.pairs.pairs[:EXTRACTOR_IMAGES]
    hr, _ = image_crops(pairs, inputs.runs[0].model.recipe.scale, inputs.multiple)
    return extractor_figure(list(hr), extractor_maps(inputs.extractor.module, inputs.extractor.params, list(hr), MAPS))


def _training_content(inputs: Inputs) -> FigureContent:
    assert not isinstance(inputs.steps, str)
    steps = inputs.steps
    scale = inputs.runs[0].model.recipe.scale
    hr, lr = image_crops(inputs.pairs.pairs[:TRAINING_IMAGES], scale, inputs.multiple)
    if inputs.files:
        steps, weights = read_files(inputs.runs[0], inputs.files)
        all_weights: list[list[Params]] = [weights]
    else:
        all_weights = [read_steps(run, steps) for run in inputs.runs]
    rows = [
        ProgressRow(run.label, sr_images(run.model.recipe, weights, lr, inputs.seed))
        for run, weights in zip(inputs.runs, all_weights, strict=True)
    ]
    bicubic = np.clip(np.stack([upsample_bicubic(image, scale) for image in lr]), 0.0, 1.0)
    return training_figure(steps, rows, bicubic, hr)
