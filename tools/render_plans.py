"""The table of a file of tools/compile_for_topology.py, for tools/render_results.py."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tools.compile_for_topology import JSON_NAMES

VARIANT = JSON_NAMES["variant"]

MEBIBYTE = 2**20


def plans_table(content: Mapping[str, Any], options: Mapping[str, str]) -> str:
    """One row per plan; changes are relative to the first plan of the same topology.

    Args:
      content: the file.
      options: none.
    """
    rows = [
        ["chips", "examples", "FRAMER", "arguments", "temporaries", "peak", "XLA FLOPs", "traced FLOPs", "collectives"],
        ["---"] * 9,
    ]
    first: dict[str, Mapping[str, Any]] = {}
    for plan in content["plans"]:
        base = first.setdefault(plan["topology"], plan)
        rows.append(
            [
                f"{plan['chips']} of {plan['topology']}" if plan is base else "",
                str(plan["global_batch"]) if plan is base else "",
                plan[VARIANT],
                _mebibytes(plan["arguments"]),
                _mebibytes(plan["temporaries"]),
                _mebibytes(plan["peak"]) + _change(plan["peak"], base["peak"]),
                _count(plan["flops"]) + _change(plan["flops"], base["flops"]),
                _count(plan["traced_flops"]) + _change(plan["traced_flops"], base["traced_flops"]),
                ", ".join(f"{kind} {n} ({_mebibytes(size)})" for kind, (n, size) in plan["collectives"].items()),
            ]
        )
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _mebibytes(size: int | None) -> str:
    return "does not fit" if size is None else f"{size / MEBIBYTE:.0f}"


def _count(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"


def _change(value: float | None, base: float | None) -> str:
    return "" if not value or not base or value == base else f" ({value / base - 1:+.2%})"
