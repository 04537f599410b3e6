r"""Score models on real photographs: one command makes the table and the image sheets of docs/results/quality.md.

    FRAMER_JAX_WEIGHTS=WEIGHTS python tools/quality_table.py --output quality/ --crops realsr_crops/ \
        --realset65 RealSet65/ --niqe-model niqe_pris_params.npz --dists-weights dists_alpha_beta.safetensors

SR images, scores and times are kept in the output folder, each under a digest of the weights, settings and photographs
that it depends on: the same command goes on where it was interrupted, and computes nothing twice. What is missing (a
model, a metric's weights, images that there was no time for) is a line each, and the exit status is then 1.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from rich.console import Console
from rich.progress import Progress

import framer_jax
from framer_jax.compile_cache import keep_compiled_programs
from framer_jax.evaluation.files import image_files, read_pixels
from framer_jax.evaluation.metrics import METRICS
from framer_jax.evaluation.niqe import load_niqe_model
from framer_jax.evaluation.perceptual import DISTS_OPTION, LPIPS_OPTION
from framer_jax.evaluation.provenance import metric_entries
from framer_jax.evaluation.scoring import ScoreSettings
from framer_jax.evaluation.sheets import comparison_sheet
from framer_jax.inference.named_models import named_model
from framer_jax.porting.files import atomic_write, check_output_folder
from framer_jax.version import __version__
from tools.quality_images import (
    DataSet,
    Upsampler,
    bicubic,
    image_folder,
    jobs_of,
    make_images,
    upsamplers_of,
)
from tools.quality_scores import (
    COLUMNS,
    NUMBERS,
    SUMMARY,
    Row,
    as_json,
    common_images,
    score_folder,
    settings_of,
    table,
    usable_metrics,
    write_numbers,
)
from tools.quality_times import measure_seconds, timed_image
from tools.timing import hardware

BICUBIC, OSEDIFF = "bicubic", "osediff"
"""Rows that are no models of ours: upsampling without a model, and the images that OSEDiff's authors published."""

DEFAULT_MODELS = (BICUBIC, "starter", "realesr-general-x4v3", "realesrgan-x4plus", OSEDIFF)
"""From fast to slow."""

CROPS, REALSET65 = "RealSR-crops", "RealSet65"

TABLE = "table.md"


CROP = 256
"""Side of the crops of an image sheet, in SR pixels."""

ERR = Console(stderr=True)


class Result(NamedTuple):
    """What is computed for a data set.

    Attributes:
      rows: the ways to upscale that have images.
      settings: the metrics.
      missing: what is missing, a line each.
    """

    rows: list[Row]
    settings: ScoreSettings
    missing: list[str]


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse_options(arguments)
    try:
        return run(options)
    except (ValueError, OSError, ImportError, MemoryError) as error:
        print(f"quality_table: {' '.join(str(error).split())}", file=sys.stderr)
        return 2


def parse_options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="folder for images, scores, table and image sheets")
    parser.add_argument("--crops", type=Path, metavar="FOLDER", help="crops of RealSR: LR/, HR/, osediff/")
    parser.add_argument("--realset65", type=Path, metavar="FOLDER", help="LR photographs without references")
    parser.add_argument(
        "--models",
        nargs="+",
        default=DEFAULT_MODELS,
        metavar="NAME[=WEIGHTS]",
        help=f"{BICUBIC}, {OSEDIFF} (published images), a model by name, or a name for weights or a training run; "
        f"default: {' '.join(DEFAULT_MODELS)}",
    )
    parser.add_argument("--metrics", default=",".join(COLUMNS), help=f"comma-separated; default: {','.join(COLUMNS)}")
    parser.add_argument("--niqe-model", metavar="NPZ", help="published pristine model of niqe-pyiqa")
    parser.add_argument(LPIPS_OPTION, nargs="+", default=(), metavar="FILE", help="as of framer-jax evaluate")
    parser.add_argument(DISTS_OPTION, nargs="+", default=(), metavar="FILE", help="as of framer-jax evaluate")
    parser.add_argument("--seed", type=int, default=0, help="seed of the noise (0)")
    parser.add_argument("--limit", type=int, metavar="N", help="the first N images of each data set only, as a trial")
    parser.add_argument("--minutes", type=float, metavar="M", help="begin no further image after so many minutes")
    parser.add_argument("--rounds", type=int, default=5, help="timed runs of each model (5); 0 for no times")
    parser.add_argument("--sheet-rows", type=int, default=6, metavar="N", help="photographs of an image sheet (6)")
    parser.add_argument("--overwrite", action="store_true", help="replace the table and the image sheets")
    return parser.parse_args(arguments)


def run(options: argparse.Namespace) -> int:
    """Compute what is not there yet, write the report and print the table; 1 if anything is missing.

    Raises:
      FileExistsError: there is a report, which may not be replaced.
      ValueError, OSError, ImportError: options, weights or photographs that cannot be used.
    """
    stop = None if options.minutes is None else time.monotonic() + 60 * options.minutes
    sets = data_sets(options)
    check_options(options, sets)
    keep_compiled_programs()
    niqe_model = None if options.niqe_model is None else load_niqe_model(options.niqe_model)
    settings, without_weights = usable_metrics(
        options.metrics.split(","), niqe_model, options.lpips_weights, options.dists_weights
    )
    upsamplers, without_model = open_upsamplers(options.models, options.seed)
    results = {
        data_set.name: compute(
            data_set,
            upsamplers,
            settings,
            options.output,
            options.limit,
            lambda: stop is None or time.monotonic() < stop,
        )
        for data_set in sets
    }
    lr = timed_image(sets[0])
    seconds = measure_seconds(upsamplers, lr, options.rounds, options.output) if options.rounds else {}
    missing = [*without_weights, *without_model, *(line for result in results.values() for line in result.missing)]
    text = report(results, seconds, lr, options)
    for data_set in sets:
        write_sheet(results[data_set.name].rows, options.sheet_rows, sheet_path(options.output, data_set))
    numbers = {
        "framer_jax": __version__,
        "hardware": hardware(),
        "seed": options.seed,
        "seconds": seconds,
        "missing": missing,
        "metrics": metric_entries(settings),
        "data_sets": {
            name: {row.label: as_json(row, result.settings.ids) for row in result.rows}
            for name, result in results.items()
        },
    }
    with atomic_write(options.output / TABLE) as temporary:
        temporary.write_text(text, encoding="utf-8")
    write_numbers(options.output, numbers)
    print(text)
    for line in missing:
        print(f"missing: {line}", file=sys.stderr)
    return int(bool(missing))


def data_sets(options: argparse.Namespace) -> list[DataSet]:
    """The data sets that are named.

    Raises:
      ValueError, FileNotFoundError: none is named, or a folder lacks images.
    """
    sets = []
    if options.crops:
        published = {"OSEDiff, published images": options.crops / "osediff"} if OSEDIFF in options.models else {}
        sets.append(DataSet(CROPS, options.crops / "LR", options.crops / "HR", published))
    if options.realset65:
        sets.append(DataSet(REALSET65, options.realset65))
    if not sets:
        raise ValueError("no photographs: give --crops, --realset65 or both")
    for data_set in sets:
        for folder in (data_set.lr, data_set.reference, *data_set.published.values()):
            if folder is not None:
                image_files(folder)
    return sets


def check_options(options: argparse.Namespace, sets: Sequence[DataSet]) -> None:
    """Refuse what no option can mean, and an output that would replace something.

    Raises:
      FileExistsError: there is a report, and no --overwrite.
      ValueError: numbers out of range, or an output that is an input.
    """
    for name, least in (("limit", 1), ("minutes", 0), ("rounds", 0), ("sheet_rows", 1)):
        value = getattr(options, name)
        if value is not None and value < least:
            raise ValueError(f"--{name.replace('_', '-')} is {value}: it must be at least {least}")
    folders = [options.crops, options.realset65, *(data_set.lr for data_set in sets)]
    check_output_folder("--output", options.output, {"the photographs of": [folder for folder in folders if folder]})
    files = [options.output / name for name in (TABLE, NUMBERS, SUMMARY)]
    files += [sheet_path(options.output, data_set) for data_set in sets]
    existing = [str(file) for file in files if file.exists()]
    if existing and not options.overwrite:
        raise FileExistsError(
            f"{', '.join(existing)} exist: choose another --output, or add --overwrite, which replaces these files "
            "and keeps the SR images"
        )


def sheet_path(output: Path, data_set: DataSet) -> Path:
    return output / f"{data_set.name}.jpg"


def open_upsamplers(words: Sequence[str], seed: int) -> tuple[list[Upsampler], list[str]]:
    """The ways to upscale, and a line for each model that is missing.

    Args:
      words: of the option --models.
      seed: seed of the noise.

    Raises:
      ValueError: a name that is no model's, or a name twice.
    """
    upsamplers: list[Upsampler] = []
    missing = []
    for word in words:
        label, separator, path = word.partition("=")
        if word == OSEDIFF:
            continue
        if word == BICUBIC:
            upsamplers.append(bicubic())
            continue
        if not separator:
            named_model(word)
        try:
            model = framer_jax.load_model(path if separator else word)
            upsamplers += upsamplers_of(label, model, seed)
        except (ValueError, OSError, ImportError) as error:
            missing.append(" ".join(str(error).split()))
    labels = [upsampler.label for upsampler in upsamplers]
    if len(set(labels)) < len(labels):
        raise ValueError(f"--models names a model twice: {', '.join(labels)}")
    return upsamplers, missing


def compute(
    data_set: DataSet,
    upsamplers: Sequence[Upsampler],
    settings: ScoreSettings,
    output: Path,
    limit: int | None,
    may_begin: Callable[[], bool],
) -> Result:
    """Make and score the images of a data set that are not there yet.

    Args:
      data_set: the photographs.
      upsamplers: the ways to upscale, from fast to slow.
      settings: the metrics of all data sets.
      output: folder of the whole report.
      limit: the first so many photographs; None for all.
      may_begin: whether there is time for one more image.

    Raises:
      ValueError, OSError: as of `score_folder`.
    """
    settings = settings_of(data_set, settings)
    rows, missing = [], []
    folders: dict[str, Path] = {}
    names = [job.target.stem for job in jobs_of(data_set, output / "images", limit)]
    for upsampler in upsamplers:
        folders[upsampler.label] = image_folder(output, data_set, upsampler)
        jobs = jobs_of(data_set, folders[upsampler.label], limit)
        with progress(f"{data_set.name}, {upsampler.label}", len(jobs)) as advance:
            missing += make_images(upsampler, jobs, advance, may_begin)
    for label, folder in (*folders.items(), *data_set.published.items()):
        with progress(f"{data_set.name}, scores of {label}", len(names) * len(settings.ids)) as advance:
            row = score_folder(label, folder, set(names), data_set, settings, output, advance)
        if row.pairs:
            rows.append(row)
        for metric in settings.ids:
            if undefined := sum(np.isnan(scores[metric]) for scores in row.scores.values()):
                missing.append(f"{data_set.name}, {label}: {undefined} images without {metric}")
        if len(row.pairs) < len(names):
            missing.append(f"{data_set.name}, {label}: {len(row.pairs)} of {len(names)} images")
    return Result(rows, settings, missing)


@contextmanager
def progress(description: str, total: int) -> Iterator[Callable[[int], None]]:
    """A progress bar on standard error: yields a function that is called with the number of images that are done."""
    with Progress(console=ERR, transient=True) as bar:
        task = bar.add_task(description, total=total)
        yield lambda count: bar.advance(task, count)
    ERR.print(f"{time.strftime('%H:%M:%S')} {description}", highlight=False)


def report(
    results: Mapping[str, Result], seconds: Mapping[str, float], timed: np.ndarray, options: argparse.Namespace
) -> str:
    """The tables in Markdown, with what is needed to compare their numbers."""
    lines = []
    for name, result in results.items():
        ids, common = result.settings.ids, common_images(result.rows)
        if not result.rows or not ids:
            continue
        lines += [f"## {name}", "", table(result.rows, ids, seconds if name == next(iter(results)) else {})]
        if any(len(row.pairs) > len(common) for row in result.rows) and common:
            lines += [f"The {len(common)} images that all rows have:", "", table(result.rows, ids, {}, common)]
    computed = dict.fromkeys(name for result in results.values() for name in result.settings.ids)
    lines.append("Means over images, with 95 % bootstrap intervals.")
    lines += [f"`{name}`: {METRICS[name].description}." for name in computed]
    if seconds:
        height, width = timed.shape[:2]
        lines.append(
            f"Seconds: median of {options.rounds} runs on an LR image of {width}x{height}, in turns, without "
            f"compilation and files, on {hardware()}."
        )
    return "\n".join(lines) + "\n"


def write_sheet(rows: Sequence[Row], count: int, path: Path) -> None:
    """Write center crops side by side, of photographs that all rows have, evenly spaced in the order of their names."""
    names = common_images(rows)
    if not names:
        return
    chosen = [names[index] for index in np.linspace(0, len(names) - 1, min(count, len(names))).round().astype(int)]
    files = {row.label: {pair.name: pair.image for pair in row.pairs} for row in rows}
    references = {pair.name: pair.reference for pair in rows[0].pairs if pair.reference is not None}
    if references:
        files["reference"] = references
    sheet = comparison_sheet(
        [{label: read_pixels(of_names[name]) for label, of_names in files.items()} for name in chosen], CROP
    )
    with atomic_write(path) as temporary:
        sheet.save(temporary, "JPEG", quality=92, subsampling=0)


if __name__ == "__main__":
    sys.exit(main())
