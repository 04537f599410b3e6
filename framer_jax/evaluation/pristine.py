"""Fitting NIQE's pristine model to clean photographs (section II-D of the NIQE paper)."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console

from framer_jax.evaluation.files import image_files, read_pixels
from framer_jax.evaluation.niqe import BLOCK, Floats, gaussian_window, luma_levels, niqe_features
from framer_jax.porting.files import atomic_write, check_outputs
from framer_jax.progress import track
from framer_jax.version import __version__


class PristineFit(NamedTuple):
    """A fitted model: mean [36], covariance [36, 36], and the number of blocks it was fitted to."""

    mean: Floats
    covariance: Floats
    blocks: int


def fit_gaussian(photos: Iterable[tuple[Floats, Floats]], threshold: float = 0.75) -> PristineFit:
    """Mean and covariance of the sharp blocks of clean photos.

    Args:
      photos: features [blocks, 36] and sharpness [blocks] of each photo, from `niqe_features`.
      threshold: a block is used if its sharpness exceeds this fraction of the largest in its photo.

    Raises:
      ValueError: fewer than 37 blocks, from which no full covariance can be estimated, or a threshold not in [0, 1).
    """
    if not 0 <= threshold < 1:
        raise ValueError(f"threshold is {threshold}: it must lie in [0, 1)")
    sharp = [features[sharpness > threshold * sharpness.max()] for features, sharpness in photos]
    blocks = np.concatenate([np.empty((0, 36)), *sharp])
    blocks = blocks[~np.isnan(blocks).any(axis=1)]
    if len(blocks) <= 36:
        raise ValueError(f"a NIQE model needs more than 36 sharp blocks; these photos give {len(blocks)}: add photos")
    return PristineFit(blocks.mean(axis=0), np.cov(blocks, rowvar=False), len(blocks))


def _features(files: Iterable[Path]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(features, sharpness) of the blocks of each photograph that has a complete one."""
    for path in files:
        plane = luma_levels(read_pixels(path)[None], "studio")
        if min(plane.shape[1:]) >= BLOCK:
            features, sharpness = niqe_features(plane)
            yield features[0], sharpness[0]


def fit_niqe(
    folder: str | Path,
    out: str | Path,
    *,
    threshold: float = 0.75,
    source: str | None = None,
    overwrite: bool = False,
    console: Console | None = None,
) -> dict[str, Any]:
    """Fit a pristine model to all clean photos of a folder and write it in BasicSR's .npz layout.

    Photos without a complete 96x96 block are counted and skipped.

    Args:
      folder: folder of photos, searched recursively.
      out: the .npz file to write; its `metadata` is a JSON string (source, counts, settings, version).
      threshold: see `fit_gaussian`.
      source: description of the photos for the metadata; by default the folder's name.
      overwrite: replace an existing file.
      console: where progress is reported; None for nowhere.

    Returns:
      the metadata.

    Raises:
      FileExistsError: `out` exists and `overwrite` is False.
      FileNotFoundError: no such folder.
      ValueError: no images, a damaged image, too few blocks, or an `out` that does not end in .npz, is a folder or a
        photograph.
    """
    folder, out = Path(folder), Path(out)
    if out.suffix != ".npz":
        raise ValueError(f"a NIQE model is an .npz file; got the name {out}")
    if out.exists() and not overwrite:
        raise FileExistsError(f"{out} exists: choose another name or allow overwriting")
    files, left_out = image_files(folder)
    check_outputs({"the NIQE model": out}, {"the photograph": files})
    photos = list(_features(track(files, "NIQE features", console)))
    fit = fit_gaussian(photos, threshold)
    metadata = {
        "source": source or folder.resolve().name,
        "photos": len(photos),
        "photos_too_small": len(files) - len(photos),
        "photos_left_out": [str(item) for item in left_out],
        "blocks": fit.blocks,
        "block_size": BLOCK,
        "sharpness_threshold": threshold,
        "luma": "BT.601 studio range, rounded",
        "framer_jax": __version__,
    }
    with atomic_write(out) as temporary, temporary.open("wb") as file:
        np.savez(
            file,
            mu_pris_param=fit.mean[None],
            cov_pris_param=fit.covariance,
            gaussian_window=gaussian_window(),
            metadata=np.array(json.dumps(metadata)),
        )
    return metadata
