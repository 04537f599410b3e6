"""The option --set of the commands that read a configuration."""

from __future__ import annotations

import argparse


def add_override_option(parser: argparse.ArgumentParser, what: str = "override one knob", default: bool = True) -> None:
    """Declare --set.

    Args:
      parser: the command's parser.
      what: what it does, for the help text.
      default: whether the value without the option is an empty list, rather than None.
    """
    parser.add_argument(
        "--set",
        dest="overrides",
        action="append",
        default=[] if default else None,
        metavar="KEY=VALUE",
        help=f"{what}; repeatable",
    )
