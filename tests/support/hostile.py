"""What every command owes its user whatever the input: a status, one line, nothing lost, nothing half written."""

import hashlib
import os
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest

from framer_jax import cli


class Outcome(NamedTuple):
    """What a command left: its exit status and what it printed."""

    status: int
    out: str
    err: str


def run(capsys, *arguments: str | Path) -> Outcome:
    """Run a command in this process. An exception is a traceback in the user's console, and fails the test."""
    capsys.readouterr()
    try:
        status = cli.main([str(argument) for argument in arguments])
    except SystemExit as stopped:  # argparse
        status = stopped.code if isinstance(stopped.code, int) else 1
    return Outcome(status, *capsys.readouterr())


def refused(outcome: Outcome, *names: str, status: int = 2) -> str:
    """The one line with which a command refused its input; it must contain all the names."""
    lines = outcome.err.splitlines()
    assert outcome.status == status, outcome
    assert len(lines) == 1, outcome.err
    assert "Traceback" not in outcome.err
    for name in names:
        assert name in lines[0], lines[0]
    return lines[0]


def contents(folder: Path) -> dict[str, str]:
    """Every file below a folder with a digest of its bytes; links by their targets."""
    files = {}
    for path in sorted(Path(folder).rglob("*")):
        name = os.fsencode(path.relative_to(folder)).decode("latin-1")
        if path.is_symlink():
            files[name] = f"-> {os.readlink(path)!r}"
        elif path.is_file():
            files[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return files


def cases(draw: Callable[[random.Random], object], fast: int, slow: int, seed: int = 0) -> Sequence[object]:
    """Parameters for a test of drawn inputs: `fast` cases always and `slow` more under the slow marker.

    Args:
      draw: from a seeded generator to one case, whose `repr` identifies it.
      fast: number of cases of the fast run.
      slow: number of cases that carry the slow marker.
      seed: the generator of case i is seeded with (seed, i), so that a failing case can be run alone.
    """
    drawn = [draw(random.Random(f"{seed}-{index}")) for index in range(fast + slow)]
    return [
        pytest.param(case, marks=pytest.mark.slow if index >= fast else (), id=f"{index}")
        for index, case in enumerate(drawn)
    ]
