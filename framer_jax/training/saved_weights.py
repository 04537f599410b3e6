"""The exported weights of a run's checkpoints, without its optimiser state: what the run computed with at that step."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from framer_jax.recipes.base import Params
from framer_jax.training import compatibility
from framer_jax.training.checkpoint import read_about
from framer_jax.training.digests import DamagedCheckpointError, damage
from framer_jax.training.state import select_groups


def read_exported(path: Path, exported: Sequence[str]) -> Params:
    """The exported groups of a checkpoint: their moving average if there is one, as weights files have them.

    Args:
      path: folder of the checkpoint, `checkpoints/STEP` of a run.
      exported: `Recipe.exported` of the run.

    Returns:
      NumPy arrays in host memory; other parts of the checkpoint are not read.

    Raises:
      DamagedCheckpointError: its files are not as they were written, or cannot be read.
      ValueError: it is of another layout, or lacks a group.
    """
    about, problem = read_about(path)
    if not problem and about.get("digests"):
        problem = damage(path)
    if problem:
        raise DamagedCheckpointError(f"checkpoint {path} is damaged or incomplete ({problem})")
    compatibility.check_layout(path, about)
    try:
        with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader:
            saved = reader.metadata(path / "state").item_metadata.tree
            part = "ema" if saved["ema"] else "params"
            groups = {part: select_groups(saved[part], exported)}
            state = reader.restore(path / "state", args=_as_numpy(groups))
    except KeyError as error:
        raise ValueError(f"checkpoint {path} lacks the group {error}: it is of another recipe") from error
    except (OSError, TypeError, RuntimeError) as error:
        raise DamagedCheckpointError(f"checkpoint {path} cannot be read ({str(error).splitlines()[0]})") from error
    params: Params = state[part]
    return params


def _as_numpy(groups: Any) -> ocp.args.PyTreeRestore:
    """Orbax's arguments that restore a part of a checkpoint as NumPy arrays, on any number of devices."""
    restore_args = jax.tree.map(lambda leaf: ocp.RestoreArgs(restore_type=np.ndarray), groups)
    return ocp.args.PyTreeRestore(item=groups, restore_args=restore_args, partial_restore=True)
