"""The option --shard: one of several parts of a job, for job arrays."""

from __future__ import annotations

import argparse
import re

ALL = "0/1"
"""The shard that is all of them."""


def add_shard_option(parser: argparse.ArgumentParser, what: str) -> None:
    """Declare the argument; `what` says what a part is."""
    parser.add_argument("--shard", default=ALL, metavar="I/N", help=what)


def parse_shard(text: str) -> tuple[int, int]:
    """'I/N' as two numbers, 0 <= I < N.

    Raises:
      ValueError: it is not such a pair.
    """
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    if not match or int(match[1]) >= int(match[2]):
        raise ValueError(f"--shard must be I/N with 0 <= I < N, such as 0/4; got {text!r}")
    return int(match[1]), int(match[2])
