"""Drawn parameters as JSON and back: what a data set's manifest holds, enough to make every LR image again."""

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
    """One record's parameters as plain JSON types, without loss.

    Modes and kinds are given by name, kernels as rows of the smallest square that holds them (null for a delta).
    """

    def fields(named: StageParameters | DegradationParameters) -> dict[str, Any]:
        return {name: value(name, entry) for name, entry in named._asdict().items()}

    def value(name: str, entry: Any) -> Any:
        if isinstance(entry, StageParameters):
            return fields(entry)
        if name in _KERNELS:
            return _cropped(entry)
        return _NAMES[name][int(entry)] if name in _NAMES else np.asarray(entry).tolist()

    return fields(parameters)


def from_json(record: Mapping[str, Any]) -> DegradationParameters:
    """The inverse of `to_json`.

    Raises:
      ValueError: entries are missing or unknown; the message names them.
    """
    first, second = (_read(StageParameters, record.get(name, {}), {}) for name in ("first", "second"))
    return _read(DegradationParameters, record, {"first": first, "second": second})


def _read(kind: type, record: Mapping[str, Any], known: Mapping[str, Any]) -> Any:
    wrong = sorted(set(kind._fields) ^ {*record, *known})  # type: ignore[attr-defined]
    if wrong:
        raise ValueError(f"a record of degradation parameters has missing or unknown entries: {', '.join(wrong)}")

    def value(name: str) -> Any:
        if name in known:
            return known[name]
        entry = record[name]
        if name in _KERNELS:
            return kernels.delta() if entry is None else kernels.on_canvas(np.asarray(entry, np.float32))
        if name in _NAMES:
            return np.int32(_NAMES[name].index(entry))
        return np.asarray(entry, np.uint32) if name == "noise_seed" else _DTYPES[name](entry)

    return kind(**{name: value(name) for name in kind._fields})  # type: ignore[attr-defined]


def _cropped(kernel: np.ndarray) -> list[list[float]] | None:
    """Rows of the smallest centred square with all that is not zero; None for a delta."""
    middle = kernel.shape[0] // 2
    rows, columns = np.nonzero(kernel)
    reach = int(max(np.abs(rows - middle).max(), np.abs(columns - middle).max()))
    if reach == 0:
        return None
    part = slice(middle - reach, middle + reach + 1)
    return kernel[part, part].tolist()
