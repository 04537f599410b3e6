"""Score a model on degraded photographs, as a model card reports it; the degradation is that of training by default.

    python tools/score_model.py [WEIGHTS] --photos FOLDER [--json OUT.json [--overwrite]]

Without a folder the held-out built-in photographs are used; without weights, the starter model. Rows: bicubic
upsampling, the one-step mean and the sampler; figures are means over photographs with 95 % bootstrap intervals.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import jax
import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table

from framer_jax.degradations.presets import GEOMETRIES
from framer_jax.evaluation.lr_pairs import degraded_pairs, model_degradation
from framer_jax.evaluation.metrics import METRICS, score
from framer_jax.evaluation.niqe import load_niqe_model
from framer_jax.evaluation.statistics import bootstrap_interval
from framer_jax.inference.model import Model, load_model, settings_for
from framer_jax.inference.resample import upsample_bicubic
from framer_jax.inference.upscaler import UpscaleFunction, make_upscaler
from framer_jax.recipes.base import Recipe

MODES = ("mean", "sample")

TILE = 64  # LR pixels: photographs of any size share one compiled program


def main() -> int:
    parser = argparse.ArgumentParser(description="Score a model on degraded photographs.")
    parser.add_argument("weights", nargs="?", help="weights file or training directory; default: the starter")
    parser.add_argument("--photos", help="folder of clean photographs; default: the held-out built-in ones")
    parser.add_argument("--seed", type=int, default=0, help="seed of the degradation and of the noise")
    parser.add_argument("--degradation", help="a preset or a mixture of presets; default: that of the model's training")
    parser.add_argument(
        "--geometry", choices=GEOMETRIES, help="of the degradation; default: that of the model's training"
    )
    parser.add_argument("--niqe-model", help="published pristine model: adds the metric niqe")
    parser.add_argument("--json", type=Path, help="also write the scores of every image to this file")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing --json file")
    arguments = parser.parse_args()
    if arguments.json and arguments.json.exists() and not arguments.overwrite:
        parser.error(f"{arguments.json} exists: choose another name or add --overwrite")
    model = load_model(arguments.weights)
    preset = model_degradation(model, arguments.degradation, arguments.geometry)
    pairs = degraded_pairs(
        arguments.photos, preset, arguments.seed, multiple=model.recipe.scale * model.recipe.lr_multiple
    )
    niqe_model = None if arguments.niqe_model is None else load_niqe_model(arguments.niqe_model)
    ids = ["psnr-y", "psnr-rgb", "ssim-y", "niqe-framer", *(["niqe"] if niqe_model else [])]
    upscale = upscalers(model, arguments.seed)
    values: dict[str, dict[str, list[float]]] = {name: {metric: [] for metric in ids} for name in ("bicubic", *upscale)}
    for pair in track(pairs, "scoring", console=Console(stderr=True)):
        outputs = {"bicubic": upsample_bicubic(pair.lr, model.recipe.scale)}
        outputs |= {mode: run(model.params, pair.lr).pixels for mode, run in upscale.items()}
        for name, output in outputs.items():
            scores = score(np.clip(output, 0, 1)[None], pair.hr[None], ids, niqe_model)
            for metric in ids:
                values[name][metric].append(float(scores[metric][0]))
    title = f"{model.path.name}, {len(pairs)} photographs, seed {arguments.seed}, jax {jax.__version__}"
    Console(width=150).print(summary(values, ids, title))
    if arguments.json:
        report = {"images": [pair.name for pair in pairs], "scores": values}
        arguments.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return 0


def upscalers(model: Model, seed: int = 0, tile: int = TILE) -> dict[str, UpscaleFunction]:
    """The upscaling functions of a model: mode → (params, image) → result.

    A recipe may have no mean (one-step distillation), or a sampler that is its mean (one-pass networks).
    """
    settings = settings_for(model, tile=min(tile, settings_for(model).tile), seed=seed)
    return {mode: make_upscaler(model.recipe, replace(settings, mode=mode)).run for mode in modes_of(model.recipe)}


def modes_of(recipe: Recipe) -> tuple[str, ...]:
    """The modes in which a recipe upscales: those of `MODES` that it has, one for a network that needs one pass."""
    if recipe.sample is recipe.mean:
        return MODES[:1]
    return MODES if recipe.mean else MODES[1:]


def summary(values: Mapping[str, Mapping[str, Sequence[float]]], ids: Sequence[str], title: str) -> Table:
    """One row per way to upscale: mean and interval of every metric."""
    table = Table(title=title, title_justify="left")
    table.add_column("")
    for metric in ids:
        table.add_column(f"{metric} {'↑' if METRICS[metric].higher_is_better else '↓'}", justify="right")
    for name, scores in values.items():
        cells = []
        for metric in ids:
            low, high = bootstrap_interval(scores[metric])
            cells.append(f"{np.mean(scores[metric]):.3f} ({low:.2f} .. {high:.2f})")
        table.add_row(name, *cells)
    return table


if __name__ == "__main__":
    sys.exit(main())
