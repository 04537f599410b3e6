"""Parity fixtures: reading them, drawing their weights, and comparing with their tolerances."""

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

TABLE_KEYS = (
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
"""Suffixes of the state-dict keys of tables."""

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
      tolerances: output name → its largest allowed absolute error, or None where it must be equal.
      weights: model name → a flat state dict in PyTorch's names and layout.
      arrays: all other entries of the file, by name.
    """

    family: str
    config: Mapping[str, Any]
    tolerances: Mapping[str, float | None]
    weights: Mapping[str, dict[str, np.ndarray]]
    arrays: Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Options:
    """What a comparison may need besides the fixture.

    Attributes:
      niqe_model: path of the published pristine model of NIQE.
    """

    niqe_model: str | None = None


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


def named_weight(key: str, shape: tuple[int, ...], salt: str = "", gain: float = 1.0) -> np.ndarray:
    """A float32 tensor whose random numbers depend on its name: the weights of the fixtures' reference models."""
    normal = np.random.Generator(np.random.PCG64(zlib.crc32((salt + key).encode()))).standard_normal(
        shape, dtype=np.float32
    )
    normal = np.asarray(normal)
    last = key.rsplit(".", 1)[-1]
    if last == "running_var":
        return 1 + np.float32(0.1) * np.abs(normal)
    if last == "running_mean":
        return np.float32(0.1) * normal
    if key.endswith(TABLE_KEYS):
        return np.float32(0.5) * normal
    if normal.ndim >= 2:
        return normal * np.float32(gain / np.sqrt(float(np.prod(shape[1:]))))
    if last in ("weight", "gamma", "scale"):
        return 1 + np.float32(0.1) * normal
    return np.float32(0.1) * normal


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
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
        meta = json.loads(str(arrays.pop("meta")))
    except (ValueError, KeyError, OSError) as error:
        raise ValueError(f"{path} is not a parity fixture: {error}") from error
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
    tolerances = {
        name: entry.get("atol") for name, entry in meta["float32_vs_float64"].items() if isinstance(entry, dict)
    }
    if INNER_ERROR in meta["float32_vs_float64"]:  # relative to the largest value; ten times as much is allowed
        allowed = 10 * meta["float32_vs_float64"][INNER_ERROR]
        tolerances |= {
            name: allowed * float(np.abs(value).max()) for name, value in arrays.items() if name.startswith(INNER)
        }
    return Case(meta["family"], meta["config"], tolerances, weights, arrays)


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
