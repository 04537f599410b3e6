"""Files that an evaluation reads and writes, besides images: weights of metrics, and scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from framer_jax.evaluation.learned import OPTION as PYIQA_OPTION
from framer_jax.evaluation.perceptual import DISTS_OPTION, LPIPS_OPTION
from framer_jax.porting.files import check_outputs, check_writable
from framer_jax.porting.shard_files import shard_file, shard_files

WHOLE = (0, 1)
"""The shard that is all of them."""


class Weights(NamedTuple):
    """Files that metrics need: as of `evaluate`."""

    niqe_model: str | Path | None
    lpips: Sequence[str | Path]
    dists: Sequence[str | Path]
    pyiqa: Mapping[str, str | Path]


class Outputs(NamedTuple):
    """Files that are written: as of `evaluate`.

    Attributes:
      json: that of the shard, if there are several.
      earlier: files of `json` and of shards that exist: they are resumed, or replaced.
    """

    csv: str | Path | None
    json: Path | None
    overwrite: bool
    resume: bool
    earlier: tuple[Path, ...]


def output_files(
    csv_path: str | Path | None, json_path: str | Path | None, overwrite: bool, resume: bool, shard: tuple[int, int]
) -> Outputs:
    """The files of the shard, and those that exist; arguments as of framer_jax.evaluation.table.evaluate.

    Raises:
      ValueError: a shard without --json, or with --csv.
    """
    if json_path is None:
        if shard != WHOLE:
            raise ValueError("the scores of a shard are written next to the file of --json: name one")
        return Outputs(csv_path, None, overwrite, resume, ())
    if csv_path is not None and shard != WHOLE:
        raise ValueError("--csv has the scores of all shards: name it in the call that joins them")
    whole = Path(json_path)
    earlier = (*((whole,) if whole.exists() else ()), *shard_files(whole))
    return Outputs(csv_path, shard_file(whole, shard), overwrite, resume, earlier)


def check_output_files(outputs: Outputs, weights: Weights, is_whole: bool) -> None:
    """Refuse files that exist, cannot be written, or would replace an input.

    Args:
      outputs: the files that are written.
      weights: the files that are read.
      is_whole: whether it is no shard.

    Raises:
      FileExistsError, ValueError: the message names the option and the file.
    """
    files = {"--csv": outputs.csv, "--json": outputs.json}
    check_outputs(
        files,
        {
            "the pristine model": [] if weights.niqe_model is None else [weights.niqe_model],
            f"the file of {LPIPS_OPTION}": weights.lpips,
            f"the file of {DISTS_OPTION}": weights.dists,
            f"the file of {PYIQA_OPTION}": list(weights.pyiqa.values()),
        },
    )
    if outputs.resume and outputs.json is None:
        raise ValueError("--resume goes on with the file of --json: name one")
    for option, path in files.items():
        if path is not None:
            check_writable(path, option)
        if path is not None and Path(path).exists() and not (outputs.overwrite or outputs.resume):
            raise FileExistsError(
                f"{path} exists: choose another name or allow overwriting; --resume goes on with a JSON file"
            )
    if outputs.earlier and is_whole and not (outputs.overwrite or outputs.resume):
        raise FileExistsError(f"{outputs.earlier[0]} has the scores of a shard: --resume joins them, or remove them")
