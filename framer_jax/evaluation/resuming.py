"""Scores that earlier evaluations wrote, so that an interrupted one goes on, and shards are joined."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from framer_jax.evaluation.comparison import ScoreFile, check_comparable, read_scores
from framer_jax.evaluation.files import Pixels
from framer_jax.evaluation.pairs import Pair, PairDigests
from framer_jax.evaluation.scoring import Note


def previous_scores(
    paths: Sequence[Path],
    metadata: Mapping[str, Any],
    pairs: Sequence[Pair],
    digests: Sequence[PairDigests],
    ids: Sequence[str],
) -> tuple[dict[str, Pixels], tuple[Note, ...]]:
    """The scores of JSON files that are those of the same image files by the same metrics.

    Args:
      paths: what `framer-jax evaluate --json` wrote, complete or not; the first one that has a score counts.
      metadata: that of this evaluation, from framer_jax.evaluation.provenance.score_metadata.
      pairs: the images and their references.
      digests: of the pairs.
      ids: the metrics.

    Returns:
      metric id → scores [N] float32, NaN where there is none; and what is to be said of images that have scores.

    Raises:
      ValueError: a file is no such file, its scores have other variants, weights or crops, or it has metrics that would
        be lost; the message names them.
    """
    values = {name: np.full(len(digests), np.nan, np.float32) for name in ids}
    notes: set[Note] = set()
    for path in paths:
        of_file, of_images = _scores_of(path, metadata, digests, ids)
        values = {name: np.where(np.isnan(scores), of_file[name], scores) for name, scores in values.items()}
        notes.update(of_images)
    order = {pair.name: index for index, pair in enumerate(pairs)}
    of_pairs = [note for note in notes if note.image in order]
    return values, tuple(sorted(of_pairs, key=lambda note: (order[note.image], note.text)))


def _scores_of(
    path: Path, metadata: Mapping[str, Any], digests: Sequence[PairDigests], ids: Sequence[str]
) -> tuple[dict[str, Pixels], tuple[Note, ...]]:
    """`previous_scores` of one file, with the notes of all of its images."""
    previous = read_scores(path, unfinished=True)
    current = ScoreFile(Path("this evaluation"), metadata, {name: {} for name in ids})
    values = {name: np.full(len(digests), np.nan, np.float32) for name in ids}
    if lost := [name for name in previous.scores if name not in ids]:
        raise ValueError(
            f"{path} also has the scores of {', '.join(lost)}: add {'it' if len(lost) == 1 else 'them'} to --metrics, "
            "or name another --json"
        )
    common = [name for name in ids if name in previous.scores]
    if not common:
        return values, ()
    check_comparable([previous, current])
    content = json.loads(path.read_text(encoding="utf-8"))
    images = content["images"]
    by_digest = {(entry.get("image_sha256"), entry.get("reference_sha256")): entry["image"] for entry in images}
    for index, digest in enumerate(digests):
        name = by_digest.get((digest.image, digest.reference)) if digest.image else None
        for metric in common:
            values[metric][index] = np.nan if name is None else previous.scores[metric].get(name, np.nan)
    return values, tuple(Note(note["image"], note["text"]) for note in content.get("notes", ()))
