"""Parity fixtures: reading them, drawing their weights, comparing with their tolerances."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

TABLES = (
    "relative_position_bias_table",
    "relative_attention_bias.weight",
    "pos_embed",
    "cls_token",
    "mask_token",
    "register_tokens",
    "position_embedding.weight",
    "token_embedding.weight",
    "embed_tokens.weight",
    "shared.weight",
    "class_embedding.weight",
    "quantize.embedding.weight",
    "codebook",
)
"""Endings of the state-dict keys that hold tables."""


INNER_ERROR = "hid (worst, relative to max)"
"""Where a fixture says how exact its outputs of inner blocks are."""

INNER = ("hid/", "hidsub/")
"""Outputs of inner blocks: whole, and every s-th number of large ones."""


@dataclass(frozen=True)
class Case:
    """One fixture file.

    Attributes:
      family: what kind of case it is.
      config: constructor arguments and call parameters.
      tolerances: output name to its largest allowed absolute error, or None where it must be equal.
      weights: model name to a flat state dict in PyTorch's names and layout.
      arrays: everything else, by its name in the file.
    """

    family: str
    config: Mapping[str, Any]
    tolerances: Mapping[str, float | None]
    weights: Mapping[str, dict[str, np.ndarray]]
    arrays: Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Options:
    """What a family may need besides its file."""

    niqe_model: str | None = None


Outputs = Iterator[tuple[str, Any]]
"""Names of outputs and our values of them, in the layout of the fixtures."""


def channels_last(x: np.ndarray) -> jax.Array:
    """[B, C, H, W] → [B, H, W, C]."""
    return jnp.asarray(x.transpose(0, 2, 3, 1))


def channels_first(x: Any) -> np.ndarray:
    """[B, H, W, C] → [B, C, H, W]."""
    return np.asarray(x).transpose(0, 3, 1, 2)


@dataclass(frozen=True)
class Comparison:
    """One output against its reference."""

    name: str
    absolute: float
    relative: float
    tolerance: float | None

    @property
    def passed(self) -> bool:
        """Whether the error is within the tolerance; NaN never is."""
        return self.absolute <= (self.tolerance or 0.0)


def named_weight(key: str, shape: tuple[int, ...], salt: str = "", gain: float = 1.0) -> np.ndarray:
    """A float32 tensor drawn from its name: the rule by which the fixtures' reference models got their weights."""
    normal = np.random.Generator(np.random.PCG64(zlib.crc32((salt + key).encode()))).standard_normal(
        shape, dtype=np.float32
    )
    normal = np.asarray(normal)
    last = key.rsplit(".", 1)[-1]
    if last == "running_var":
        return 1 + np.float32(0.1) * np.abs(normal)
    if last == "running_mean":
        return np.float32(0.1) * normal
    if key.endswith(TABLES):
        return np.float32(0.5) * normal
    if normal.ndim >= 2:
        return normal * np.float32(gain / np.sqrt(float(np.prod(shape[1:]))))
    if last in ("weight", "gamma", "scale"):
        return 1 + np.float32(0.1) * normal
    return np.float32(0.1) * normal


def load_case(path: str | Path) -> Case:
    """Read a fixture and draw its weights.

    Raises:
      FileNotFoundError: no such file.
      ValueError: not a parity fixture.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no fixture {str(path)!r}")
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
        meta = json.loads(str(arrays.pop("meta")))
    except (ValueError, KeyError, OSError) as error:
        raise ValueError(f"{path} is not a parity fixture: {error}") from error
    weights = {}
    for name in [name for name in arrays if name.startswith("params/")]:
        model = name.removeprefix("params/")
        facts = meta["models"][model]
        salt, gain = meta["salt"] + facts.get("salt", ""), facts.get("weight_gain", 1.0)
        rows = (str(line).split("\t") for line in arrays.pop(name))
        weights[model] = {
            key: named_weight(key, tuple(int(side) for side in shape.split(",") if side), salt, gain)
            for key, shape, _ in rows
        }
    tolerances = {
        name: entry.get("atol") for name, entry in meta["float32_vs_float64"].items() if isinstance(entry, dict)
    }
    if INNER_ERROR in meta["float32_vs_float64"]:  # relative to the largest value; ten times it is allowed
        allowed = 10 * meta["float32_vs_float64"][INNER_ERROR]
        tolerances |= {
            name: allowed * float(np.abs(value).max()) for name, value in arrays.items() if name.startswith(INNER)
        }
    return Case(meta["family"], meta["config"], tolerances, weights, arrays)


BLOCK, TIES = 16, 2
"""In JPEG outputs so many blocks of so many pixels a side may differ: a coefficient half-way between two levels may be
rounded either way, says the fixtures' README."""


def compare(case: Case, name: str, mine: Any) -> Comparison:
    """Largest errors of one output; a wrong shape is an infinite one. Of 'hidsub/…' mine is the whole.

    JPEG blocks at a tie are left out.
    """
    reference = np.asarray(case.arrays[name], np.float64)
    value = np.asarray(mine, np.float64)
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
    """The largest errors of the blocks of [B, C, H, W], without those of the `TIES` worst blocks."""
    height, width = error.shape[2:]
    padded = np.pad(error.max(axis=1), ((0, 0), (0, -height % BLOCK), (0, -width % BLOCK)))
    blocks = padded.reshape(len(error), padded.shape[1] // BLOCK, BLOCK, padded.shape[2] // BLOCK, BLOCK)
    return np.sort(blocks.max(axis=(2, 4)), axis=None)[:-TIES]
