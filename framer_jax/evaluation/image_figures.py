"""Figures of images: teacher and student by band, the extractor's maps, and the images of a run as it is trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np

from framer_jax.diffusion.noise import NoiseField, noise_field
from framer_jax.evaluation.band_discrepancy import BANDS, FREQUENCIES, BandDiscrepancy, band_discrepancy, power_spectrum
from framer_jax.evaluation.extractor_maps import STAGES, FeatureMaps, centered, in_unit_range
from framer_jax.evaluation.paper_figures import COLORS, DASHES, PAGE, FigureContent, draw_image_grid, grid_height
from framer_jax.images.raster import to_uint8
from framer_jax.recipes.base import Params, Recipe
from framer_jax.recipes.components.teacher import any_size

TRAINING_IMAGES, EXTRACTOR_IMAGES = 3, 2
"""Largest number of photographs in figures of images; their files of numbers have the same."""

HATCHES = ("", "//////", "......", "xxxx")
"""Hatches of the bars of runs, in order."""


class StudentImages(NamedTuple):
    """The SR images of a run.

    Attributes:
      label: name of the run.
      images: [B, H, W, 3] in [0, 1].
    """

    label: str
    images: np.ndarray


class ProgressRow(NamedTuple):
    """The SR images that the checkpoints of a run give for the same LR images and noise.

    Attributes:
      label: name of the run.
      images: [S, B, H, W, 3] in [0, 1], one entry for each step.
    """

    label: str
    images: np.ndarray


class Spectrum(NamedTuple):
    """The power spectra of images: their name, and the mean power of each ring and image [R, B]."""

    label: str
    power: np.ndarray


def sr_images(recipe: Recipe, weights: Sequence[Params], lr: np.ndarray, seed: int) -> np.ndarray:
    """The sampler's images for several weights, with the same noise; one image at a time is computed.

    Args:
      recipe: the recipe.
      weights: S times its exported groups.
      lr: [B, H, W, 3] float32 in [0, 1].
      seed: seed of the noise; an image's noise depends on it and the image's number only.

    Returns:
      [S, B, sH, sW, 3] float32 in [0, 1].

    Raises:
      ValueError: values are not finite.
    """
    noise = noise_field(jax.random.key(seed), len(lr))
    sample, frozen = jax.jit(any_size(recipe.sample, recipe)), jax.device_put(recipe.frozen)

    def image(params: Params, index: int) -> np.ndarray:
        image_noise = NoiseField(noise.key[index : index + 1], noise.origin[index : index + 1])
        pixels = np.asarray(sample(params, frozen, lr[index : index + 1], image_noise))[0]
        if not np.isfinite(pixels).all():
            raise ValueError(f"the sampler of {recipe.name} gives values that are not finite: choose other weights")
        return np.clip(pixels, 0.0, 1.0)

    placed = (jax.device_put(params) for params in weights)  # one after the other: the memory of one
    return np.stack([np.stack([image(params, index) for index in range(len(lr))]) for params in placed])


def teacher_figure(students: Sequence[StudentImages], teacher: np.ndarray, hr: np.ndarray) -> FigureContent:
    """Discrepancy of students' images from their teacher's by band, and the power spectra (DTKD, Figs. 3 and 4)."""
    discrepancies = {student.label: band_discrepancy(student.images, teacher) for student in students}
    spectra = [Spectrum(student.label, power_spectrum(student.images)) for student in students]
    spectra += [Spectrum("teacher", power_spectrum(teacher)), Spectrum("HR", power_spectrum(hr))]
    rows = []
    for label, discrepancy in discrepancies.items():
        rows += [_row(label, "wavelet discrepancy", *entry) for entry in zip(BANDS, discrepancy.wavelet, strict=True)]
        rows += [
            _row(label, "Fourier discrepancy", *entry) for entry in zip(FREQUENCIES, discrepancy.fourier, strict=True)
        ]
    for label, power in spectra:
        rows += [_row(label, "power", *entry) for entry in zip(FREQUENCIES, power, strict=True)]
    caption = (
        f"Distance of {' and '.join(discrepancies)} from the teacher's images, means over {len(teacher)} crops. "
        "(a) Mean absolute difference of the bands of a two-level Haar transform, relative to the teacher's bands: low "
        "band (LL), horizontal (H), vertical (V) and diagonal (D) details. (b) The same of the rings of the Fourier "
        "spectrum, as Euclidean lengths. (c) Power spectra. After DTKD, Figs. 3 and 4, whose measure is not stated."
    )
    return FigureContent(caption, PAGE, 2.1, partial(_draw_teacher, discrepancies=discrepancies, spectra=spectra), rows)


def _row(run: str, measure: str, band: Any, values: np.ndarray) -> dict[str, Any]:
    name = band if isinstance(band, str) else f"{band:g}"
    mean, deviation = (float(f"{value:.6g}") for value in (values.mean(), values.std()))
    return {"run": run, "measure": measure, "band": name, "mean": mean, "standard_deviation": deviation}


def _draw_teacher(figure: Any, discrepancies: Mapping[str, BandDiscrepancy], spectra: Sequence[Spectrum]) -> None:
    bars, rings, power = figure.subplots(1, 3)
    positions, width = np.arange(len(BANDS)), 0.8 / len(discrepancies)
    for number, (label, discrepancy) in enumerate(discrepancies.items()):
        look = {"color": COLORS[number], "label": label}
        offset = (number - (len(discrepancies) - 1) / 2) * width
        means = discrepancy.wavelet.mean(axis=1)
        bars.bar(positions + offset, means, width, hatch=HATCHES[number], edgecolor="white", linewidth=0.4, **look)
        rings.plot(FREQUENCIES, discrepancy.fourier.mean(axis=1), linestyle=DASHES[number], **look)
        power.plot(FREQUENCIES, spectra[number].power.mean(axis=1), linestyle=DASHES[number], **look)
    for (label, values), color in zip(spectra[-2:], ("black", "0.55"), strict=True):
        power.plot(FREQUENCIES, values.mean(axis=1), color=color, label=label)
    bars.set_xticks(positions, BANDS)
    bars.set(xlabel="(a) wavelet band", ylabel="relative distance to the teacher")
    rings.set(xlabel="(b) frequency / Nyquist frequency", ylabel="relative distance to the teacher", xlim=(0, 1))
    rings.set_ylim(bottom=0)
    power.set(xlabel="(c) frequency / Nyquist frequency", ylabel="mean power", xlim=(0, 1), yscale="log")
    for axis in (bars, rings, power):
        axis.grid(axis="y")
    power.legend()
    if len(discrepancies) > 1:
        bars.legend()


def extractor_figure(photographs: Sequence[np.ndarray], maps: Sequence[FeatureMaps]) -> FigureContent:
    """Feature maps of HF-Diff's extractor before and after its invertible modules (HF-Diff, Fig. 5)."""
    rows, labels = [], []
    for photograph, features in zip(photographs, maps, strict=True):
        for stage, magnitude, channels in zip(STAGES, features.magnitudes, features.channels, strict=True):
            rows.append([photograph, in_unit_range(magnitude), *map(centered, channels)])
            labels.append(f"${stage}$")
    count = maps[0].channels.shape[1]
    columns = ["photograph", "mean magnitude", *(f"channel {rank + 1}" for rank in range(count))]
    arrays = {"photographs": np.stack([to_uint8(photograph) for photograph in photographs])}
    arrays |= {name: np.stack([getattr(each, name) for each in maps]) for name in FeatureMaps._fields}
    caption = (
        "Feature maps of the extractor before (z_0) and after (z_K) its invertible modules: the mean magnitude over "
        f"all channels (0 is black), and the {count} channels that vary most over the photograph (0 is gray). "
        "After HF-Diff, Fig. 5."
    )
    height = grid_height(len(rows), len(columns), PAGE, photographs[0].shape[0] / photographs[0].shape[1])
    draw = partial(_draw_images, rows=rows, columns=columns, labels=labels)
    return FigureContent(caption, PAGE, height, draw, arrays=arrays)


def training_figure(
    steps: Sequence[int], runs: Sequence[ProgressRow], bicubic: np.ndarray, hr: np.ndarray
) -> FigureContent:
    """The images of a run's checkpoints, for the same LR images and noise (FRAMER, Fig. 8).

    Args:
      steps: S numbers of steps.
      runs: one or two runs.
      bicubic: upsampled LR images, [B, H, W, 3] in [0, 1].
      hr: HR images, of the same shape.
    """
    rows, labels = [], []
    for number in range(len(hr)):
        for run in runs:
            rows.append([bicubic[number], *run.images[:, number], hr[number]])
            labels.append(run.label)
    columns = ["LR (bicubic)", *(f"step {step:,}" for step in steps), "HR"]
    arrays = {"steps": np.asarray(steps), "bicubic": to_uint8(bicubic), "hr": to_uint8(hr)}
    arrays |= {f"run_{number}": to_uint8(run.images) for number, run in enumerate(runs)}
    names = " and ".join(run.label for run in runs)
    caption = (
        f"SR images of {names} after {', '.join(f'{step:,}' for step in steps)} steps of training, from the same LR "
        "images and noise. After FRAMER, Fig. 8."
    )
    height = grid_height(len(rows), len(columns), PAGE, hr.shape[1] / hr.shape[2])
    draw = partial(_draw_images, rows=rows, columns=columns, labels=labels)
    return FigureContent(caption, PAGE, height, draw, arrays=arrays)


def _draw_images(
    figure: Any, rows: Sequence[Sequence[np.ndarray]], columns: Sequence[str], labels: Sequence[str]
) -> None:
    draw_image_grid(figure, rows, columns, labels, vmin=0, vmax=1, cmap="gray")
