"""The table of tools/compare_runs.py, from the scores of every run or from the file that it wrote."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

WITHOUT_RUNS = "bicubic"
"""The row of no run: bicubic upsampling."""


def runs_json(rows: Mapping[str, Sequence[Mapping[str, float]]]) -> dict[str, Any]:
    """What the JSON file holds.

    Args:
      rows: name of the row → scores of each run, metric → mean over photographs.

    Returns:
      `rows`: name → `runs`, their number; `scores`, as given; `means` and `deviations`, metric → mean over the runs
      that have it and their standard deviation, None for one run.
    """
    return {"rows": {name: _row(scores) for name, scores in rows.items()}}


def _row(scores: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    values = {
        metric: [of_run[metric] for of_run in scores if metric in of_run]
        for metric in dict.fromkeys(metric for of_run in scores for metric in of_run)
    }
    return {
        "runs": len(scores),
        "means": {metric: float(np.mean(of_metric)) for metric, of_metric in values.items()},
        "deviations": {
            metric: float(np.std(of_metric, ddof=1)) if len(of_metric) > 1 else None
            for metric, of_metric in values.items()
        },
        "scores": [dict(of_run) for of_run in scores],
    }


def runs_table(content: Mapping[str, Any], options: Mapping[str, str]) -> str:
    """A Markdown table with one row per way to upscale and one column per metric: mean ± standard deviation over runs.

    Args:
      content: as of `runs_json`; `scores` are not read.
      options: none.
    """
    rows = content["rows"]
    metrics = list(dict.fromkeys(metric for row in rows.values() for metric in row["means"]))
    lines = ["| | runs | " + " | ".join(metrics) + " |", "|---|" + "---|" * (len(metrics) + 1)]
    for name, row in rows.items():
        cells = [_cell(row, metric) for metric in metrics]
        lines.append(f"| {name} | {'' if name == WITHOUT_RUNS else row['runs']} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _cell(row: Mapping[str, Any], metric: str) -> str:
    if metric not in row["means"]:
        return ""
    deviation = row["deviations"].get(metric)
    return f"{row['means'][metric]:.3f}" + (f" ± {deviation:.3f}" if deviation is not None else "")
