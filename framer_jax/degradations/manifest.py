"""Degradation parameters as JSON and back: a data set's manifest holds enough to reproduce every LR image."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from framer_jax.degradations import kernels
from framer_jax.degradations.draw import NOISE_KINDS, DegradationParameters, StageParameters
from framer_jax.degradations.resize import MODES

_NAMES = {"resize_mode": MODES, "last_resize_mode": MODES, "noise_kind": NOISE_KINDS}
_DTYPES = {
    **dict.fromkeys(("blurs", "noise_gray", "has_second", "low_pass_first", "low_passes"), np.bool_),
    **dict.fromkeys(("scale", "noise_level", "jpeg_quality"), np.float32),
}
_KERNELS = ("kernel", "low_pass")


def to_json(parameters: DegradationParameters) -> dict[str, Any]:
    """The parameters of one record as plain JSON types, lossless.

    Modes and kinds are stored by name, kernels as the rows of their smallest nonzero square (null for a delta).
    """

    def entries(group: StageParameters | DegradationParameters) -> dict[str, Any]:
        return {name: to_plain(name, value) for name, value in group._asdict().items()}

    def to_plain(name: str, value: Any) -> Any:
        if isinstance(value, StageParameters):
            return entries(value)
        if name in _KERNELS:
            return _cropped_rows(value)
        return _NAMES[name][int(value)] if name in _NAMES else np.asarray(value).tolist()

    return entries(parameters)


def from_json(record: Mapping[str, Any]) -> DegradationParameters:
    """The inverse of `to_json`.

    Raises:
      ValueError: missing or unknown entries; the message names them.
    """
    first, second = (_parse(StageParameters, record.get(name, {}), {}) for name in ("first", "second"))
    return _parse(DegradationParameters, record, {"first": first, "second": second})


def _parse(group: Any, record: Mapping[str, Any], stages: Mapping[str, StageParameters]) -> Any:
    """A NamedTuple of type `group` from its JSON record and its stages, which are parsed already."""
    mismatched = sorted(set(group._fields) ^ {*record, *stages})
    if mismatched:
        raise ValueError(f"degradation parameters have missing or unknown entries: {', '.join(mismatched)}")

    def from_plain(name: str) -> Any:
        if name in stages:
            return stages[name]
        value = record[name]
        if name in _KERNELS:
            return kernels.delta() if value is None else kernels.on_canvas(np.asarray(value, np.float32))
        if name in _NAMES:
            return np.int32(_NAMES[name].index(value))
        return np.asarray(value, np.uint32) if name == "noise_seed" else _DTYPES[name](value)

    return group(**{name: from_plain(name) for name in group._fields})


def _cropped_rows(kernel: np.ndarray) -> list[list[float]] | None:
    """Rows of the smallest centered square that holds all nonzero values; None for a delta."""
    center = kernel.shape[0] // 2
    rows, columns = np.nonzero(kernel)
    reach = int(max(np.abs(rows - center).max(), np.abs(columns - center).max()))
    if reach == 0:
        return None
    extent = slice(center - reach, center + reach + 1)
    return kernel[extent, extent].tolist()
