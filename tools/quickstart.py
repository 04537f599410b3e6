"""First and last step of tools/quickstart.sh: `prepare` degrades the held-out photos, `report` scores the models.

Every printed number is measured in this run.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import jax
import numpy as np
from PIL import Image
from rich.console import Console
from rich.table import Table

from framer_jax.config import shipped
from framer_jax.data.whole_photos import ValidationPair
from framer_jax.evaluation.layer_figures import DepthLine, draw_depth_bands
from framer_jax.evaluation.layers import Bands, LayerSimilarity, layer_similarity
from framer_jax.evaluation.lr_pairs import degraded_pairs, halves, model_degradation
from framer_jax.evaluation.metrics import score
from framer_jax.evaluation.paper_figures import PAGE, write_figure
from framer_jax.evaluation.sheets import comparison_sheet
from framer_jax.images.decode import read_rgb
from framer_jax.inference.model import SHIPPED, Model, load_model
from framer_jax.inference.resample import upsample_bicubic
from framer_jax.training.logging import to_uint8
from tools.score_model import upscalers

METRICS = ("psnr-y", "ssim-y", "niqe-framer")

STANDARD, STARTER, BASE, FRAMER = "standard", "starter", "+ base", "+ FRAMER"


class Row(NamedTuple):
    """One row of the table: a way to upscale.

    Attributes:
      scores: each metric's mean over the photographs.
      layers: layer similarity of the denoiser; None for what has none, and in the row of the samples.
      ratio: the last FRAMER term divided by the main loss; None for training without FRAMER.
    """

    scores: Mapping[str, float]
    layers: LayerSimilarity | None = None
    ratio: float | None = None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("step", choices=("prepare", "report"), help="what to do")
    parser.add_argument("folder", type=Path, help="folder of the quickstart")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    starter = load_model(SHIPPED["starter"])
    if arguments.step == "prepare":
        prepare(starter, arguments.folder)
    else:
        report(starter, read_pairs(arguments.folder), arguments.folder)
    return 0


def prepare(starter: Model, folder: Path) -> None:
    """Degrade the photos, and write them and their LR images."""
    preset = model_degradation(starter, shipped("quickstart").data.degradation)
    for part in ("hr", "lr"):
        (folder / part).mkdir(exist_ok=True)
    for pair in degraded_pairs(None, preset, seed=0, multiple=starter.recipe.scale * starter.recipe.lr_multiple):
        save(folder / "hr" / f"{pair.name}.png", pair.hr)
        save(folder / "lr" / f"{pair.name}.png", pair.lr)


def read_pairs(folder: Path) -> list[ValidationPair]:
    """What `prepare` wrote; both images of a pair have 8 bits from the start."""

    def read(part: str, path: Path) -> np.ndarray:
        return read_rgb(folder / part / path.name) / np.float32(255)

    return [ValidationPair(path.stem, read("hr", path), read("lr", path)) for path in sorted((folder / "lr").iterdir())]


def save(path: Path, pixels: np.ndarray) -> None:
    Image.fromarray(to_uint8(pixels)).save(path)


def report(starter: Model, pairs: list[ValidationPair], folder: Path) -> None:
    """Score all models, print the table and write it with the plots."""
    images = {
        "bicubic": [upsample_bicubic(pair.lr, starter.recipe.scale) for pair in pairs],
        STANDARD: [read_rgb(folder / STANDARD / f"{pair.name}.png") / np.float32(255) for pair in pairs],
    }
    rows = {name: Row(scores(of_photos, pairs)) for name, of_photos in images.items()}
    upscale = upscalers(starter)  # the trained models differ from the starter in their parameters alone
    models = {STARTER: starter, BASE: load_model(folder / "base"), FRAMER: load_model(folder / "framer")}
    for name, model in models.items():
        outputs = {mode: [run(model.params, pair.lr).pixels for pair in pairs] for mode, run in upscale.items()}
        images[f"{name}, mean"], images[f"{name}, sample"] = outputs["mean"], outputs["sample"]
        ratio = last_value(folder / "framer", "framer_ratio") if name == FRAMER else None
        rows[f"{name}, mean"] = Row(scores(outputs["mean"], pairs), similarity(model, pairs), ratio)
        rows[f"{name}, sample"] = Row(scores(outputs["sample"], pairs))
    Console(width=80).print(table(rows))
    print(verdict(rows))
    (folder / "table.json").write_text(json.dumps(as_json(rows), indent=1) + "\n", encoding="utf-8")
    comparison(pairs, images, folder / "comparison.png")
    layers = {name.partition(",")[0]: row.layers for name, row in rows.items() if row.layers is not None}
    lines = [DepthLine(name, "", Bands(*of_model)) for name, of_model in layers.items()]
    write_figure(folder / "layers", PAGE, 2.4, lambda figure: draw_depth_bands(figure, lines))
    print(f"Images: {folder / 'comparison.png'}, {folder / 'layers.png'}; numbers: {folder / 'table.json'}")


def scores(images: list[np.ndarray], pairs: list[ValidationPair]) -> dict[str, float]:
    """Each metric's mean over the photos."""
    per_photo = [score(image[None], pair.hr[None], METRICS) for image, pair in zip(images, pairs, strict=True)]
    return {name: float(np.mean([values[name] for values in per_photo])) for name in METRICS}


def similarity(model: Model, pairs: list[ValidationPair]) -> LayerSimilarity:
    """Layer similarity on crops of the held-out photos; probes are fitted on the left halves, measured on the right."""
    fit, measure = halves(pairs, model.recipe.scale, model.recipe.lr_multiple)
    return layer_similarity(model.recipe, model.params, fit, measure, jax.random.key(0))


def last_value(run: Path, name: str) -> float:
    """The last logged value of a scalar."""
    lines = (json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines())
    return [line[name] for line in lines if name in line][-1]


def table(rows: Mapping[str, Row]) -> Table:
    """The table that is printed."""
    result = Table(title="Held-out photos, x4 (PSNR, SSIM: higher is better; NIQE: lower)", title_justify="left")
    for heading in ("", "PSNR-Y", "SSIM-Y", "NIQE", "HF cosine", "FRAMER/main"):
        result.add_column(heading, justify="right" if heading else "left", no_wrap=True)
    for name, row in rows.items():
        values = (f"{row.scores['psnr-y']:.2f}", f"{row.scores['ssim-y']:.4f}", f"{row.scores['niqe-framer']:.2f}")
        cosine = "" if row.layers is None else f"{row.layers.middle_high:.3f}"
        result.add_row(name, *values, cosine, "" if row.ratio is None else f"{row.ratio:.2f}")
    return result


def verdict(rows: Mapping[str, Row]) -> str:
    """One sentence that compares FRAMER's rows with the base method's."""
    base, framer = rows[f"{BASE}, mean"], rows[f"{FRAMER}, mean"]
    assert base.layers is not None and framer.layers is not None
    psnr = framer.scores["psnr-y"] - base.scores["psnr-y"]
    niqe = rows[f"{FRAMER}, sample"].scores["niqe-framer"] - rows[f"{BASE}, sample"].scores["niqe-framer"]
    cosine = framer.layers.middle_high - base.layers.middle_high
    fidelity = assess(psnr, threshold=0.02)
    naturalness = assess(-niqe, threshold=0.05)
    return (
        f"FRAMER against the base, equal steps, one seed: PSNR-Y of the mean {psnr:+.3f} dB ({fidelity}), NIQE of the "
        f"samples {niqe:+.3f} ({naturalness}), HF cosine of the middle layers {cosine:+.3f}. "
        "One seed and three photos show no effect by themselves."
    )


def assess(gain: float, threshold: float) -> str:
    """'better' or 'worse', or 'no difference' where the gain is below the threshold."""
    return "no difference" if abs(gain) < threshold else "better" if gain > 0 else "worse"


def as_json(rows: Mapping[str, Row]) -> dict[str, Any]:
    """The rows as JSON types."""
    return {
        name: {
            **row.scores,
            "layers": None
            if row.layers is None
            else {"low": row.layers.low.tolist(), "high": row.layers.high.tolist(), "middle": row.layers.middle_high},
            "framer_ratio": row.ratio,
        }
        for name, row in rows.items()
    }


def comparison(pairs: list[ValidationPair], images: Mapping[str, list[np.ndarray]], path: Path) -> None:
    """Write one image with a row per photo: its center crop from every way to upscale, and the original."""
    rows = [
        {**{name: of_photos[row] for name, of_photos in images.items()}, "original": pair.hr}
        for row, pair in enumerate(pairs)
    ]
    comparison_sheet(rows, size=192).save(path)


if __name__ == "__main__":
    sys.exit(main())
