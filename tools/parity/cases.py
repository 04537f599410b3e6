"""Parity fixtures: reading them, drawing their weights, and comparing with their tolerances."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tools.parity.drawn_weights import named_weight

INNER_ERROR = "hid (worst, relative to max)"
"""The entry of a fixture with the error of its outputs of inner blocks."""

INNER = ("hid/", "hidsub/")
"""Prefixes of the outputs of inner blocks: all numbers, or every s-th number of large outputs."""


@dataclass(frozen=True)
class Case:
    """One fixture file.

    Attributes:
      family: name of its comparison, see tools.parity.families.FAMILIES.
      config: constructor arguments and call parameters.
      notes: what the file says on what was called how.
      tolerances: output name → its largest allowed absolute error, or None where it must be equal.
      weights: model name → a flat state dict in PyTorch's names and layout.
      arrays: all other entries of the file, by name.
      real_weights: name → file and SHA-256 of trained weights that the case needs; see tools.parity.real_weights.
    """

    family: str
    config: Mapping[str, Any]
    notes: str
    tolerances: Mapping[str, float | None]
    weights: Mapping[str, dict[str, np.ndarray]]
    arrays: Mapping[str, np.ndarray]
    real_weights: Mapping[str, Mapping[str, str]] = field(default_factory=dict)


@dataclass(frozen=True)
class Options:
    """What a comparison may need besides the fixture.

    Attributes:
      niqe_model: path of the published pristine model of NIQE.
      weights: folders with real trained weights.
    """

    niqe_model: str | None = None
    weights: tuple[str, ...] = ()


Outputs = Iterator[tuple[str, Any]]
"""Pairs of an output's name and framer_jax's value, in the layout of the fixtures."""


def channels_last(x: np.ndarray) -> jax.Array:
    """[B, C, H, W] → [B, H, W, C]."""
    return jnp.asarray(x.transpose(0, 2, 3, 1))


def channels_first(x: Any) -> np.ndarray:
    """[B, H, W, C] → [B, C, H, W]."""
    return np.asarray(x).transpose(0, 3, 1, 2)


@dataclass(frozen=True)
class Comparison:
    """The errors of one output.

    Attributes:
      name: name of the output.
      absolute: largest absolute error.
      relative: that error, relative to the largest absolute value of the reference.
      tolerance: largest allowed absolute error; None: the output must be equal.
    """

    name: str
    absolute: float
    relative: float
    tolerance: float | None

    @property
    def passed(self) -> bool:
        """Whether the error is within the tolerance; NaN never is."""
        return self.absolute <= (self.tolerance or 0.0)


def load_case(path: str | Path) -> Case:
    """Read a fixture and draw its weights.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: the file is not a parity fixture.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such fixture")
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
        meta = json.loads(str(arrays.pop("meta")))
        weights = _drawn_weights(meta, arrays)
        tolerances = _tolerances(meta["float32_vs_float64"], arrays)
        real_weights = {name: dict(entry) for name, entry in meta.get("weights", {}).items()}
        return Case(
            meta["family"], meta["config"], str(meta.get("notes", "")), tolerances, weights, arrays, real_weights
        )
    except (ValueError, KeyError, OSError, TypeError, AttributeError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} is not a parity fixture: {type(error).__name__}: {error}") from error


def _drawn_weights(meta: Mapping[str, Any], arrays: dict[str, np.ndarray]) -> dict[str, dict[str, np.ndarray]]:
    """The weights of every model of a file, whose lists of tensors are removed from `arrays`."""
    weights = {}
    for name in [name for name in arrays if name.startswith("params/")]:
        model = name.removeprefix("params/")
        options = meta["models"][model]
        salt, gain = meta["salt"] + options.get("salt", ""), options.get("weight_gain", 1.0)
        rows = (str(line).split("\t") for line in arrays.pop(name))
        weights[model] = {
            key: named_weight(key, tuple(int(side) for side in shape.split(",") if side), salt, gain)
            for key, shape, _ in rows
        }
    return weights


def _tolerances(errors: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> dict[str, float | None]:
    """Output → its largest allowed absolute error; None: it must be equal."""
    tolerances = {name: entry.get("atol") for name, entry in errors.items() if isinstance(entry, dict)}
    if INNER_ERROR in errors:  # relative to the largest value; ten times as much is allowed
        allowed = 10 * errors[INNER_ERROR]
        tolerances |= {
            name: allowed * float(np.abs(value).max()) for name, value in arrays.items() if name.startswith(INNER)
        }
    return tolerances


BLOCK, TIES = 16, 2
"""Side of a JPEG block in pixels, and the number of blocks that may differ: a coefficient half-way between two levels
may be rounded either way (the fixtures' README)."""


def compare(case: Case, name: str, output: Any) -> Comparison:
    """The largest errors of one output; those of a wrong shape are infinite.

    Args:
      case: the fixture.
      name: name of the output; ties of JPEG blocks are left out.
      output: framer_jax's value; for 'hidsub/…' all numbers.
    """
    reference = np.asarray(case.arrays[name], np.float64)
    value = np.asarray(output, np.float64)
    if name.startswith("hidsub/") and value.shape == tuple(case.arrays[name.replace("hidsub/", "hidshape/")]):
        value = value.reshape(-1)[:: max(1, value.size // 1024)]
    tolerance = case.tolerances.get(name)
    if value.shape != reference.shape:
        return Comparison(name, float("inf"), float("inf"), tolerance)
    error = np.abs(value - reference)
    absolute = float((_without_ties(error) if name.startswith("out/jpeg/") else error).max(initial=0.0))
    largest = float(np.abs(reference).max(initial=0.0))
    return Comparison(name, absolute, absolute / largest if largest else absolute, tolerance)


def _without_ties(error: np.ndarray) -> np.ndarray:
    """The largest error of every block of [B, C, H, W], without the `TIES` largest."""
    height, width = error.shape[2:]
    padded = np.pad(error.max(axis=1), ((0, 0), (0, -height % BLOCK), (0, -width % BLOCK)))
    blocks = padded.reshape(len(error), padded.shape[1] // BLOCK, BLOCK, padded.shape[2] // BLOCK, BLOCK)
    return np.sort(blocks.max(axis=(2, 4)), axis=None)[:-TIES]
