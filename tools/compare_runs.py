r"""Compare ways to train over several seeds: what the tables of docs/results are made of.

    python tools/compare_runs.py --photos BSD100/HR --limit 30 \
        base=runs/base_0,runs/base_1,runs/base_2 framer=runs/framer_0,runs/framer_1,runs/framer_2 [--markdown OUT.md]

Each group's runs differ in their seed only. Photographs are degraded as their training sets were, with one draw that
all runs share (--seed); figures are means over photographs, then mean ± standard deviation over runs. `detail-…` says
how much of the photograph's detail a picture has. Rows: bicubic, and of every group the one-step mean and the sampler,
as far as the recipe has them. For a run of SinSR, --teachers adds the PSNR between its picture and the end of the
teacher's chain from the same noise, beside that of the teacher's own first step, where the student started.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import jax
import jax.numpy as jnp
import numpy as np
from framer_jax.recipes.latent_space import LatentTask
from rich.console import Console
from rich.progress import track

from framer_jax.data.sources import folder_source
from framer_jax.data.whole_photos import ValidationPair, validation_pairs
from framer_jax.degradations.presets import preset_by_name
from framer_jax.diffusion.noise import noise_field
from framer_jax.evaluation.metrics import score
from framer_jax.evaluation.niqe import load_niqe_model
from framer_jax.evaluation.validation import center_crops
from framer_jax.frequency.wavelets import haar_decompose
from framer_jax.inference.model import Model, load_model
from framer_jax.inference.resample import upsample_bicubic
from framer_jax.porting.files import atomic_write
from framer_jax.recipes.sinsr import ENDS, TEACHER
from framer_jax.recipes.table import SPACES
from tools.score_model import upscalers

METRICS = ("psnr-y", "ssim-y", "niqe-framer")

TILE = 128
"""LR pixels: one tile holds a photograph of BSD100 whole."""

Scores = dict[str, float]
"""Metric to its mean over photographs."""

CLOSEST = "to teacher"
"""The name of the distance of a SinSR student."""


def main() -> int:
    parser = argparse.ArgumentParser(description="Compare ways to train over several seeds.")
    parser.add_argument("groups", nargs="+", metavar="NAME=RUN,RUN,…", help="weights files or training directories")
    parser.add_argument("--photos", required=True, help="folder of clean photographs")
    parser.add_argument("--limit", type=int, help="only the first so many photographs")
    parser.add_argument("--seed", type=int, default=0, help="of the degradation and of the samplers' noise")
    parser.add_argument("--niqe-model", help="published pristine model: adds the metric niqe")
    parser.add_argument("--teachers", metavar="RUN,RUN,…", help="of the runs of SinSR, in the order of their group")
    parser.add_argument("--markdown", type=Path, help="also write the table here")
    parser.add_argument("--json", type=Path, help="also write every run's figures here")
    parser.add_argument("--overwrite", action="store_true", help="replace existing files")
    arguments = parser.parse_args()
    for path in (arguments.markdown, arguments.json):
        if path and path.exists() and not arguments.overwrite:
            parser.error(f"{path} exists: choose another name or add --overwrite")
    groups = parse_groups(arguments.groups)
    teachers = arguments.teachers.split(",") if arguments.teachers else []
    published = load_niqe_model(arguments.niqe_model) if arguments.niqe_model else None
    ids = (*METRICS, *(("niqe",) if published else ()))
    pairs, degradation = shared_pairs(groups, arguments.photos, arguments.seed, arguments.limit)
    found: dict[str, list[Scores]] = {}
    scale = load_model(next(iter(groups.values()))[0], purpose="description").recipe.scale
    pictures = (upsample_bicubic(pair.lr, scale) for pair in pairs)
    found["bicubic"] = [mean_scores(pictures, pairs, ids, published)]
    for name, runs in groups.items():
        for index, run in enumerate(track(runs, f"scoring {name}", console=Console(stderr=True))):
            model = load_model(run)
            for mode, upscale in upscalers(model, arguments.seed, TILE).items():
                pictures = (upscale(model.params, pair.lr).pixels for pair in pairs)
                result = mean_scores(pictures, pairs, ids, published)
                if model.recipe.precompute and index < len(teachers):
                    result |= distance_to_teacher(model, load_model(teachers[index]), pairs)
                found.setdefault(f"{name}, {mode}", []).append(result)
    text = table(
        found, f"{len(pairs)} photographs of {Path(arguments.photos).parent.name}, degraded by `{degradation}`"
    )
    print(text)
    for path, content in ((arguments.markdown, text), (arguments.json, json.dumps(found, indent=1) + "\n")):
        if path:
            with atomic_write(path) as temporary:
                temporary.write_text(content, encoding="utf-8")
    return 0


def parse_groups(words: Sequence[str]) -> dict[str, list[str]]:
    """'NAME=RUN,RUN' → name to runs.

    Raises:
      SystemExit: a word that is not of that form, or a name given twice.
    """
    groups: dict[str, list[str]] = {}
    for word in words:
        name, found, runs = word.partition("=")
        if not found or not name or not runs or name in groups:
            sys.exit(f"{word!r} is not NAME=RUN,RUN,… with a name of its own")
        groups[name] = runs.split(",")
    return groups


def shared_pairs(
    groups: Mapping[str, Sequence[str]], photos: str, seed: int, limit: int | None
) -> tuple[list[ValidationPair], str]:
    """Photographs and their LR versions, and the preset that all runs were trained with.

    Raises:
      SystemExit: they were trained with several.
    """
    models = [load_model(run, purpose="description") for runs in groups.values() for run in runs]
    names = {model.metadata["config"]["data"]["degradation"] for model in models}
    if len(names) > 1:
        sys.exit(
            f"the runs were trained with different degradations ({', '.join(sorted(names))}): compare like with like"
        )
    scale = models[0].recipe.scale
    multiple = scale * max(model.recipe.lr_multiple for model in models)
    (name,) = names
    return validation_pairs(folder_source(photos), preset_by_name(name, scale), seed, multiple, limit), name


def mean_scores(
    pictures: Iterable[np.ndarray], pairs: Sequence[ValidationPair], ids: Sequence[str], published: Any
) -> Scores:
    """Means over photographs."""
    found = []
    for picture, pair in zip(pictures, pairs, strict=True):
        clipped = np.clip(picture, 0, 1)
        scores = score(clipped[None], pair.hr[None], ids, published)
        found.append({name: float(scores[name][0]) for name in ids} | detail(clipped, pair.hr))
    return {name: float(np.mean([entry[name] for entry in found])) for name in found[0]}


def detail(picture: np.ndarray, hr: np.ndarray) -> Scores:
    """How much of the photograph's detail a picture has: mean size of its Haar details by that of the photograph's.

    1 is as much; 'middle' the details of level 2, 'high' those of level 1.
    """
    height, width = (side // 4 * 4 for side in hr.shape[:2])

    def sizes(image: np.ndarray) -> list[float]:
        bands = haar_decompose(jnp.asarray(image[None, :height, :width], jnp.float32), 2)
        return [float(np.mean([np.abs(band).mean() for band in level])) for level in bands.details]

    return {
        f"detail-{name}": own / wanted
        for name, own, wanted in zip(("middle", "high"), sizes(picture), sizes(hr), strict=True)
    }


def distance_to_teacher(student: Model, teacher: Model, pairs: Sequence[ValidationPair]) -> Scores:
    """PSNR (RGB, [0, 1]) between one step from a noise and the end of the teacher's chain from it, on central crops."""
    recipe, config = student.recipe, student.metadata["config"]["recipe"]
    space = SPACES[config["space"]["name"]](config["space"], jnp.float32, "inference")
    task = LatentTask(space, recipe.scale, config["resshift"]["residual"])
    frozen = {**recipe.frozen, TEACHER: teacher.params}
    _, crops = center_crops(pairs, recipe.scale, recipe.lr_multiple)
    lr = jnp.asarray(crops)
    noise = noise_field(jax.random.key(0), lr.shape[0])
    assert recipe.precompute is not None
    end = jax.jit(recipe.precompute)(frozen, {"lr": lr}, noise)[ENDS[1]]
    wanted = task.picture(frozen, end, task.enlarged(frozen, lr)[0])
    sample = jax.jit(recipe.sample)
    before, after = (sample(params, recipe.frozen, lr, noise) for params in (teacher.params, student.params))
    return {"before, to teacher": _psnr(before, wanted), CLOSEST: _psnr(after, wanted)}


def _psnr(found: jax.Array, wanted: jax.Array) -> float:
    error = np.square(np.clip(found, 0, 1) - np.clip(wanted, 0, 1)).mean(axis=(1, 2, 3))
    return float(np.mean(-10 * np.log10(error)))


def table(found: Mapping[str, Sequence[Scores]], title: str) -> str:
    """Markdown: one row per way, one column per figure."""
    ids = list(dict.fromkeys(name for rows in found.values() for row in rows for name in row))
    lines = [title, "", "| | runs | " + " | ".join(ids) + " |", "|---|" + "---|" * (len(ids) + 1)]
    for name, rows in found.items():
        cells = [_cell([row[metric] for row in rows if metric in row]) for metric in ids]
        lines.append(f"| {name} | {'' if name == 'bicubic' else len(rows)} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _cell(values: Sequence[float]) -> str:
    if not values:
        return ""
    spread = f" ± {np.std(values, ddof=1):.3f}" if len(values) > 1 else ""
    return f"{np.mean(values):.3f}{spread}"


if __name__ == "__main__":
    sys.exit(main())
