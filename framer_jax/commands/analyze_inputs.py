"""What `framer-jax analyze` looks at: runs and their checkpoints, a teacher, a feature extractor, LR and HR images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from framer_jax.checkpoints.networks import load_network
from framer_jax.checkpoints.paths import is_trained, weight_path, with_dependencies
from framer_jax.commands.compare_labels import split_label
from framer_jax.commands.published import open_model
from framer_jax.data.settings import describe_degradation
from framer_jax.data.whole_photos import ValidationPair
from framer_jax.errors import KINDS
from framer_jax.evaluation.lr_pairs import degraded_pairs, folder_pairs, model_degradation
from framer_jax.evaluation.validation import center_crops
from framer_jax.inference.model import BEST, LAST, Model
from framer_jax.recipes.base import Params, expected_params
from framer_jax.recipes.method import Pretrained, value_at
from framer_jax.recipes.table import method_of
from framer_jax.training.checkpoint import saved_steps
from framer_jax.training.loop import CHECKPOINTS
from framer_jax.training.saved_weights import read_exported
from framer_jax.trees import check_same_structure

TEACHER_ROLE, EXTRACTOR_ROLE = "teacher", "feature extractor"
"""Roles of the weight files (framer_jax.recipes.method.WeightFile) that figures can show."""

EXTRACTOR = "hf_extractor"
"""The weight map of the feature extractor."""

MOST_STEPS = 5
"""Largest number of checkpoints in the figure of a run's training."""

IMAGE_SIDE = 256
"""Largest side of the crops that are upscaled, HR pixels."""

WAVELET_MULTIPLE = 4
"""Sides of these crops are multiples of this, for the wavelet transform."""


class Run(NamedTuple):
    """A model under its name in the figures.

    Attributes:
      label: the name.
      model: its recipe and weights.
      directory: the training run's directory; None for a file.
    """

    label: str
    model: Model
    directory: Path | None


class Pairs(NamedTuple):
    """LR and HR images.

    Attributes:
      pairs: the images.
      description: where they are from, for the user and for the record.
    """

    pairs: list[ValidationPair]
    description: str


def open_run(text: str | None, config: str | None = None, overrides: Sequence[str] = ()) -> Run:
    """A run from [LABEL=]WEIGHTS.

    Args:
      text: weights file, directory of a training run or name of a model; None for the standard model.
      config: configuration of published weights.
      overrides: changes of that configuration.

    Raises:
      ValueError, FileNotFoundError, ImportError: as of framer_jax.commands.published.open_model.
    """
    label, weights = _split_label(text)
    model = open_model(weights, config, overrides)
    directory = Path(weights) if weights is not None and Path(weights).is_dir() else None
    return Run(label or _default_label(model.path), model, directory)


def _split_label(text: str | None) -> tuple[str, str | None]:
    """(label or '', weights or None); ValueError for an empty one before or after the '='."""
    if text is None:
        return "", None
    label, weights = split_label(text)
    if not weights or (weights != text and not label):
        raise ValueError(f"{text!r} lacks a label or weights: write LABEL=WEIGHTS")
    return label, weights


def _default_label(path: Path) -> str:
    """The name of a file or, of a training run's, that of its directory."""
    return path.absolute().parent.name if path.name in (LAST, BEST) else path.stem


def check_together(runs: Sequence[Run]) -> None:
    """Refuse runs that cannot be compared.

    Raises:
      ValueError: equal labels, or different scales.
    """
    first, *others = runs
    for other in others:
        if other.label == first.label:
            raise ValueError(f"two runs are called {first.label!r}: write LABEL=WEIGHTS")
        scales = first.model.recipe.scale, other.model.recipe.scale
        if scales[0] != scales[1]:
            raise ValueError(
                f"{first.label} upsamples by {scales[0]}, {other.label} by {scales[1]}: compare runs of one scale"
            )


def lr_multiple(models: Sequence[Model]) -> int:
    """Sides of LR crops that fit all models are multiples of this."""
    return math.lcm(*(model.recipe.lr_multiple for model in models))


def open_pairs(
    model: Model, photos: str | None, lr: str | None, hr: str | None, seed: int, count: int, multiple: int
) -> Pairs:
    """The images: pairs of two folders, or photographs that are degraded as in a model's training.

    Args:
      model: the model whose degradation is taken.
      photos: folder of clean photographs; None for the built-in ones.
      lr: folder of LR images, with `hr`, their partners; both or neither.
      hr: see `lr`.
      seed: seed of the degradation.
      count: largest number of images.
      multiple: sides of LR images are cropped to multiples of this.

    Raises:
      ValueError, FileNotFoundError: options that exclude each other, or as of framer_jax.evaluation.lr_pairs.
    """
    if bool(lr) != bool(hr):
        raise ValueError(f"--{'lr' if lr else 'hr'} needs --{'hr' if lr else 'lr'} too: the folder of its partners")
    scale = model.recipe.scale
    if lr and hr:
        if photos:
            raise ValueError("--photos are degraded, and --lr and --hr are pairs: give one or the other")
        pairs = folder_pairs(lr, hr, scale, multiple, count)
        return Pairs(pairs, f"{len(pairs)} pairs of {Path(lr).name} and {Path(hr).name}")
    pairs = degraded_pairs(photos, model_degradation(model), seed, scale * multiple, count)
    source = (
        f"of {Path(photos).name}"
        if photos
        else "that are built in and held out from training (others: --photos FOLDER)"
    )
    degradation = describe_degradation(model.metadata["config"]["data"]).replace("`", "")
    return Pairs(pairs, f"{len(pairs)} photographs {source}, degraded with {degradation}, seed {seed}")


def image_crops(pairs: Sequence[ValidationPair], scale: int, multiple: int) -> tuple[np.ndarray, np.ndarray]:
    """(HR, LR) center crops of one size, [N, H, W, 3] float32, which wavelets and models of `multiple` can take.

    Raises:
      ValueError: a photograph is too small.
    """
    least = math.lcm(multiple, WAVELET_MULTIPLE)
    hr, lr = center_crops(pairs, scale, least, max(IMAGE_SIDE, least * scale))
    if not hr.size:
        raise ValueError(f"a photograph is too small: its sides must be at least {least * scale} pixels")
    return hr, lr


def open_teacher(run: Run, named: str | None, config: str | None) -> Model | str:
    """The teacher of a run, or the one that is named; or what is missing, in words.

    Args:
      run: its configuration may name a teacher, which lies next to its weights or where it did in training.
      named: weights of a teacher, as of `open_run`; None for the run's own.
      config: configuration of these weights, if they are published ones.

    Raises:
      ValueError, FileNotFoundError, ImportError: the named teacher cannot be read, or upsamples by another scale.
    """
    if named is None:
        path = _trained_with(run.model, TEACHER_ROLE)
        if path is None:
            return "a teacher: add --teacher WEIGHTS"
        if not path.is_file():
            return f"the teacher {path.name} of {run.label}, which is missing: add --teacher WEIGHTS"
        if not is_trained(path):
            return f"the configuration of {path.name}: add --teacher {path.name} --teacher-recipe CONFIG"
        try:
            return open_model(path)
        except KINDS as error:  # what it needs itself, such as its autoencoder, may be missing
            return f"a teacher that can be read: {error}"
    teacher = open_model(named, config)
    if teacher.recipe.scale != run.model.recipe.scale:
        raise ValueError(
            f"the teacher {named} upsamples by {teacher.recipe.scale}, {run.label} by {run.model.recipe.scale}: give a "
            "teacher of the same scale"
        )
    return teacher


def open_extractor(run: Run, named: str | None) -> Pretrained | str:
    """The feature extractor of a run, or the one that is named; or what is missing, in words.

    Raises:
      ValueError, FileNotFoundError, ImportError: the named file cannot be read, or is of another network.
    """
    path = Path(named) if named else _trained_with(run.model, EXTRACTOR_ROLE)
    if path is None or not (named or path.is_file()):
        return "HF-Diff's feature extractor, as `framer-jax pretrain` trains it: add --extractor WEIGHTS"
    return load_network(EXTRACTOR, path)


def _trained_with(model: Model, role: str) -> Path | None:
    """The file of a role that a model was trained with, where it is now or was then; None if it names none."""
    config = model.metadata["config"]["recipe"]
    files = [file for file in method_of(config).weight_files if file.role == role and weight_path(config, file)]
    if not files:
        return None
    try:
        present = with_dependencies(config, model.path, model.metadata.get("weights", {}), files[:1])
    except (FileNotFoundError, ValueError):
        return Path(weight_path(config, files[0]))
    return Path(str(value_at(present, files[0].path)))


def training_steps(runs: Sequence[Run], files: Sequence[str]) -> list[int] | str:
    """The steps whose checkpoints all runs have, at most `MOST_STEPS`; or what is missing, in words.

    Args:
      runs: the runs.
      files: weights files of several steps of the first and only run, in place of its checkpoints; () for none.
    """
    if files:
        return []
    needed = f"{len(runs)} training runs with" if len(runs) > 1 else "a training run with"
    if any(run.directory is None for run in runs):
        return (
            f"{needed} checkpoints of two steps or more: give the run's directory as WEIGHTS (and as --compare), or "
            "weights files of several steps as --checkpoints FILE FILE"
        )
    steps = [set(saved_steps(run.directory / CHECKPOINTS)) for run in runs if run.directory]
    common = sorted(set.intersection(*steps))
    if len(common) < 2:
        return (
            f"{needed} checkpoints of two {'common ' if len(runs) > 1 else ''}steps or more, and there are "
            f"{len(common)}: train with a larger training.keep_last"
        )
    chosen = np.unique(np.linspace(0, len(common) - 1, min(len(common), MOST_STEPS)).round().astype(int))
    return [common[index] for index in chosen]


def read_steps(run: Run, steps: Sequence[int]) -> list[Params]:
    """The exported weights of a run's checkpoints.

    Raises:
      ValueError: a checkpoint is damaged, or of another model than the run's weights.
    """
    assert run.directory is not None
    weights = []
    for step in steps:
        path = run.directory / CHECKPOINTS / str(step)
        params = read_exported(path, run.model.recipe.exported)
        check_same_structure(params, expected_params(run.model.recipe), f"checkpoint {path}")
        weights.append(params)
    return weights


def read_files(run: Run, files: Sequence[str]) -> tuple[list[int], list[Params]]:
    """(steps, exported weights) of several weights files of a run, in the order of their steps.

    Raises:
      ValueError, FileNotFoundError: fewer than two, a file cannot be read, states no step, or is of another model; or
        two are of one step.
    """
    if len(files) < 2:
        raise ValueError("--checkpoints needs weights files of two steps or more")
    weights: dict[int, Params] = {}
    for file in files:
        model = open_model(file)
        step = model.metadata.get("step")
        if not isinstance(step, int):
            raise ValueError(
                f"--checkpoints {file} does not state its step: give weights that `framer-jax train` wrote"
            )
        if step in weights:
            raise ValueError(f"--checkpoints: two files are of step {step}: give files of different steps")
        check_same_structure(model.params, expected_params(run.model.recipe), str(file))
        weights[step] = model.params
    return sorted(weights), [weights[step] for step in sorted(weights)]
