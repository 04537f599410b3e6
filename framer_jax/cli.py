"""The command line: `framer-jax COMMAND …`. Each command lies in framer_jax.commands, imported when it is used."""

from __future__ import annotations

import argparse
import importlib
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from framer_jax.version import __version__

COMMANDS = {
    "train": "train a recipe from a configuration file, or resume it",
    "upscale": "upscale photographs with a trained model (the shipped starter by default)",
    "degrade": "make low-resolution photographs from a folder of good ones, every image its own degradation",
    "evaluate": "score a folder of pictures against references, with confidence intervals",
    "precompute": "write to disk, once, what frozen models say of the training photographs: teacher, captions, latents",
    "port": "carry published weights over from PyTorch, or ours to PyTorch",
    "fit-niqe": "make NIQE's pristine-image parameters from a folder of clean photographs",
    "info": "say what is installed, which devices there are, and what a model or configuration holds",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status.

    Errors that a person can mend are one line on standard error and status 2; anything else is a bug and shows its
    traceback.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    parser = argparse.ArgumentParser(prog="framer-jax", description="Image super-resolution with diffusion priors.")
    parser.add_argument("--version", action="version", version=f"framer_jax {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, summary in COMMANDS.items():
        command = commands.add_parser(name, help=summary, description=summary)
        if words[:1] == [name]:  # heavy imports only for the command that runs
            importlib.import_module(_module(name)).add_arguments(command)
    parsed = parser.parse_args(words)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    _keep_compiled_programs()
    try:
        return importlib.import_module(_module(parsed.command)).run(parsed)
    except (ValueError, OSError, ArithmeticError, ImportError) as error:
        if os.environ.get("FRAMER_JAX_TRACEBACK"):
            raise
        text = " ".join(line.strip() for line in str(error).splitlines())  # a library's message may have several lines
        print(f"framer-jax {parsed.command}: {text}", file=sys.stderr)
        return 2


def _module(command: str) -> str:
    return f"framer_jax.commands.{command.replace('-', '_')}"


def _keep_compiled_programs() -> None:
    """Compiled programs survive the process, unless the user (or the host program) has said where or that not."""
    import jax

    given = jax.config.jax_compilation_cache_dir  # type: ignore[attr-defined]
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ and not given:
        cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "framer_jax" / "compiled"
        jax.config.update("jax_compilation_cache_dir", str(cache))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


if __name__ == "__main__":
    sys.exit(main())
