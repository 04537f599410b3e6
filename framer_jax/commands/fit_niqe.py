"""`framer-jax fit-niqe`: pristine-image parameters for NIQE from a folder of clean photographs."""

from __future__ import annotations

import argparse

from framer_jax.evaluation.pristine import fit_niqe


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("folder", help="clean photographs, searched recursively")
    parser.add_argument("output", metavar="OUT.npz", help="file to write; use it with evaluate --niqe-model")
    parser.add_argument("--threshold", type=float, default=0.75, help="of sharpness, fraction of a photo's largest")
    parser.add_argument("--source", help="a sentence about the photographs, kept in the file")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing file")


def run(arguments: argparse.Namespace) -> int:
    """Fit and write."""
    metadata = fit_niqe(
        arguments.folder,
        arguments.output,
        threshold=arguments.threshold,
        source=arguments.source,
        overwrite=arguments.overwrite,
    )
    print(f"{arguments.output}: " + ", ".join(f"{key} {value}" for key, value in metadata.items()))
    return 0
