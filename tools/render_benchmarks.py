"""Tables of docs/benchmarks.md from the file of tools/benchmark.py; tools/render_results.py writes the page."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

PEERS = {
    "eager": "PyTorch, eager",
    "compile": "`torch.compile`",
    "onnxruntime": "ONNX Runtime",
    "openvino": "OpenVINO",
    "kornia": "kornia, `torch.compile`",
    "albumentationsx": "AlbumentationsX",
}
"""Program → heading of its column."""

FEWEST = 5
"""Calls from which quartiles are shown, instead of the range."""


def peers_table(content: Mapping[str, Any], options: Mapping[str, str]) -> str:
    """Times of framer_jax, and those of its peers relative to them.

    Args:
      content: the file.
      options: `cases`, names separated by commas.
    """
    cases = _cases(content, options)
    peers = [name for name in PEERS if any(name in case["programs"] for case in cases)]
    headings = ["", "framer_jax, ms", *(PEERS[peer] for peer in peers), "compilation, s", "temporaries, MiB"]
    rows = []
    for case in cases:
        ours = case["programs"]["framer_jax"]
        ratios = [_ratio(case, peer, "framer_jax") for peer in peers]
        time = _milliseconds(ours, case.get("statistic", "median"))
        rows.append([case["what"], time, *ratios, *_compilation(ours)])
    return _table(headings, rows)


def steps_table(content: Mapping[str, Any], options: Mapping[str, str]) -> str:
    """Training steps with FRAMER (`paper`) relative to those without it (`none`); options as of `peers_table`."""
    headings = ["", "without, ms", "images/s", "with: time", "with: temporaries", "compilation without, with, s"]
    rows = []
    for case in _cases(content, options):
        none, paper = (case["programs"][name] for name in ("none", "paper"))
        rows.append(
            [
                case["what"],
                _milliseconds(none),
                f"{case['images'] / none['median_seconds']:.1f}",
                _ratio(case, "paper", "none"),
                f"{paper['temporaries'] / max(1, none['temporaries']):.2f}×",
                f"{none['first_seconds']:.1f}, {paper['first_seconds']:.1f}",
            ]
        )
    return _table(headings, rows)


def shares_table(content: Mapping[str, Any], options: Mapping[str, str]) -> str:
    """What reading and degrading photographs takes of a run's steps; options as of `peers_table`."""
    rows = [
        [
            case["what"],
            *case["notes"],
            f"{case['programs']['steps']['median_seconds'] * 1e3:.0f}",
            *(f"{case['shares'][name]:.1%}" for name in ("data", "degradation")),
        ]
        for case in _cases(content, options)
    ]
    return _table(["", "what", "ms per step", "waiting for data", "degradation"], rows)


def _cases(content: Mapping[str, Any], options: Mapping[str, str]) -> list[Mapping[str, Any]]:
    return [content["cases"][name] for name in options["cases"].split(",")]


def _milliseconds(program: Mapping[str, Any], statistic: str = "median") -> str:
    """Median or mean, with the quartiles; of fewer than 5 calls with the range."""
    seconds = np.asarray(program["seconds"]) * 1e3
    low, high = np.quantile(seconds, (0.25, 0.75)) if len(seconds) >= FEWEST else (seconds.min(), seconds.max())
    middle = seconds.mean() if statistic == "mean" else np.median(seconds)
    return f"{middle:.0f} ({low:.0f} to {high:.0f})"


def _ratio(case: Mapping[str, Any], program: str, reference: str) -> str:
    """The median over the rounds of a program's time relative to another's in the same round; or of their means."""
    if program not in case["programs"]:
        return "–"
    times = [np.asarray(case["programs"][name]["seconds"]) for name in (program, reference)]
    if case.get("statistic") == "mean":
        return f"{times[0].mean() / times[1].mean():.2f}×"
    return f"{np.median(np.divide(*times)):.2f}×"


def _compilation(program: Mapping[str, Any]) -> Iterator[str]:
    yield f"{program['first_seconds']:.1f}"
    yield f"{program['temporaries'] / 2**20:.0f}"


def _table(headings: list[str], rows: list[list[str]]) -> str:
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
