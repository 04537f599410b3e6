"""How the layers of a model relate to its last one: FRAMER's Figs. 2, 3, 5, 7 and 9, as plots and as numbers.

    python tools/analyse_layers.py [WEIGHTS] [--photos FOLDER] --output FOLDER [--overwrite]

Writes similarity.png, factors.png, densities.png, matrices.png and layers.json. Where the layers differ in shape,
linear probes are fitted on the left halves of the photographs; everything is measured on the right halves.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import jax
import numpy as np

from framer_jax.evaluation.layers import (
    LayerAnalysis,
    layer_analysis,
    plot_densities,
    plot_factors,
    plot_matrices,
    plot_similarity,
)
from framer_jax.inference.model import load_model
from tools.score_model import degraded_pairs, halves

FILES = ("similarity.png", "factors.png", "densities.png", "matrices.png", "layers.json")


def main() -> int:
    parser = argparse.ArgumentParser(description="Analyse the layers of a model.")
    parser.add_argument("weights", nargs="?", help="weights file or training directory; default: the starter")
    parser.add_argument("--photos", help="folder of clean photographs; default: the held-out built-in ones")
    parser.add_argument("--count", type=int, default=16, help="largest number of photographs, all in memory")
    parser.add_argument("--radius", type=float, default=0.2, help="radius of the low band / Nyquist frequency")
    parser.add_argument("--seed", type=int, default=0, help="seed of the degradation, the timesteps and the noise")
    parser.add_argument("--output", type=Path, required=True, help="folder for the plots and the numbers")
    parser.add_argument("--overwrite", action="store_true", help="replace existing files")
    arguments = parser.parse_args()
    existing = [str(arguments.output / name) for name in FILES if (arguments.output / name).exists()]
    if existing and not arguments.overwrite:
        parser.error(f"{', '.join(existing)} exist: choose another folder or add --overwrite")
    model = load_model(arguments.weights)
    recipe = model.recipe
    pairs = degraded_pairs(model, arguments.photos, arguments.seed, arguments.count)
    fit, measure = halves(pairs, recipe.scale, recipe.lr_multiple)
    key = jax.random.key(arguments.seed)
    analysis = layer_analysis(recipe, model.params, fit, measure, key, arguments.radius)
    write(analysis, arguments.output, f"{model.path.name}, {len(pairs)} photographs, radius {arguments.radius}")
    print(f"wrote {', '.join(FILES)} to {arguments.output}")
    return 0


def write(analysis: LayerAnalysis, folder: Path, title: str) -> None:
    """Write the plots and the numbers, `FILES`."""
    folder.mkdir(parents=True, exist_ok=True)
    plot_similarity({"model": analysis.similarity}, folder / "similarity.png", title)
    plot_factors(analysis.factors, folder / "factors.png", title)
    plot_densities(analysis.densities, folder / "densities.png", title)
    plot_matrices(analysis.matrices, folder / "matrices.png", title)
    numbers = {"title": title, **to_json(analysis)}
    (folder / "layers.json").write_text(json.dumps(numbers, indent=1) + "\n", encoding="utf-8")


def to_json(value: Any) -> Any:
    """Nested named tuples of arrays as dictionaries of lists."""
    if isinstance(value, np.ndarray):
        return value.tolist()
    return {name: to_json(part) for name, part in value._asdict().items()}


if __name__ == "__main__":
    sys.exit(main())
