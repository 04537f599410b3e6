r"""Compare ways to train over several seeds, as the tables of docs/results do.

    python tools/compare_runs.py --photos BSD100/HR --limit 30 \
        base=runs/base_0,runs/base_1,runs/base_2 framer=runs/framer_0,runs/framer_1,runs/framer_2 [--markdown OUT.md]

The runs of a group differ in their seed only. Photographs are degraded by the runs' training degradation, with one draw
that all runs share (--seed); figures are means over photographs, then mean ± standard deviation over runs. The metric
`detail-…` is the mean magnitude of an image's wavelet details relative to the photograph's. Rows: bicubic upsampling,
and for every group the one-step mean and the sampler, as far as the recipe has them. For runs of SinSR, --teachers adds
the PSNR between the student's output and the end of the teacher's trajectory from the same noise, next to the PSNR of
the teacher's own one step, from which the student started.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console
from rich.progress import track

from framer_jax.checkpoints.open import READER
from framer_jax.data.settings import degradation_preset
from framer_jax.data.sources import folder_source
from framer_jax.data.whole_photos import ValidationPair, validation_pairs
from framer_jax.degradations.presets import GEOMETRIES
from framer_jax.diffusion.noise import noise_field
from framer_jax.evaluation.metrics import score
from framer_jax.evaluation.niqe import NiqeModel, load_niqe_model
from framer_jax.evaluation.validation import center_crops
from framer_jax.frequency.wavelets import haar_decompose
from framer_jax.inference.model import Model, load_model
from framer_jax.inference.resample import upsample_bicubic
from framer_jax.porting.files import atomic_write
from framer_jax.recipes.components.latent_space import LatentTask
from framer_jax.recipes.components.spaces import build_space
from framer_jax.recipes.sinsr.recipe import TEACHER, TRAJECTORY_ENTRIES
from tools.render_runs import WITHOUT_RUNS, runs_json, runs_table
from tools.score_model import upscalers

METRICS = ("psnr-y", "ssim-y", "niqe-framer")

TILE = 128
"""LR pixels; a photograph of BSD100 fits into one tile."""

Scores = dict[str, float]
"""Metric → its mean over photographs."""

BEFORE, AFTER = "before, to teacher", "to teacher"
"""Metrics of a SinSR run: distances to the teacher's trajectory before and after the distillation."""


def main() -> int:
    parser = argparse.ArgumentParser(description="Compare ways to train over several seeds.")
    parser.add_argument("groups", nargs="+", metavar="NAME=RUN,RUN,…", help="weights files or training directories")
    parser.add_argument("--photos", required=True, help="folder of clean photographs")
    parser.add_argument("--limit", type=int, help="largest number of photographs")
    parser.add_argument("--seed", type=int, default=0, help="seed of the degradation and of the samplers' noise")
    parser.add_argument("--geometry", choices=GEOMETRIES, help="of the degradation; default: that of the training")
    parser.add_argument("--niqe-model", help="published pristine model: adds the metric niqe")
    parser.add_argument("--teachers", metavar="RUN,RUN,…", help="teachers of the SinSR runs, in their order")
    parser.add_argument("--markdown", type=Path, help="also write the table to this file")
    parser.add_argument(
        "--json", type=Path, help="also write the figures of every run to this file, for tools/render_results.py"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace existing files")
    arguments = parser.parse_args()
    for path in (arguments.markdown, arguments.json):
        if path and path.exists() and not arguments.overwrite:
            parser.error(f"{path} exists: choose another name or add --overwrite")
    groups = parse_groups(arguments.groups)
    teachers = arguments.teachers.split(",") if arguments.teachers else []
    niqe_model = load_niqe_model(arguments.niqe_model) if arguments.niqe_model else None
    ids = (*METRICS, *(("niqe",) if niqe_model else ()))
    pairs, degradation = shared_pairs(groups, arguments.photos, arguments.seed, arguments.limit, arguments.geometry)
    rows: dict[str, list[Scores]] = {}
    scale = load_model(next(iter(groups.values()))[0], purpose="description").recipe.scale
    images = (upsample_bicubic(pair.lr, scale) for pair in pairs)
    rows[WITHOUT_RUNS] = [mean_scores(images, pairs, ids, niqe_model)]
    for name, runs in groups.items():
        for index, run in enumerate(track(runs, f"scoring {name}", console=Console(stderr=True))):
            model = load_model(run)
            for mode, upscale in upscalers(model, arguments.seed, TILE).items():
                images = (upscale(model.params, pair.lr).pixels for pair in pairs)
                scores = mean_scores(images, pairs, ids, niqe_model)
                if model.recipe.precompute and index < len(teachers):
                    scores |= distance_to_teacher(model, load_model(teachers[index]), pairs)
                rows.setdefault(f"{name}, {mode}", []).append(scores)
    content = runs_json(rows)
    title = f"{len(pairs)} photographs of {Path(arguments.photos).parent.name}, degraded by `{degradation}`"
    text = f"{title}\n\n{runs_table(content, {})}"
    print(text)
    for path, output in (
        (arguments.markdown, text),
        (arguments.json, json.dumps({"title": title, **content}, indent=1) + "\n"),
    ):
        if path:
            with atomic_write(path) as temporary:
                temporary.write_text(output, encoding="utf-8")
    return 0


def parse_groups(words: Sequence[str]) -> dict[str, list[str]]:
    """Parse words such as 'NAME=RUN,RUN': name → runs.

    Raises:
      SystemExit: a word of another form, or a repeated name.
    """
    groups: dict[str, list[str]] = {}
    for word in words:
        name, separator, runs = word.partition("=")
        if not separator or not name or not runs or name in groups:
            sys.exit(f"cannot read the group {word!r}: write NAME=RUN,RUN,…, each name once")
        groups[name] = runs.split(",")
    return groups


def shared_pairs(
    groups: Mapping[str, Sequence[str]], photos: str, seed: int, limit: int | None, geometry: str | None = None
) -> tuple[list[ValidationPair], str]:
    """Photographs with their LR images, and the name and geometry of the degradation.

    Args:
      groups: name → runs.
      photos: folder of HR photographs.
      seed: seed of the degradation.
      limit: largest number of photographs; None for all.
      geometry: geometry of the degradation; None for that of the training.

    Raises:
      SystemExit: the runs were trained with different degradations, or with different geometries and none is given.
    """
    models = [load_model(run, purpose="description") for runs in groups.values() for run in runs]
    scale = models[0].recipe.scale
    presets = {degradation_preset(model.metadata["config"]["data"], scale) for model in models}
    if geometry:
        presets = {replace(preset, geometry=geometry) for preset in presets}
    if len(presets) > 1:
        names = sorted({f"{preset.name}, {preset.geometry}" for preset in presets})
        sys.exit(
            f"the runs were trained with different degradations ({'; '.join(names)}): "
            "compare runs of one degradation, or give --geometry where only this differs"
        )
    multiple = scale * max(model.recipe.lr_multiple for model in models)
    (preset,) = presets
    pairs = validation_pairs(folder_source(photos), preset, seed, multiple, limit)
    return pairs, f"{preset.name}, {preset.geometry} geometry"


def mean_scores(
    images: Iterable[np.ndarray], pairs: Sequence[ValidationPair], ids: Sequence[str], niqe_model: NiqeModel | None
) -> Scores:
    """Each metric's mean over photographs."""
    per_photo = []
    for image, pair in zip(images, pairs, strict=True):
        clipped = np.clip(image, 0, 1)
        scores = score(clipped[None], pair.hr[None], ids, niqe_model)
        per_photo.append({name: float(scores[name][0]) for name in ids} | relative_detail(clipped, pair.hr))
    return {name: float(np.mean([scores[name] for scores in per_photo])) for name in per_photo[0]}


def relative_detail(image: np.ndarray, hr: np.ndarray) -> Scores:
    """Mean magnitude of an image's Haar details, relative to the photograph's: 1 means equally much detail.

    'detail-middle' is measured in level 2 of the wavelet transform, 'detail-high' in level 1.
    """
    height, width = (side // 4 * 4 for side in hr.shape[:2])

    def magnitudes(image: np.ndarray) -> list[float]:
        bands = haar_decompose(jnp.asarray(image[None, :height, :width], jnp.float32), 2)
        return [float(np.mean([np.abs(band).mean() for band in level])) for level in bands.details]

    return {
        f"detail-{name}": magnitude / reference
        for name, magnitude, reference in zip(("middle", "high"), magnitudes(image), magnitudes(hr), strict=True)
    }


def distance_to_teacher(student: Model, teacher: Model, pairs: Sequence[ValidationPair]) -> Scores:
    """PSNR on center crops between one network call and the end of the teacher's trajectory from the same noise."""
    recipe, config = student.recipe, student.metadata["config"]["recipe"]
    space = build_space({**config, "dtype": "float32"}, "inference", READER)
    task = LatentTask(space, recipe.scale, config["resshift"]["residual"])
    frozen = {**recipe.frozen, TEACHER: teacher.params}
    _, crops = center_crops(pairs, recipe.scale, recipe.lr_multiple)
    lr = jnp.asarray(crops)
    noise = noise_field(jax.random.key(0), lr.shape[0])
    assert recipe.precompute is not None
    end = jax.jit(recipe.precompute)(frozen, {"lr": lr}, noise)[TRAJECTORY_ENTRIES[1]]
    reference = task.decode(frozen, end, task.encode_lr(frozen, lr)[0])
    sample = jax.jit(recipe.sample)
    before, after = (sample(params, recipe.frozen, lr, noise) for params in (teacher.params, student.params))
    return {BEFORE: _psnr(before, reference), AFTER: _psnr(after, reference)}


def _psnr(image: jax.Array, reference: jax.Array) -> float:
    """PSNR over all channels in dB, the mean over a batch."""
    error = np.square(np.clip(image, 0, 1) - np.clip(reference, 0, 1)).mean(axis=(1, 2, 3))
    return float(np.mean(-10 * np.log10(error)))


if __name__ == "__main__":
    sys.exit(main())
