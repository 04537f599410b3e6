"""`framer-jax fit-niqe`: fit the pristine-image model of NIQE to a folder of clean photographs."""

from __future__ import annotations

import argparse

from framer_jax.commands.quiet_option import add_quiet_option
from framer_jax.console import message_console
from framer_jax.evaluation.pristine import fit_niqe


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("folder", help="clean photographs, searched recursively")
    parser.add_argument("output", metavar="OUT.npz", help="file to write; use it with evaluate --niqe-model")
    parser.add_argument(
        "--threshold",
        type=float,
        default=0.75,
        help="smallest sharpness of a block, as a fraction of the largest in its photograph",
    )
    parser.add_argument("--source", help="description of the photographs, stored in the file")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing file")
    add_quiet_option(parser)


def run(arguments: argparse.Namespace) -> int:
    """Fit the model and write it; the exit status is 1 if something was left out."""
    metadata = fit_niqe(
        arguments.folder,
        arguments.output,
        threshold=arguments.threshold,
        source=arguments.source,
        overwrite=arguments.overwrite,
        console=message_console(arguments.quiet),
    )
    left_out = metadata["photos_left_out"]
    facts = {**metadata, "photos_left_out": len(left_out)}
    print(f"{arguments.output}: " + ", ".join(f"{key} {value}" for key, value in facts.items()))
    print("".join(f"  left out: {item}\n" for item in left_out), end="")
    return int(bool(left_out))
