"""Compare framer_jax with fixtures of the original PyTorch code.

    python tools/check_parity.py FIXTURE.npz … [--niqe-model niqe_pris_params.npz]

Prints the largest absolute and relative error and the tolerance of every output. Exit status: 0 if all errors are
within their tolerances; 1 if one is not, or if a file has no output to compare; 2 if a file's family is not supported
yet (its name is printed), or if the file cannot be read or lacks an input.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import jax

from tools.parity.cases import INNER, Options, compare, load_case
from tools.parity.families import FAMILIES


def main(command_line: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Compare framer_jax with fixtures of the original code.")
    parser.add_argument("files", nargs="+", metavar="FILE", help="parity fixtures (.npz)")
    parser.add_argument("--niqe-model", help="published pristine model, for the scores that depend on it")
    arguments = parser.parse_args(command_line)
    status = 0
    with jax.default_matmul_precision("highest"):  # the tolerances are those of float32 products
        for file in arguments.files:
            status = max(status, check_file(file, Options(arguments.niqe_model)))
    return status


def check_file(path: str, options: Options) -> int:
    """Print the comparison with one fixture and return the exit status."""
    try:
        case = load_case(path)
    except (FileNotFoundError, ValueError) as error:
        print(error, file=sys.stderr)
        return 2
    if case.family not in FAMILIES:
        known = ", ".join(sorted(FAMILIES))
        print(f"{path}: family {case.family!r} is not supported yet (supported: {known})", file=sys.stderr)
        return 2
    print(f"{path} ({case.family})")
    print(f"  {'output':<40} {'absolute':>10} {'relative':>10} {'tolerance':>10}")
    expected = {name for name in case.arrays if name.startswith(("out/", "grad/", *INNER))}
    compared: set[str] = set()
    failed = False
    try:
        for name, value in FAMILIES[case.family](case, options):
            if name not in expected:
                name = name.replace("hid/", "hidsub/")
            if name not in expected:
                continue
            result = compare(case, name, value)
            compared.add(name)
            failed |= not result.passed
            bound = "equal" if result.tolerance is None else f"{result.tolerance:.1e}"
            mark = "" if result.passed else "  EXCEEDED"
            print(f"  {name:<40} {result.absolute:>10.2e} {result.relative:>10.2e} {bound:>10}{mark}")
    except KeyError as error:
        print(f"{path}: the fixture lacks {error}, which its family needs", file=sys.stderr)
        return 2
    if missing := sorted(expected - compared):
        print(f"  not compared: {', '.join(missing)}")
    if not compared:
        print(f"{path}: nothing was compared: none of its outputs is known to family {case.family!r}", file=sys.stderr)
        return 1
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
