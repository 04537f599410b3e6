"""`framer-jax doctor`: what is there, what is missing, what is broken, and the command that mends it."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import textwrap
from collections import Counter

from framer_jax.commands.doctor_checks import BROKEN, MISSING, NOTE, OK, Finding, findings

NAME_WIDTH = 26


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(arguments: argparse.Namespace) -> int:
    """Print the findings; the exit status is 1 if something is broken."""
    listed = []
    width = shutil.get_terminal_size((120, 24)).columns if sys.stdout.isatty() else None
    for finding in findings():
        listed.append(finding)
        if not arguments.json:  # as they come: some imports take long
            print(as_text(finding, width), flush=True)
    counts = Counter(finding.state for finding in listed)
    if arguments.json:
        print(json.dumps({"healthy": not counts[BROKEN], "findings": [each._asdict() for each in listed]}, indent=1))
    else:
        states = ", ".join(f"{counts[state]} {state}" for state in (OK, NOTE, MISSING, BROKEN) if counts[state])
        needed = "nothing needs to be mended" if not counts[BROKEN] else "mend what is broken with the commands above"
        print(f"\n{states}: {needed}")
    return int(bool(counts[BROKEN]))


def as_text(finding: Finding, width: int | None) -> str:
    """A finding in lines, wrapped between words at a width; None for no wrapping."""
    start = f"{finding.state:<8} {finding.name:<{NAME_WIDTH}} "
    indent = " " * len(start)
    lines = [f"{start}{finding.detail}", *([f"{indent}-> {finding.remedy}"] if finding.remedy else [])]
    if width is None or width < 60:
        return "\n".join(lines)
    wrapped = [
        textwrap.fill(line, width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)
        for line in lines
    ]
    return "\n".join(wrapped)
