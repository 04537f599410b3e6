"""`framer-jax precompute`: outputs of frozen models for a training set, computed once and written to disk.

There is one file per kind, and `work.py` for what they share. All of them continue after an interruption and can be
split into shards.
"""

from __future__ import annotations

import argparse

from framer_jax.commands.engine_option import ShardedCommand, run_sharded
from framer_jax.commands.precompute import captions, embeddings, latents, teacher, work
from framer_jax.commands.quiet_option import add_quiet_option

KINDS = {
    "teacher": (teacher, "degraded crops with the outputs of the recipe's teacher"),
    "captions": (captions, "a caption of each photograph, by an image-to-text model of transformers"),
    "embeddings": (embeddings, "embeddings of captions, or of one text, by the text encoders of Stable Diffusion 3"),
    "latents": (latents, "degraded crops in an autoencoder's latents"),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of every kind."""
    kinds = parser.add_subparsers(dest="what", required=True, metavar="KIND")
    for name, (module, summary) in KINDS.items():
        kind = kinds.add_parser(name, help=summary, description=summary)
        module.add_arguments(kind)
        add_quiet_option(kind)


def run(arguments: argparse.Namespace) -> int:
    """Compute, write, report."""
    kind = KINDS[arguments.what][0]
    command = ShardedCommand(kind.check, kind.compute, work.merge, kind.report)
    one_text = arguments.what == "embeddings" and not arguments.captions
    return run_sharded(arguments, command, {"one text has no shards: omit it for --text and --null": one_text})
