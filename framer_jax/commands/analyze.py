"""`framer-jax analyze`: figures of a model's layers, of its distance to a teacher and of its training, for a paper."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from framer_jax.commands.analyze_figures import (
    EXTRACTOR,
    FIGURES,
    TEACHER,
    TRAINING,
    Inputs,
    check_same_taps,
    make_contents,
    missing_part,
    shapes_of_taps,
    shows_layers,
)
from framer_jax.commands.analyze_inputs import (
    check_together,
    lr_multiple,
    open_extractor,
    open_pairs,
    open_run,
    open_teacher,
    training_steps,
)
from framer_jax.commands.override_option import add_override_option
from framer_jax.commands.quiet_option import add_quiet_option
from framer_jax.console import message_console
from framer_jax.evaluation.layers import RADIUS
from framer_jax.evaluation.paper_figures import FigureContent, check_matplotlib, file_names, write_content
from framer_jax.inference.model import Model
from framer_jax.knobs import nearest
from framer_jax.porting.files import atomic_write, check_output_folder, sha256_of
from framer_jax.version import __version__

TIMES = (0.1, 0.5, 0.9)
"""Default fractions of the forward process."""

RECORD = "analysis.json"
"""The file with versions, digests, settings and numbers."""

INPUTS = ("models", "images", "settings")
"""Parts of the record that must be the same for figures of several calls."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    shown = "; ".join(f"{name}: {what}" for name, what in FIGURES.items())
    parser.epilog = (
        f"Figures. {shown}. Each is written as PNG (300 dpi) and SVG, with its numbers as CSV or npz; {RECORD} has a "
        "caption for each, the settings and the digests of the weights."
    )
    parser.add_argument(
        "weights",
        nargs="?",
        metavar="[LABEL=]WEIGHTS",
        help="weights file, directory of a training run, or name of a model; default: the standard model",
    )
    parser.add_argument("--output", required=True, metavar="FOLDER", help="folder for the figures")
    parser.add_argument(
        "--compare", metavar="[LABEL=]WEIGHTS", help="a second run in the same axes, on the same images and noise"
    )
    parser.add_argument("--figures", metavar="NAME,NAME", help="figures to make; default: all that can be made")
    parser.add_argument("--photos", metavar="FOLDER", help="clean photographs; default: the held-out built-in ones")
    parser.add_argument("--lr", metavar="FOLDER", help="LR images, with --hr, in place of degraded photographs")
    parser.add_argument("--hr", metavar="FOLDER", help="the HR images of --lr, of the same names")
    parser.add_argument("--count", type=int, default=16, help="largest number of images, all in memory (16)")
    parser.add_argument(
        "--timesteps",
        default=",".join(map(str, TIMES)),
        metavar="T,T",
        help="fractions of the forward process at which layers are compared, from 0 (clean) to 1 (noise) (%(default)s)",
    )
    parser.add_argument(
        "--radius", type=float, default=RADIUS, help="radius of the low band / Nyquist frequency (%(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the degradation and of the noise (0)")
    parser.add_argument("--overwrite", action="store_true", help="replace existing files")
    add_quiet_option(parser)
    _add_model_arguments(parser)


def _add_model_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--recipe", metavar="CONFIG", help="configuration of WEIGHTS, if they are published ones")
    add_override_option(parser, "override one knob of the configuration of --recipe")
    parser.add_argument(
        "--compare-recipe", metavar="CONFIG", help="configuration of --compare, if it is published weights"
    )
    parser.add_argument("--teacher", metavar="WEIGHTS", help="teacher; default: the one that WEIGHTS was trained with")
    parser.add_argument(
        "--teacher-recipe", metavar="CONFIG", help="configuration of --teacher, if it is published weights"
    )
    parser.add_argument(
        "--extractor", metavar="WEIGHTS", help="feature extractor; default: the one that WEIGHTS was trained with"
    )
    parser.add_argument(
        "--checkpoints",
        nargs="+",
        default=(),
        metavar="FILE",
        help="weights files of WEIGHTS at several steps; default: the checkpoints in the run's directory",
    )


def run(arguments: argparse.Namespace) -> int:
    """Make the figures that can be made, and say what the others need."""
    check_matplotlib()
    figures, times = _figures(arguments.figures), _times(arguments.timesteps)
    considered = figures or tuple(FIGURES)
    _check_options(arguments)
    folder = Path(arguments.output)
    _check_folder(arguments, folder, considered)
    inputs = _open(arguments, times, considered)
    print(f"images: {inputs.pairs.description}")
    missing = {name: reason for name in considered if (reason := missing_part(name, inputs))}
    for name in figures:
        if name in missing:
            raise ValueError(f"--figures {name}: this figure needs {missing[name]}")
    chosen = tuple(name for name in considered if name not in missing)
    if not chosen:
        reasons = "; ".join(f"{name} needs {reason}" for name, reason in missing.items())
        raise ValueError(f"no figure can be made: {reasons}")
    check_same_taps(inputs, chosen)
    contents = make_contents(inputs, chosen, message_console(arguments.quiet))
    written = {}
    for name, content in contents.items():
        written[name] = write_content(folder, name, content)
        print(f"{name}: {', '.join(written[name])}")
    for note in _write_record(folder, inputs, contents, written):
        print(note)
    print(f"captions, settings and digests: {folder / RECORD}")
    for name, reason in missing.items():
        print(f"not made: {name} needs {reason}")
    return 0


def _figures(text: str | None) -> tuple[str, ...]:
    """The requested figures, () for all that can be made."""
    if text is None:
        return ()
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    if unknown := [name for name in names if name not in FIGURES]:
        raise ValueError(f"--figures: there is no figure {unknown[0]!r}{nearest(unknown[0], FIGURES)}")
    if not names:
        raise ValueError(f"--figures names none: choose from {', '.join(FIGURES)}")
    return names


def _times(text: str) -> tuple[float, ...]:
    try:
        times = tuple(sorted({float(part) for part in text.split(",")}))
    except ValueError:
        raise ValueError(f"--timesteps is {text!r}: give fractions with commas, such as 0.1,0.5,0.9") from None
    if not all(0 <= time <= 1 for time in times):
        raise ValueError(f"--timesteps is {text!r}: fractions of the forward process lie in 0 to 1")
    return times


def _check_options(arguments: argparse.Namespace) -> None:
    if arguments.count < 1:
        raise ValueError(f"--count is {arguments.count}: it must be at least 1")
    if arguments.seed < 0:
        raise ValueError(f"--seed is {arguments.seed}: it must be at least 0")
    if not 0 < arguments.radius < 1:
        raise ValueError(f"--radius is {arguments.radius}: it must lie between 0 and 1, the Nyquist frequency")
    if arguments.overrides and not arguments.recipe:
        raise ValueError("--set overrides a knob of the configuration that --recipe names: give --recipe too")
    if arguments.teacher_recipe and not arguments.teacher:
        raise ValueError("--teacher-recipe is the configuration of --teacher: give --teacher too")
    if arguments.compare_recipe and not arguments.compare:
        raise ValueError("--compare-recipe is the configuration of --compare: give --compare too")
    if arguments.checkpoints and arguments.compare:
        raise ValueError("--checkpoints are of one run: without --compare, or give the directories of both runs")


def _check_folder(arguments: argparse.Namespace, folder: Path, figures: Sequence[str]) -> None:
    images = {f"--{name}": [path] for name in ("photos", "lr", "hr") if (path := getattr(arguments, name))}
    check_output_folder("--output", folder, images)
    names = [RECORD, *(file for name in figures for file in file_names(name))]
    existing = [name for name in names if (folder / name).exists()]
    if existing and not arguments.overwrite:
        raise ValueError(f"--output {folder} has {', '.join(existing)}: choose another folder, or add --overwrite")


def _open(arguments: argparse.Namespace, times: tuple[float, ...], figures: Sequence[str]) -> Inputs:
    """Read all that the arguments name and one of the figures needs."""
    runs = [open_run(arguments.weights, arguments.recipe, arguments.overrides)]
    if arguments.compare:
        runs.append(open_run(arguments.compare, arguments.compare_recipe))
        check_together(runs)
    directories = {f"the run {run.label}": [run.directory] for run in runs if run.directory}
    check_output_folder("--output", arguments.output, directories)
    teacher: Model | str = ""
    if TEACHER in figures:
        teacher = open_teacher(runs[0], arguments.teacher, arguments.teacher_recipe)
    models = [run.model for run in runs] + ([] if isinstance(teacher, str) else [teacher])
    multiple = lr_multiple(models)
    pairs = open_pairs(
        runs[0].model, arguments.photos, arguments.lr, arguments.hr, arguments.seed, arguments.count, multiple
    )
    return Inputs(
        runs=tuple(runs),
        pairs=pairs,
        multiple=multiple,
        times=times,
        radius=arguments.radius,
        seed=arguments.seed,
        teacher=teacher,
        extractor=open_extractor(runs[0], arguments.extractor) if EXTRACTOR in figures else "",
        steps=training_steps(runs, arguments.checkpoints) if TRAINING in figures else "",
        files=tuple(arguments.checkpoints),
        shapes=shapes_of_taps(runs, pairs.pairs, multiple) if shows_layers(figures) else (),
    )


def _write_record(
    folder: Path, inputs: Inputs, contents: Mapping[str, FigureContent], written: Mapping[str, Sequence[str]]
) -> list[str]:
    """Write `RECORD`; it keeps the figures of an earlier call with the same models, images and settings.

    Returns:
      a line about the earlier figures that it does not keep, or none.
    """
    record: dict[str, Any] = {
        "framer_jax_version": __version__,
        "jax_version": jax.__version__,
        "models": {run.label: _model_record(run.model) for run in inputs.runs},
        "images": {"source": inputs.pairs.description, "names": [pair.name for pair in inputs.pairs.pairs]},
        "settings": {"timesteps": list(inputs.times), "radius": inputs.radius, "seed": inputs.seed},
        "figures": {
            name: {
                "caption": content.caption,
                "files": list(written[name]),
                "width_inches": content.width,
                "numbers": list(content.rows),
            }
            for name, content in contents.items()
        },
    }
    if TEACHER in contents and not isinstance(inputs.teacher, str):
        record["teacher"] = _model_record(inputs.teacher)
    if EXTRACTOR in contents and not isinstance(inputs.extractor, str):
        record["extractor"] = inputs.extractor.source
    earlier = _earlier_record(folder)
    others = {name: entry for name, entry in earlier.get("figures", {}).items() if name not in contents}
    keeps = all(earlier.get(part) == json.loads(json.dumps(record[part])) for part in INPUTS)
    if keeps:
        record = {**earlier, **record, "figures": {**others, **record["figures"]}}
    with atomic_write(folder / RECORD) as temporary:
        temporary.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8", errors="backslashreplace")
    if others and not keeps:
        return [f"{RECORD} no longer describes {', '.join(others)}, which earlier calls made from other inputs"]
    return []


def _earlier_record(folder: Path) -> dict[str, Any]:
    try:
        record: dict[str, Any] = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        record.get("figures", {}).items()
    except (OSError, ValueError, AttributeError):
        return {}
    return record


def _model_record(model: Model) -> dict[str, Any]:
    return {
        "recipe": model.recipe.name,
        "weights": model.path.name,
        "sha256": sha256_of(model.path),
        "step": model.metadata.get("step"),
        "frozen_weights": dict(model.frozen_weights),
    }
