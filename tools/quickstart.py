"""The two ends of tools/quickstart.sh: `prepare` makes the degraded held-out photos, `report` measures what came out.

Everything that is printed is measured here; nothing is set.
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
from PIL import Image, ImageDraw
from rich.console import Console
from rich.table import Table

from configs import quickstart
from framer_jax.data.whole_photos import ValidationPair
from framer_jax.evaluation.layers import LayerSimilarity, layer_similarity, plot_similarity
from framer_jax.evaluation.metrics import score
from framer_jax.inference.model import Model, load_model
from framer_jax.inference.resample import upsample_bicubic
from framer_jax.training.logging import to_uint8
from tools.score_model import degraded_pairs, halves, upscalers

METRICS = ("psnr-y", "ssim-y", "niqe-framer")


class Row(NamedTuple):
    """One line of the table: scores of the one-step mean and of the sampled pictures, and of the layers."""

    mean: Mapping[str, float]
    sample: Mapping[str, float] | None
    layers: LayerSimilarity | None
    ratio: float | None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("prepare", "report"))
    parser.add_argument("folder", type=Path)
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    pairs = degraded_pairs(load_model(), None, seed=0, degradation=quickstart.get_config().data.degradation)
    if arguments.what == "prepare":
        prepare(pairs, arguments.folder)
    else:
        report(pairs, arguments.folder)
    return 0


def prepare(pairs: list[ValidationPair], folder: Path) -> None:
    for part in ("hr", "lr"):
        (folder / part).mkdir(exist_ok=True)
    for pair in pairs:
        save(folder / "hr" / f"{pair.name}.png", pair.hr)
        save(folder / "lr" / f"{pair.name}.png", pair.lr)


def save(path: Path, pixels: np.ndarray) -> None:
    Image.fromarray(to_uint8(pixels)).save(path)


def report(pairs: list[ValidationPair], folder: Path) -> None:
    models = {
        "starter": load_model(),
        "+ base steps": load_model(folder / "base"),
        "+ FRAMER steps": load_model(folder / "framer"),
    }
    pictures = {"bicubic": [upsample_bicubic(pair.lr, models["starter"].recipe.scale) for pair in pairs]}
    rows = {"bicubic": Row(scores(pictures["bicubic"], pairs), None, None, None)}
    run = upscalers(models["starter"])
    for name, model in models.items():
        made = {mode: [run[mode](model.params, pair.lr).pixels for pair in pairs] for mode in run}
        pictures[f"{name}, mean"], pictures[f"{name}, sampled"] = made["mean"], made["sample"]
        ratio = last_value(folder / "framer", "framer_ratio") if "FRAMER" in name else None
        rows[name] = Row(scores(made["mean"], pairs), scores(made["sample"], pairs), similarity(model, pairs), ratio)
    Console(width=118).print(table(rows))
    print(verdict(rows["+ base steps"], rows["+ FRAMER steps"]))
    (folder / "table.json").write_text(json.dumps(as_json(rows), indent=1) + "\n", encoding="utf-8")
    comparison(pairs, pictures, folder / "comparison.png")
    plot_similarity(
        {name: row.layers for name, row in rows.items() if row.layers is not None},
        folder / "layers.png",
        "Cosine of each layer's features to the last layer's (held-out photos, ridge probes)",
    )
    print(f"Pictures: {folder / 'comparison.png'}, {folder / 'layers.png'}; numbers: {folder / 'table.json'}")


def scores(pictures: list[np.ndarray], pairs: list[ValidationPair]) -> dict[str, float]:
    """Mean over photos of each metric."""
    found = [score(picture[None], pair.hr[None], METRICS) for picture, pair in zip(pictures, pairs, strict=True)]
    return {name: float(np.mean([entry[name] for entry in found])) for name in METRICS}


def similarity(model: Model, pairs: list[ValidationPair]) -> LayerSimilarity:
    """Layer similarity on crops of the held-out photos: probes fitted on the left halves, measured on the right."""
    fit, measure = halves(pairs, model.recipe.scale, model.recipe.lr_multiple)
    return layer_similarity(model.recipe, model.params, fit, measure, jax.random.key(0))


def last_value(run: Path, name: str) -> float:
    """The last logged value of a scalar."""
    lines = (json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines())
    return [line[name] for line in lines if name in line][-1]


def table(rows: Mapping[str, Row]) -> Table:
    result = Table(title="Held-out photos, x4 (PSNR and SSIM: higher is better; NIQE: lower)", title_justify="left")
    for heading in ("", "PSNR-Y mean", "SSIM-Y mean", "NIQE mean", "PSNR-Y sampled", "SSIM-Y sampled", "NIQE sampled"):
        result.add_column(heading, justify="left" if not heading else "right")
    for heading in ("HF cosine", "FRAMER / main"):
        result.add_column(heading, justify="right")
    for name, row in rows.items():
        sample = ["", "", ""] if row.sample is None else cells(row.sample)
        layers = "" if row.layers is None else f"{row.layers.middle_high:.3f}"
        ratio = "" if row.ratio is None else f"{row.ratio:.2f}"
        result.add_row(name, *cells(row.mean), *sample, layers, ratio)
    return result


def cells(values: Mapping[str, float]) -> list[str]:
    return [f"{values['psnr-y']:.2f}", f"{values['ssim-y']:.4f}", f"{values['niqe-framer']:.2f}"]


def verdict(base: Row, framer: Row) -> str:
    """One sentence that compares FRAMER's row with the base's, from the numbers."""
    assert base.sample is not None and framer.sample is not None and base.layers is not None
    assert framer.layers is not None
    psnr = framer.mean["psnr-y"] - base.mean["psnr-y"]
    niqe = framer.sample["niqe-framer"] - base.sample["niqe-framer"]
    cosine = framer.layers.middle_high - base.layers.middle_high
    fidelity = judged(psnr, least=0.02)
    naturalness = judged(-niqe, least=0.05)
    return (
        f"FRAMER against the base, equal steps, one seed: PSNR-Y of the mean {psnr:+.3f} dB ({fidelity}), NIQE of the "
        f"samples {niqe:+.3f} ({naturalness}), HF cosine of the middle layers {cosine:+.3f}. "
        "One seed and three photos show no effect by themselves."
    )


def judged(gain: float, least: float) -> str:
    """A word for a gain; below `least` it is none."""
    return "no difference" if abs(gain) < least else "better" if gain > 0 else "worse"


def as_json(rows: Mapping[str, Row]) -> dict[str, Any]:
    return {
        name: {
            "mean": row.mean,
            "sample": row.sample,
            "layers": None
            if row.layers is None
            else {"low": row.layers.low.tolist(), "high": row.layers.high.tolist(), "middle": row.layers.middle_high},
            "framer_ratio": row.ratio,
        }
        for name, row in rows.items()
    }


def comparison(pairs: list[ValidationPair], pictures: Mapping[str, list[np.ndarray]], path: Path) -> None:
    """One strip per photo: a detail from the middle, as every row of the table made it, and the original."""
    size, label = 192, 18
    names = [*pictures, "original"]
    sheet = Image.new("RGB", (len(names) * (size + 4) - 4, len(pairs) * (size + label + 4) - 4), "white")
    draw = ImageDraw.Draw(sheet)
    for row, pair in enumerate(pairs):
        top, left = ((length - size) // 2 for length in pair.hr.shape[:2])
        for column, name in enumerate(names):
            picture = pair.hr if name == "original" else pictures[name][row]
            detail = to_uint8(picture[top : top + size, left : left + size])
            place = (column * (size + 4), row * (size + label + 4))
            draw.text((place[0] + 2, place[1] + 3), name, fill="black")
            sheet.paste(Image.fromarray(detail), (place[0], place[1] + label))
    sheet.save(path)


if __name__ == "__main__":
    sys.exit(main())
