"""The option --quiet of every command that takes long."""

from __future__ import annotations

import argparse


def add_quiet_option(parser: argparse.ArgumentParser) -> None:
    """Declare the argument; framer_jax.console.message_console and framer_jax.progress do the rest."""
    parser.add_argument("--quiet", action="store_true", help="no progress and no messages, but results and errors")
