"""The collectives of a compiled program, read from its HLO text."""

from __future__ import annotations

import math
import re

COLLECTIVES = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")

BITS = re.compile(r"[a-z]+(\d+)")
"""The number of bits of an HLO type such as bf16 or u32; types without one (pred) take a byte."""

COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\) -> .* \{$")
CALLED = re.compile(r"(?:calls|to_apply|body|true_computation|false_computation)=%?([\w.\-]+)")
BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
COLLECTIVE = re.compile(rf"= (.*?) ({'|'.join(COLLECTIVES)})(-start)?\(")
ARRAY = re.compile(r"\b([a-z]+\d*[a-z0-9]*)\[([\d,]*)\]")


def collectives(text: str) -> dict[str, tuple[int, int]]:
    """The collectives of a compiled program: kind → (number of runs, bytes of the results on one device).

    A loop counts as often as it runs if its condition compares with a constant, as that of a scan does. A collective
    that the compiler splits into several fusions with one channel counts once.

    Args:
      text: the program's HLO text.
    """
    bodies, entry = _computations(text)
    runs = _run_counts(bodies, entry)
    counted: set[tuple[str, str]] = set()
    totals: dict[str, tuple[int, int]] = {}
    for name, lines in bodies.items():
        for line in lines:
            matched = COLLECTIVE.search(line)
            if not matched or not runs.get(name):
                continue
            kind = matched[2]
            channel = re.search(r"channel_id=(\d+)", line)
            key = (kind, channel[1] if channel else line)
            if key in counted:
                continue
            counted.add(key)
            number, total = totals.get(kind, (0, 0))
            # The shape of a started collective lists operands and results, except for all-reduce: only results.
            size = _bytes(matched[1], bool(matched[3]) and kind != "all-reduce")
            totals[kind] = (number + runs[name], total + runs[name] * size)
    return totals


def _computations(text: str) -> tuple[dict[str, list[str]], str]:
    """(name → lines of every computation, the name of the entry computation)."""
    bodies: dict[str, list[str]] = {}
    entry = current = ""
    for line in text.splitlines():
        matched = COMPUTATION.match(line)
        if matched:
            current = matched[2]
            bodies[current] = []
            entry = current if matched[1] else entry
        elif current and line.startswith(" "):
            bodies[current].append(line)
        elif line.startswith("}"):
            current = ""
    return bodies, entry


def _run_counts(bodies: dict[str, list[str]], entry: str) -> dict[str, int]:
    """How often each computation runs; HLO text lists a callee before its callers."""
    runs = dict.fromkeys(bodies, 0) | {entry: 1}
    for name in reversed(list(bodies)):
        for line in bodies[name]:
            callees = CALLED.findall(line)
            for group in BRANCHES.findall(line):
                callees += [part.strip().lstrip("%") for part in group.split(",")]
            times = runs[name] * (_trip_count(bodies, line) if " while(" in line else 1)
            for callee in callees:
                if callee in runs:
                    runs[callee] += times
    return runs


def _trip_count(bodies: dict[str, list[str]], line: str) -> int:
    """How often the loop of an HLO line runs; 1 where that is unknown."""
    known = re.search(r'known_trip_count":\{"n":"(\d+)"', line)
    if known:
        return int(known[1])
    condition = re.search(r"condition=%?([\w.\-]+)", line)
    constants = re.findall(
        r"[su]32\[\]\S* constant\((\d+)\)", "\n".join(bodies.get(condition[1] if condition else "", []))
    )
    return max(map(int, constants), default=1)


def _bytes(shape: str, operands_first: bool) -> int:
    """Bytes of an HLO shape such as 'bf16[2,3]{1,0}', summed over a tuple.

    With `operands_first`, only the second part of (operands, results, …) counts.
    """
    shape = re.sub(r"\{[^{}]*\}|/\*.*?\*/", "", shape)
    if operands_first and shape.startswith("("):
        groups = re.findall(r"\([^()]*\)|[a-z]\w*\[[\d,]*\]", shape[1:-1])
        shape = groups[1] if len(groups) > 1 else shape
    total = 0
    for kind, sides in ARRAY.findall(shape):
        bits = BITS.match(kind)
        total += math.prod(int(side) for side in sides.split(",") if side) * (int(bits[1]) if bits else 8) // 8
    return total
